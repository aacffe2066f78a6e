package cli

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is the commit's name, which `make binaries` gives the linker.
var version string

// Version is what the program was built from: the commit, or a module version.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && info.Main.Version == "(devel)" {
			return s.Value
		}
	}
	return info.Main.Version
}

// versionTemplate is what --version prints, as cobra wants it.
func versionTemplate(asJSON bool) string {
	if asJSON {
		return `{"version":"{{.Version}}"}` + "\n"
	}
	return "{{.Name}} {{.Version}}\n"
}

// newVersion is a verb that every command has.
func newVersion(name string) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Say which version this is",
		Example: "  " + name + " version",
		Args:    Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Version string `json:"version"`
			}{Version()}
			return Print(cmd, v, fmt.Sprintln(name, v.Version))
		},
	}
}
