package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/imagebuild/attest"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

// verifyFlags select what an image is compared with.
type verifyFlags struct {
	root, repo string
	rebuild    bool
	again      rebuildFlags
	attestationFlags
}

func verifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify IMAGE|DEVICE",
		Short: "Check an image and show its content",
		Long: `Read an image as firmware, boot loader and kernel do, and refuse everything that they could
interpret in another way: a second archive, a second initrd line, another file or
partition, a repeated name, an entry in a mode that the image does not have. Then sgdisk,
fsck.fat and e2fsck check the partition table and both filesystems. The output shows the boot
menu, the digests, and the keys that the machine trusts.

IMAGE is made by usb, iso, qcow2, vmdk, vhdx, parallels, esp, uki or initramfs; DEVICE is one
that an image was written to. --root compares the root.json. --rebuild builds the image again
from the packages that it lists, and compares it; without it, only the digests of loader, kernel
and init are shown. --attestation reads statements of people who did that (phase-image rebuild
--sign); --rebuilder names their keys, and --threshold how many of them must have signed.
--repo compares the renewed boot sets of a stick with the releases that they are of.

An image of qcow2, vmdk, vhdx or parallels is refused once a machine has used it: convert it
with qemu-img convert -O raw, and verify that.`,
		Example: `  phase-image verify stick.img
  phase-image verify --root root.json /dev/sdX
  phase-image verify --rebuild stick.img
  phase-image verify --attestation stick.img.ann.json --attestation stick.img.bob.json --rebuilder ann.pub --rebuilder bob.pub stick.img`,
		Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return f.verify(cmd, args[0]) },
	}
	cmd.Flags().StringVar(&f.root, "root", "", "root.json that the image must contain; exit code 3 if it differs")
	cmd.Flags().StringVar(&f.repo, "repo", "", "repository to whose releases the renewed boot sets of a stick must belong; exit code 3 or 5 if they do not")
	cmd.Flags().BoolVar(&f.rebuild, "rebuild", false, "build the image again from the packages that it lists, and compare; see phase-image rebuild")
	f.again.register(cmd, "for --rebuild: ")
	f.attestationFlags.register(cmd)
	return cmd
}

func (f *verifyFlags) verify(cmd *cobra.Command, image string) error {
	var root []byte
	var err error
	if f.root != "" {
		if root, err = cli.ReadMetadata(f.root, "root", manifest.KindRoot, "the root.json of the repository"); err != nil {
			return err
		}
	}
	again, err := f.again.read()
	if err != nil {
		return err
	}
	demand, err := f.attestationFlags.read(cmd.Context())
	if err != nil {
		return err
	}
	return build(cmd, func(b *imagebuild.Builder) (a attested, err error) {
		a.Contents, err = b.Verify(cmd.Context(), image)
		if err == nil && f.repo != "" {
			err = a.CompareReleases(cmd.Context(), f.repo)
		}
		if err == nil && root != nil {
			err = a.CompareRoot(root)
		}
		if err == nil && demand != nil {
			a.Attestations, err = attest.Demand(a.Contents, demand.files, demand.keys, demand.threshold)
		}
		if err == nil && f.rebuild {
			err = b.CompareRebuild(cmd.Context(), a.Contents, again)
		}
		return a, err
	}, func(a attested) string {
		return contentsText(a.Contents) + verdictText(a.Attestations)
	})
}

func contentsText(c *imagebuild.Contents) string {
	var w strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&w, "  %-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&w, "%s: %s, %s\n", c.Image, c.Kind, humanize.IBytes(uint64(c.Size)))
	if c.SHA256 != "" {
		line("sha256", "%s", c.SHA256)
	}
	switch {
	case c.DiskSize > 0:
		line("disk", "%s, %s", c.Disk, humanize.IBytes(uint64(c.DiskSize)))
	case c.Disk != "":
		line("disk", "%s", c.Disk)
	}
	switch {
	case c.CacheGrown:
		line("cache", "grown to the size of the device; the image was built with %s", humanize.IBytes(uint64(c.Built)))
	case c.Built > 0:
		line("cache", "as built; the backup of the partition table was moved to the end of the device; the image was built with %s", humanize.IBytes(uint64(c.Built)))
	}
	if c.TrailingBytes > 0 {
		line("", "%s of the device after the image were not read", humanize.IBytes(uint64(c.TrailingBytes)))
	}
	if len(c.Checks) > 0 {
		line("checks", "%s: no errors", strings.Join(c.Checks, ", "))
	}
	if c.Compared != "" {
		line("compared", "equal: %s", c.Compared)
	}
	for i, words := range c.NotCompared {
		line([]string{"unchecked", ""}[min(i, 1)], "%s", words)
	}
	for _, system := range append([]imagebuild.System{c.System}, c.Others...) {
		printSystem(line, c, system)
	}
	line("settings", "role %s%s, build time %s", c.Role, channelText(c), dateText(c.BuildTime))
	switch {
	case c.TorrcSum != "":
		line("tor", "yes, torrc sha256 %s", c.TorrcSum)
	case c.Tor:
		line("tor", "yes, without a torrc")
	}
	printModes(line, c)
	printRoot(line, c)
	printRenewed(line, c)
	printEntries(&w, c)
	return w.String()
}

// loaderText returns the name of the loader of the first EFI system partition.
func loaderText(bootloader string) string {
	if bootloader == imagebuild.LoaderBoth {
		return imagebuild.LoaderSystemd
	}
	return bootloader
}

// printSystem prints what the image boots on machines of one architecture.
func printSystem(line func(name, format string, args ...any), c *imagebuild.Contents, s imagebuild.System) {
	if s.Arch != "" {
		line("boots", "%s", printable(s.Arch, 20))
	}
	if s.Loader != "" {
		line(map[bool]string{true: "stub", false: "loader"}[c.UKI], "%s", strings.TrimSpace(loaderText(c.Bootloader)+" sha256 "+s.Loader))
		if c.Signer != nil {
			line("signed by", "%s", printable(c.Signer.Subject, 120))
			line("", "certificate sha256 %s", c.Signer.SHA256)
		}
		if s.GRUB != "" {
			line("", "grub sha256 %s, on the second EFI system partition", s.GRUB)
		}
		line("kernel", "%s", printable(s.Kernel, 120))
		line("", "sha256 %s", s.KernelSum)
	}
	line("initramfs", "%s", humanize.Bytes(uint64(s.Initramfs)))
	line("", "sha256 %s", s.ArchiveSum)
	line("init", "sha256 %s", s.Init)
	for i, p := range s.Inputs {
		line([]string{"inputs", ""}[min(i, 1)], "%s %s (%s)", p.Name, p.Version, p.Arch)
	}
}

func channelText(c *imagebuild.Contents) string {
	if c.Channel == "" {
		return ""
	}
	return ", channel " + printable(c.Channel, 32)
}

// dateText formats a number of seconds since 1970 with its date.
func dateText(seconds string) string {
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return printable(seconds, 20)
	}
	return fmt.Sprintf("%d (%s)", n, time.Unix(n, 0).UTC().Format(time.RFC3339))
}

func printRoot(line func(name, format string, args ...any), c *imagebuild.Contents) {
	if c.Root == nil {
		return
	}
	line("trust", "root.json version %d, expires %s", c.Root.Version, printable(c.Root.Expires, 40))
	line("", "sha256 %s", c.RootSum)
	for _, role := range slices.Sorted(maps.Keys(c.Root.Roles)) {
		keys := c.Root.Roles[role]
		line("", "%-9s  %d of %s", printable(role, 20), keys.Threshold, printable(strings.Join(keys.KeyIDs, ", "), 2000))
	}
}

// printRenewed prints the boot sets that were written after the image.
func printRenewed(line func(name, format string, args ...any), c *imagebuild.Contents) {
	for _, s := range c.Renewed {
		line("renewed", "boot set %d%s, release %s: %s", s.Number, map[bool]string{true: " (" + printable(s.Arch, 20) + ")"}[len(c.Others) > 0], s.Release, s.State)
		line("", "kernel %s, sha256 %s", printable(s.Kernel, 120), s.KernelSum)
		line("", "initramfs %s, sha256 %s, init sha256 %s", humanize.Bytes(uint64(s.Initramfs)), s.ArchiveSum, s.Init)
		line("", "build time %s, root.json version %d sha256 %s", dateText(s.BuildTime), s.Root.Version, s.RootSum)
	}
}

// printModes prints the boot modes of the image, and whether they are those of this program.
func printModes(line func(name, format string, args ...any), c *imagebuild.Contents) {
	origin := map[string]string{"no": "from a file", "other": "differs from the mode of this phase-image"}
	for i, m := range c.Modes {
		words := strings.TrimSpace("sha256 " + m.SHA256 + " " + origin[m.Shipped])
		line([]string{"modes", ""}[min(i, 1)], "%-9s  %s", m.Name, words)
	}
}

// archText names the architecture of an entry on a medium for several.
func archText(c *imagebuild.Contents, e imagebuild.BootEntry) string {
	if len(c.Others) == 0 {
		return ""
	}
	return " (" + printable(e.Arch, 20) + ")"
}

func printEntries(w *strings.Builder, c *imagebuild.Contents) {
	for _, e := range c.Entries {
		mark, other := " ", ""
		if e.Mode == c.Default {
			mark = "*"
		}
		if e.Boots != e.Mode {
			other = " (boots in mode " + printable(e.Boots, 32) + ")"
		}
		fmt.Fprintf(w, "  mode     %s %-9s %s%s\n                       %s\n", mark, printable(e.Mode, 32), printable(e.Title, 100), other+archText(c, e), printable(e.Cmdline, 1100))
	}
}

// printable returns at most max bytes of a text from an image, quoted unless all characters are
// printable ASCII.
func printable(s string, max int) string {
	if len(s) > max {
		s = s[:max] + "..."
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return strconv.QuoteToASCII(s)
	}
	return s
}
