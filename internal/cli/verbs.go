package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// strictCompletion makes cobra's completion command return an error for an unknown shell.
func strictCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	completion, _, _ := root.Find([]string{"completion"})
	completion.Args = cobra.ArbitraryArgs
	completion.RunE = func(cmd *cobra.Command, args []string) error {
		shells := commandNames(cmd)
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
	help, _, _ := root.Find([]string{"help"})
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

// commandNames lists the commands directly below cmd, without hidden ones.
func commandNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}
