package cli

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is the commit, which `make binaries` sets through the linker.
var version string

// Version returns the commit or the module version that the program was built from.
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

// versionTemplate returns the output of --version as a template of cobra.
func versionTemplate(asJSON bool) string {
	if asJSON {
		return `{"version":"{{.Version}}"}` + "\n"
	}
	return "{{.Name}} {{.Version}}\n"
}

func newVersion(name string) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  " + name + " version",
		Args:    Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return Print(cmd, map[string]string{"version": Version()}, fmt.Sprintln(name, Version()))
		},
	}
}
