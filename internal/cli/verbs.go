package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// strictCompletion makes cobra's completion command return an error for an unknown shell.
func strictCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	completion := child(root, "completion")
	if completion == nil {
		return
	}
	completion.Args = cobra.ArbitraryArgs
	completion.RunE = func(cmd *cobra.Command, args []string) error {
		var shells []string
		for _, c := range cmd.Commands() {
			shells = append(shells, c.Name())
		}
		known := strings.Join(shells, ", ")
		if len(args) == 0 {
			return Usagef("completion: name a shell: %s", known)
		}
		return Usagef("completion: shell %.40q: unknown%s; it is one of %s", args[0], Suggest(args[0], shells), known)
	}
}

// strictHelp makes cobra's help command return an error for an unknown command.
func strictHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help := child(root, "help")
	if help == nil {
		return
	}
	show := help.Run
	help.RunE = func(cmd *cobra.Command, args []string) error {
		found, rest, _ := cmd.Root().Find(args)
		if len(rest) > 0 {
			return unknownVerb(found, rest[0])
		}
		show(cmd, args)
		return nil
	}
}

func child(cmd *cobra.Command, name string) *cobra.Command {
	list := cmd.Commands()
	if i := slices.IndexFunc(list, func(c *cobra.Command) bool { return c.Name() == name }); i >= 0 {
		return list[i]
	}
	return nil
}
