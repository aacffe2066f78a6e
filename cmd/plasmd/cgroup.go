package main

import (
	"log/slog"

	"github.com/phaseboot/phaseboot/plasm"
)

// cgroups returns the control groups of jobs, or nil without a delegation.
func cgroups(log *slog.Logger) *plasm.Cgroups {
	groups, err := plasm.OpenCgroups()
	if err != nil {
		log.Info("no control groups: resource limits bound the memory and the processor time of a job; a systemd unit with Delegate=cpu memory pids has control groups", "cause", err)
	}
	return groups
}
