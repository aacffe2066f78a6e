package cli

import (
	"errors"
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Suggest returns ` (did you mean "NAME"?)` for the name nearest to the typed one, or "" if none is
// near: at most one mistake for every three letters, but at least one. Leading dashes of flags are
// not compared.
func Suggest(typed string, names []string) string {
	bare := strings.TrimLeft(typed, "-")
	best, least := "", max(1, len(bare)/3)+1
	for _, name := range names {
		want := strings.TrimLeft(name, "-")
		if d := distance(bare, want); d < least && d < len(want) && d < len(bare) {
			best, least = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance returns the edit distance of a and b with transpositions (optimal string alignment).
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

// unknownVerb returns the usage error for a command that does not exist below cmd.
func unknownVerb(cmd *cobra.Command, typed string) error {
	return Usagef("unknown command %.40q for %q%s; see '%s --help'", typed, cmd.CommandPath(), Suggest(typed, commandNames(cmd)), cmd.CommandPath())
}

// flagError returns the usage error for a wrong flag. If cmd has subcommands and the first argument is
// none of them, the error is about that argument: its flags are unknown for the same reason.
func flagError(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return unknownVerb(cmd, args[0])
	}
	text := err.Error()
	var unknown *pflag.NotExistError
	var value *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		text = unknownFlag(cmd.Flags(), unknown)
	case errors.As(err, &value):
		text = valueText(value.GetFlag().Name, value.GetValue(), value.GetFlag().Value.Type(), value.Unwrap())
	}
	return Usagef("%s; see '%s --help'", text, cmd.CommandPath())
}

// unknownFlag returns the text for an unknown flag, with the flag nearest to it. An argument with one
// dash is treated as a name too, as no command has short flags except -h.
func unknownFlag(set *pflag.FlagSet, err *pflag.NotExistError) string {
	var names []string
	set.VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
	if letters := err.GetSpecifiedShortnames(); letters != "" {
		name, _, _ := strings.Cut(letters, "=")
		if set.Lookup(name) != nil {
			return fmt.Sprintf("unknown flag: -%.40s; write --%s, with two dashes", name, name)
		}
		return fmt.Sprintf("unknown flag: -%.40s%s", name, Suggest("--"+name, names))
	}
	return fmt.Sprintf("unknown flag: --%.40s%s", err.GetSpecifiedName(), Suggest("--"+err.GetSpecifiedName(), names))
}

var (
	undefinedFlag = regexp.MustCompile(`^flag provided but not defined: --?(.*)$`)
	invalidValue  = regexp.MustCompile(`^invalid (?:boolean )?value "(.*)" for (?:flag )?-(\S+): (.*)$`)
)

// StdFlag converts the error of a flag set of the standard library into the text that cobra commands
// have for it.
func StdFlag(set *flag.FlagSet, err error) error {
	if found := invalidValue.FindStringSubmatch(err.Error()); found != nil {
		if kind := stdKind(set.Lookup(found[2])); kind != "" {
			return errors.New(valueText(found[2], found[1], kind, errors.New(found[3])))
		}
	}
	found := undefinedFlag.FindStringSubmatch(err.Error())
	if found == nil {
		return errors.New(strings.NewReplacer(" for flag -", " for --", "argument: -", "argument: --").Replace(err.Error()))
	}
	var names []string
	set.VisitAll(func(f *flag.Flag) { names = append(names, "--"+f.Name) })
	return fmt.Errorf("unknown flag: --%.40s%s", found[1], Suggest("--"+found[1], names))
}

// stdKind returns the kind of a standard library flag as pflag names it, or "" for other types.
func stdKind(f *flag.Flag) string {
	get, ok := f.Value.(flag.Getter)
	if !ok {
		return ""
	}
	switch get.Get().(type) {
	case int, int64, uint, uint64:
		return "int"
	case bool:
		return "bool"
	case time.Duration:
		return "duration"
	}
	return ""
}

// WantsJSON reports whether arguments contain --json, even if others of them are wrong.
func WantsJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.ContainsFunc(args, func(a string) bool {
		return a == "--json" || a == "-json" || a == "--json=true" || a == "-json=true"
	})
}
