package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/modes"
)

// modeFlag names files with boot modes.
type modeFlag []string

func (f *modeFlag) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar((*[]string)(f), "mode", nil, "file NAME.json with one more boot mode, which gets an entry in the boot menu; repeatable")
	if err := cmd.MarkFlagFilename("mode", "json"); err != nil {
		panic(err) // cannot happen: the flag is defined above
	}
}

// read returns the shipped modes and those of the files.
func (f modeFlag) read() (set modes.Set, err error) {
	for _, name := range f {
		data, err := cli.ReadInput(name, "boot mode", modes.MaxFile)
		if err != nil {
			return set, err
		}
		if set, err = set.Add(name, data); err != nil {
			return set, cli.Usagef("--mode: %v", err)
		}
	}
	return set, nil
}

// completeModes gives the shell the names of the shipped modes and of the files of --mode that stand before.
func completeModes(cmd *cobra.Command, flag string, files *modeFlag) {
	names := func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		list := modes.Names()
		for _, f := range *files {
			list = append(list, strings.TrimSuffix(filepath.Base(f), ".json"))
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, names); err != nil {
		panic(err) // cannot happen: the flag was defined before
	}
}
