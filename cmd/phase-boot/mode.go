package main

import (
	"strings"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/modes"
)

// modeUsage lists the values of --mode.
func modeUsage() string {
	return "one of " + strings.Join(modes.Names(), ", ") + ", or a file NAME.json"
}

// loadMode returns a shipped mode by its name, or the mode of a file.
func loadMode(value string) (modes.Mode, error) {
	load := modes.Load
	if strings.HasSuffix(value, ".json") {
		data, err := cli.ReadInput(value, "boot mode", modes.MaxFile)
		if err != nil {
			return modes.Mode{}, err
		}
		load = func(path string) (modes.Mode, error) { return modes.ParseFile(path, data) }
	}
	m, err := load(value)
	if err != nil {
		return m, cli.Usagef("--mode: %v", err)
	}
	return m, nil
}
