package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/cli"
)

type fileCID struct {
	CID  string `json:"cid"`
	File string `json:"file"`
	Size int64  `json:"size"`
}

func newCID() *cobra.Command {
	var chunker string
	cmd := &cobra.Command{
		Use:   "cid FILE …",
		Short: "Print the CID of each file; nothing is stored",
		Example: `  phase-sign cid vmlinuz initramfs
  phase-sign cid --chunker size-1048576 rootfs.squashfs   # what 'ipfs add' computes`,
		Args: cli.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			if err := cas.CheckChunker(chunker); err != nil {
				return cli.Usagef("%v", err)
			}
			return printCIDs(cmd, files, chunker)
		},
	}
	chunkerFlag(cmd, &chunker)
	return cmd
}

func printCIDs(cmd *cobra.Command, files []string, chunker string) error {
	var words strings.Builder
	result := struct {
		Chunker string    `json:"chunker"`
		Files   []fileCID `json:"files"`
	}{Chunker: chunker}
	progress := cli.NewProgress(cmd.Context())
	defer progress.Close()
	for _, path := range files {
		f, err := cidOf(cmd, progress, path, chunker)
		if err != nil {
			return err
		}
		result.Files = append(result.Files, f)
		fmt.Fprintf(&words, "%s  %s\n", f.CID, path)
	}
	progress.Close()
	return cli.Print(cmd, result, words.String())
}

func cidOf(cmd *cobra.Command, progress *cli.Progress, path, chunker string) (fileCID, error) {
	in, err := cli.OpenInput(path, "file")
	if err != nil {
		return fileCID{}, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return fileCID{}, err
	}
	r := progress.Watch(path, info.Size(), in)
	defer r.Close()
	defer context.AfterFunc(cmd.Context(), func() { in.Close() })() // reading a pipe may block for ever
	f, err := cas.FileCID(cmd.Context(), r, chunker)
	if err != nil {
		return fileCID{}, errors.Join(cmd.Context().Err(), fmt.Errorf("file %s: %w", path, err))
	}
	return fileCID{f.CID.String(), path, f.Size}, nil
}

func chunkerFlag(cmd *cobra.Command, chunker *string) {
	cmd.Flags().StringVar(chunker, "chunker", cas.DefaultChunker, "size-N or NAME-MIN-AVG-MAX, in bytes")
}
