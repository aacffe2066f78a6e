package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// newMan returns the hidden command that writes the man pages for make install.
func newMan(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:    "man FOLDER",
		Short:  "Write the man pages into a folder",
		Hidden: true,
		Args:   Args(cobra.ExactArgs(1)),
		RunE:   func(_ *cobra.Command, args []string) error { return writeMan(root, args[0]) },
	}
}

// writeMan writes a page for a command and for each command below it.
func writeMan(cmd *cobra.Command, dir string) error {
	name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
	if err := os.WriteFile(filepath.Join(dir, name+".1"), []byte(manPage(cmd, name)), 0o644); err != nil {
		return err
	}
	for _, c := range verbs(cmd) {
		if err := writeMan(c, dir); err != nil {
			return err
		}
	}
	return nil
}

// verbs returns the commands directly below cmd that have a page.
func verbs(cmd *cobra.Command) []*cobra.Command {
	var list []*cobra.Command
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" && c.Name() != "completion" {
			list = append(list, c)
		}
	}
	return list
}

// manPage returns the page of one command in man(7) format, with the texts of its --help.
func manPage(cmd *cobra.Command, name string) string {
	var w strings.Builder
	fmt.Fprintf(&w, ".TH %s 1\n.SH NAME\n%s \\- %s\n", strings.ToUpper(roff(name)), roff(name), roff(cmd.Short))
	fmt.Fprintf(&w, ".SH SYNOPSIS\n.nf\n%s\n.fi\n", roff(synopsis(cmd)))
	if cmd.Long != "" {
		fmt.Fprintf(&w, ".SH DESCRIPTION\n%s\n", strings.ReplaceAll(roff(cmd.Long), "\n\n", "\n.PP\n"))
	}
	if flags := cmd.LocalFlags().FlagUsages() + cmd.InheritedFlags().FlagUsages(); flags != "" {
		fmt.Fprintf(&w, ".SH OPTIONS\n.nf\n%s.fi\n", roff(flags))
	}
	if cmd.Example != "" {
		fmt.Fprintf(&w, ".SH EXAMPLES\n.nf\n%s\n.fi\n", roff(cmd.Example))
	}
	fmt.Fprintf(&w, ".SH EXIT STATUS\n%s\n", roff("0 done, 1 failed, 2 usage, 3 untrusted, 4 not found or unreachable, 5 corrupt, 130 interrupted."))
	if also := seeAlso(cmd); also != "" {
		fmt.Fprintf(&w, ".SH SEE ALSO\n%s\n", also)
	}
	return w.String()
}

func synopsis(cmd *cobra.Command) string {
	if cmd.Runnable() && len(verbs(cmd)) == 0 {
		return cmd.UseLine()
	}
	return cmd.CommandPath() + " COMMAND"
}

func seeAlso(cmd *cobra.Command) string {
	var pages []string
	add := func(c *cobra.Command) {
		pages = append(pages, roff(strings.ReplaceAll(c.CommandPath(), " ", "-"))+"(1)")
	}
	if cmd.HasParent() {
		add(cmd.Parent())
	}
	for _, c := range verbs(cmd) {
		add(c)
	}
	return strings.Join(pages, ", ")
}

// roff escapes the characters with a meaning in man(7).
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
