package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// Main runs a root command until it ends or SIGINT or SIGTERM arrives, prints an error as one line
// on stderr and returns the exit code. A second signal ends the process at once.
func Main(root *cobra.Command) int {
	ctx, stop := Interruptible()
	defer stop()
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.SetFlagErrorFunc(flagError)
	root.PersistentFlags().Bool("json", false, "print the result as one JSON object, and an error as another on stderr")
	root.Version = Version()
	root.SetVersionTemplate(versionTemplate(WantsJSON(os.Args[1:])))
	root.Flags().Bool("version", false, "print which version this is")
	root.AddCommand(newVersion(root.Name()), newMan(root))
	strictCompletion(root)
	strictHelp(root)
	started := false
	noteStart(root, &started)
	ran, err := root.ExecuteContextC(ctx)
	if err != nil && !started && !errors.Is(err, ErrUsage) { // an error of cobra: unknown command, required flag, flag group
		err = fromCobra(ran, err)
	}
	if err != nil && ctx.Err() != nil && !errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%w: %w", context.Canceled, err)
	}
	Report(os.Stderr, root.Name(), err, JSON(ran) || WantsJSON(os.Args[1:]))
	return Code(err)
}

// noteStart makes the RunE of cmd and of all commands below it set *started.
func noteStart(cmd *cobra.Command, started *bool) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return run(cmd, args)
		}
	}
	for _, c := range cmd.Commands() {
		noteStart(c, started)
	}
}

// unknownCommand matches the error of cobra for an unknown command below the root.
var unknownCommand = regexp.MustCompile(`^unknown command "(.*?)" for `)

// fromCobra converts an error of cobra into a usage error with our text.
func fromCobra(cmd *cobra.Command, err error) error {
	line, _, _ := strings.Cut(err.Error(), "\n") // the rest is advice
	if typed := unknownCommand.FindStringSubmatch(line); typed != nil {
		return unknownVerb(cmd, typed[1])
	}
	return Usagef("%s; see '%s --help'", groupText(line), cmd.CommandPath())
}

// Group makes cmd the parent of verbs. Any other argument is a usage error.
func Group(cmd *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(verbs...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return Usagef("%s: a command is missing; see '%s --help'", cmd.Name(), cmd.CommandPath())
		}
		return unknownVerb(cmd, args[0])
	}
	return cmd
}

// Usagef is an error with exit code 2.
func Usagef(format string, args ...any) error {
	return usageError{fmt.Sprintf(format, args...)}
}

type usageError struct{ msg string }

func (e usageError) Error() string        { return e.msg }
func (e usageError) Is(target error) bool { return target == ErrUsage }

// Args wraps a check of positional arguments: its error becomes a usage error that shows the
// synopsis of the command.
func Args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return Usagef("%s; write %s; see '%s --help'", argsText(args), cmd.UseLine(), cmd.CommandPath())
		}
		return nil
	}
}

// argsText returns the text for positional arguments that were refused.
func argsText(args []string) string {
	if len(args) == 0 {
		return "an argument is missing"
	}
	return fmt.Sprintf("unexpected argument %.80q", args[len(args)-1])
}

// JSON reports whether the command has --json.
func JSON(cmd *cobra.Command) bool {
	on, err := cmd.Flags().GetBool("json")
	return err == nil && on
}

// Print writes a result to stdout: v as one JSON object with --json, text otherwise.
func Print(cmd *cobra.Command, v any, text string) error {
	if !JSON(cmd) {
		_, err := io.WriteString(cmd.OutOrStdout(), text)
		return err
	}
	return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
}
