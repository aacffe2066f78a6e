package main

import (
	"log/slog"

	"github.com/phaseboot/phaseboot/plasm"
)

// cgroups returns the control groups of jobs, or nil without a delegation.
func cgroups(log *slog.Logger) *plasm.Cgroups {
	groups, err := plasm.OpenCgroups()
	if err != nil {
		log.Info("no control groups: a job has resource limits only", "cause", err)
	}
	return groups
}
