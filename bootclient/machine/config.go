package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// commandLine makes the configuration from the command line and the files of the image.
func (b *boot) commandLine(context.Context) (string, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", err
	}
	b.bootLine = strings.TrimSpace(string(line))
	b.args = bootargs.Parse(b.bootLine)
	b.args.Mode = cmp.Or(b.choice.Mode, b.args.Mode)
	b.args.Channel = cmp.Or(b.choice.Channel, b.args.Channel)
	for _, w := range b.args.Warnings {
		b.report.Warn("command line: %s", w)
	}
	if b.config, err = imageConfig(b.args); err != nil {
		return "", err
	}
	b.config.Log, b.config.Report, b.config.Progress = logger(b.report), b.report, b.progress()
	b.config.LastGood = b.choice.LastGood
	b.config.Machine = manifest.Machine{ID: machineID(systemUUID(uuidFile)), Groups: b.args.Groups}
	b.mayWrite = b.config.Mode.Cache == "rw"
	b.avoid(refusedRelease(b.avoidFile))
	return fmt.Sprintf("mode %s, channel %s, %s", b.config.Mode.Name, b.config.Channel, b.config.Arch), nil
}

// imageConfig combines the files of the initramfs with the command line.
func imageConfig(args bootargs.Arguments) (bootclient.Config, error) {
	c := bootclient.Config{Channel: args.Channel, Mirrors: args.Mirrors, Peers: args.Peers, Bootstrap: args.Bootstrap, Share: true, Now: time.Now, ClockUnsure: true, KernelArgs: true, Arch: bootfile.HostArch()}
	var err error
	if c.Root, err = os.ReadFile(rootFile); err != nil {
		return c, fmt.Errorf("root of trust: %w; build the image with --root", err)
	}
	if c.Mode, err = bootMode(args); err != nil {
		return c, err
	}
	if args.Stale != "" {
		c.StaleBy = "phase.stale="
	}
	useProxy(&c, args.Proxy)
	if c.Channel == "" {
		data, err := os.ReadFile(channelFile)
		if err != nil {
			return c, fmt.Errorf("channel: %w; add phase.channel=NAME to the command line", err)
		}
		c.Channel = strings.TrimSpace(string(data))
	}
	if c.Floor, err = buildTime(buildFile); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return c, err
}

// imageModes returns the modes of the image.
func imageModes() (modes.Set, error) { return modes.ReadDir(modesDir) }

// bootMode loads the mode. The command line can replace its policy for stale metadata; it can only
// reduce the mode's rights to the cache, so a private boot never writes to a disk.
func bootMode(args bootargs.Arguments) (modes.Mode, error) {
	name := args.Mode
	if name == "" {
		name = modes.Default
	}
	set, err := imageModes()
	if err != nil {
		return modes.Mode{}, err
	}
	m, err := set.Load(name)
	if err != nil {
		return m, err
	}
	if err := bootargs.CheckCache(args.Cache); err != nil {
		return m, err
	}
	m.Stale = cmp.Or(args.Stale, m.Stale)
	rights := bootargs.Rights
	limit := len(rights) - 1
	if args.Cache != "" {
		limit = slices.Index(rights, args.Cache)
	}
	if args.NoWrite {
		limit = min(limit, slices.Index(rights, "ro"))
	}
	m.Cache = rights[min(limit, slices.Index(rights, m.Cache))]
	return m, nil
}
