package cli

import (
	"errors"
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Suggest returns ` (did you mean "NAME"?)` for the name that is most like what was
// typed, or "" when none is.
func Suggest(typed string, names []string) string {
	best, least := "", len(typed)/3+2
	for _, name := range names {
		if d := distance(typed, name); d < least && d < len(name) {
			best, least = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance is the number of letters to insert, delete, replace or swap with their
// neighbour to turn a into b (optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// unknownVerb refuses a verb that cmd does not have.
func unknownVerb(cmd *cobra.Command, typed string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return Usagef("unknown command %.40q for %q%s; see '%s --help'", typed, cmd.CommandPath(), Suggest(typed, names), cmd.CommandPath())
}

// badFlag says what is wrong with a flag. Where a verb is expected and what stands there
// is none, it is the verb that is wrong: its flags are unknown for that reason.
func badFlag(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return unknownVerb(cmd, args[0])
	}
	hint := ""
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
		hint = Suggest("--"+unknown.GetSpecifiedName(), names)
	}
	return Usagef("%v%s; see '%s --help'", err, hint, cmd.CommandPath())
}

var undefinedFlag = regexp.MustCompile(`^flag provided but not defined: --?(.*)$`)

// StdFlag puts the refusal of a stdlib flag set into the words of the other commands.
func StdFlag(set *flag.FlagSet, err error) error {
	found := undefinedFlag.FindStringSubmatch(err.Error())
	if found == nil {
		return errors.New(strings.Replace(err.Error(), " for flag -", " for --", 1))
	}
	var names []string
	set.VisitAll(func(f *flag.Flag) { names = append(names, "--"+f.Name) })
	return fmt.Errorf("unknown flag: --%.40s%s", found[1], Suggest("--"+found[1], names))
}

// WantsJSON reports whether the arguments of a command ask for --json, whatever else is
// wrong with them.
func WantsJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.ContainsFunc(args, func(a string) bool {
		return a == "--json" || a == "-json" || a == "--json=true" || a == "-json=true"
	})
}
