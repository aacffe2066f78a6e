package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

// writeFlags select the image and the device.
type writeFlags struct {
	image, device, root string
	yes, allowFixed     bool
}

func writeCommand() *cobra.Command {
	var f writeFlags
	cmd := &cobra.Command{
		Use:   "write [F.img DEVICE]",
		Short: "Write an image to a whole device and read it back",
		Long: `Write a disk image to a block device and read it back. Everything on the device is lost.

Without a device, it lists the removable ones. It refuses a device that is mounted, has a part
of the running system, belongs to LVM, RAID or an open dm-crypt, is write-protected or too
small, and, without --allow-fixed, one that is not removable.

It verifies the image first, as phase-image verify does. Then it shows the device and asks for
its name; without a terminal it needs --yes. Blocks of zeros are written only where the device
has other bytes. The partition table is written last, when all else was read back, so a device
whose writing was interrupted or went wrong does not boot; writing it again repairs it. What is
read back comes from the device, not from the page cache.`,
		Example: `  phase-image write
  phase-image write stick.img /dev/sdX
  phase-image write --yes --root root.json --image stick.img --device /dev/sdX`,
		Args: cli.Args(cobra.MaximumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.takeArgs(args); err != nil {
				return err
			}
			return f.run(cmd)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return []string{"img"}, cobra.ShellCompDirectiveFilterFileExt
			}
			return devicePaths(), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().StringVar(&f.image, "image", "", "disk image to write, or the first argument")
	cmd.Flags().StringVar(&f.device, "device", "", "whole device to overwrite, or the second argument")
	cmd.Flags().StringVar(&f.root, "root", "", "root.json that the image must contain; exit code 3 if it differs")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "overwrite the device without a question")
	cmd.Flags().BoolVar(&f.allowFixed, "allow-fixed", false, "allow a device that is not removable")
	err := cmd.RegisterFlagCompletionFunc("device", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return devicePaths(), cobra.ShellCompDirectiveNoFileComp
	})
	if err = errors.Join(err, cmd.MarkFlagFilename("image", "img"), cmd.MarkFlagFilename("root", "json")); err != nil {
		panic(err) // cannot happen: the flags are defined above
	}
	return cmd
}

// takeArgs fills the flags that were not given from the arguments, in the order image, device.
func (f *writeFlags) takeArgs(args []string) error {
	for _, to := range []*string{&f.image, &f.device} {
		if *to == "" && len(args) > 0 {
			*to, args = args[0], args[1:]
		}
	}
	if len(args) > 0 {
		return cli.Usagef("unexpected argument %.80q; name one image and one device", args[0])
	}
	return nil
}

func (f *writeFlags) run(cmd *cobra.Command) error {
	switch {
	case f.image == "" && f.device == "":
		return listDevices(cmd)
	case f.image == "":
		return cli.Usagef("no image is named; write --image F.img")
	case f.device == "":
		list, err := imagebuild.Devices()
		if err != nil {
			return err
		}
		if !cli.JSON(cmd) && len(list) > 0 {
			fmt.Fprint(cmd.ErrOrStderr(), devicesText(list))
		}
		if len(list) == 0 {
			return cli.Usagef("no device is named, and no removable one is there; plug a stick in")
		}
		return cli.Usagef("no device is named; add --device and one of: %s", pathsText(list))
	}
	return f.write(cmd)
}

func (f *writeFlags) write(cmd *cobra.Command) error {
	terminal := term.IsTerminal(int(os.Stdin.Fd())) && !cli.JSON(cmd)
	var root []byte
	var err error
	if f.root != "" {
		if root, err = cli.ReadMetadata(f.root, "root", manifest.KindRoot, "the root.json of the repository"); err != nil {
			return err
		}
	}
	b, err := imagebuild.New(imagebuild.Options{Progress: cmd.ErrOrStderr()})
	if err != nil {
		return err
	}
	w, err := b.PrepareWrite(cmd.Context(), f.image, f.device, f.allowFixed)
	if err != nil {
		return err
	}
	defer w.Close()
	if root != nil {
		if err := w.Image.CompareRoot(root); err != nil {
			return err
		}
	}
	switch {
	case f.yes:
	case !terminal:
		return cli.Usagef("device %s: everything on it would be lost; add --yes, because there is no terminal to ask at", w.Device.Path)
	default:
		if err := ask(cmd.Context(), cmd.ErrOrStderr(), os.Stdin, w); err != nil {
			return err
		}
	}
	return runWrite(cmd, w)
}

// ask shows image and device, and returns an error unless the answer is the name of the device.
func ask(ctx context.Context, out io.Writer, in io.Reader, w *imagebuild.Write) error {
	name := w.Device.Name()
	fmt.Fprintf(out, "%s: verified%s\n%sEverything on %s will be lost. Type %s to write it: ",
		w.Image.Image, trustText(w.Image), devicesText([]imagebuild.Device{w.Device}), w.Device.Path, name)
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(io.LimitReader(in, 256)).ReadString('\n') // the end of the input is an empty answer
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(out)
		return fmt.Errorf("nothing is written: %w", ctx.Err())
	case given := <-answer:
		if given != name && given != w.Device.Path {
			return fmt.Errorf("nothing is written: the answer was %.40q, not %s", given, name)
		}
	}
	return nil
}

func trustText(c *imagebuild.Contents) string {
	if c.RootSum == "" {
		return ""
	}
	return fmt.Sprintf("%s, root.json sha256 %s", channelText(c), c.RootSum)
}

// A writeResult is the result of write as JSON.
type writeResult struct {
	imagebuild.Device
	Image  string `json:"image"`
	Bytes  int64  `json:"image_size"`
	Sent   int64  `json:"written"` // bytes that were sent to the device
	SHA256 string `json:"sha256"`  // of the image, and of what was read back
}

func runWrite(cmd *cobra.Command, w *imagebuild.Write) error {
	path := w.Device.Path
	progress := cli.NewProgress(cmd.Context())
	sent, err := w.Run(cmd.Context(), progress.Bytes("write "+path), progress.Bytes("read back "+path))
	progress.Close()
	if err != nil {
		return err
	}
	size := w.Image.Size
	return cli.Print(cmd, writeResult{w.Device, w.Image.Image, size, sent, w.Image.SHA256},
		fmt.Sprintf("%s: %s, written (%s without zeros) and read back\n", path, humanize.IBytes(uint64(size)), humanize.IBytes(uint64(sent))))
}

func listDevices(cmd *cobra.Command) error {
	list, err := imagebuild.Devices()
	if err != nil {
		return err
	}
	return cli.Print(cmd, map[string]any{"devices": list}, devicesText(list))
}

func devicesText(list []imagebuild.Device) string {
	var b strings.Builder
	for _, d := range list {
		fmt.Fprintf(&b, "%-12s %9s  %-6s %s", d.Path, humanize.IBytes(uint64(d.Size)), d.Bus, printable(d.Model, 60))
		if d.Serial != "" {
			fmt.Fprintf(&b, ", serial %s", printable(d.Serial, 40))
		}
		if d.ReadOnly {
			b.WriteString(", write-protected")
		}
		if len(d.Mounted) > 0 {
			fmt.Fprintf(&b, ", mounted at %s", printable(strings.Join(d.Mounted, ", "), 120))
		}
		b.WriteByte('\n')
	}
	if len(list) == 0 {
		return "no removable device found; plug a stick in, or name a fixed disk with --allow-fixed\n"
	}
	return b.String()
}

func pathsText(list []imagebuild.Device) string {
	var paths []string
	for _, d := range list {
		paths = append(paths, d.Path)
	}
	return strings.Join(paths, ", ")
}

func devicePaths() []string {
	list, _ := imagebuild.Devices()
	var words []string
	for _, d := range list {
		words = append(words, fmt.Sprintf("%s\t%s %s", d.Path, humanize.IBytes(uint64(d.Size)), printable(d.Model, 60)))
	}
	return words
}
