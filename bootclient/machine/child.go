package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

const (
	// progressEvery is the time between two lines about what takes long.
	progressEvery = 2 * time.Second
	// offlineTimeout bounds the search of a machine whose only source is its cache.
	offlineTimeout = 10 * time.Second
)

// Child is `phase-boot boot`, the process that PID 1 starts: all steps from the
// kernel command line to a loaded kernel. It returns nil when PID 1 may jump. Its
// error was left for PID 1, which says it on the console.
func Child(ctx context.Context) error {
	story := newStory(os.Stdout)
	b := &boot{story: story, disk: make(chan struct{}, 1), entropy: startEntropy()}
	defer unmountCache()
	err := runSteps(ctx, story, b.steps())
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("stopped at the console: %w", ctx.Err())
	}
	story.Finish(err)
	b.keepReport()
	if fileErr := b.leave(err); fileErr != nil {
		story.Say("%v; and PID 1 cannot be told: %v", err, fileErr)
	}
	return err
}

// leave tells PID 1 why nothing was loaded, and phase-boot status how that came.
func (b *boot) leave(err error) error {
	if data, jsonErr := json.Marshal(b.story); jsonErr == nil {
		_ = os.WriteFile(reportFile, data, 0o644)
	}
	if wanted := waitFor(b.offline); wanted != "" {
		_ = os.WriteFile(watchFile, []byte(wanted), 0o644)
	}
	return writeFailure(failureFile, err, b.story.Refused(), bootAdvice(err))
}

// A boot is what one step leaves for the next.
type boot struct {
	story   *bootclient.Report
	disk    chan struct{}   // a new block device
	entropy <-chan struct{} // closed when there are random numbers
	config  bootclient.Config
	offline error // of the network step, nil when there is an address
	stick   bool  // the cache partition is on a disk that may be pulled
	args    bootargs.Arguments
	key     []byte
	payload *Payload
	release manifest.Release
}

func (b *boot) steps() []step {
	return []step{
		{"memory", fatal, b.memory},
		{"command line", fatal, b.commandLine},
		{"modules", goOn, b.modules},
		{"random numbers", fatal, b.waitEntropy},
		{"network", goOn, b.network},
		{"cache", goOn, b.cache},
		{"machine key", goOn, b.machineKey},
		{"release", own, b.fetch},
		{"seed", goOn, b.seed},
		{"kexec", fatal, b.load},
	}
}

func (b *boot) memory(context.Context) (string, error) {
	total := meminfo("MemTotal")
	limitMemory(total)
	free := meminfo("MemAvailable")
	return fmt.Sprintf("%s, %s free", words(total), words(free)), canBegin(total, free)
}

// commandLine decides mode and channel, and collects what the image says.
func (b *boot) commandLine(context.Context) (string, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", err
	}
	b.args = bootargs.Parse(string(line))
	for _, w := range b.args.Warnings {
		b.story.Say("command line: %s", w)
	}
	if b.config, err = imageConfig(b.args); err != nil {
		return "", err
	}
	b.config.Log, b.config.Report, b.config.Progress = logger(b.story), b.story, b.progress()
	return fmt.Sprintf("mode %s, channel %s, %s", b.config.Mode.Name, b.config.Channel, b.config.Arch), nil
}

// imageConfig joins the files of the initramfs with the command line.
func imageConfig(args bootargs.Arguments) (bootclient.Config, error) {
	c := bootclient.Config{Channel: args.Channel, Mirrors: args.Mirrors, Peers: args.Peers, Bootstrap: args.Bootstrap, Share: true, Now: time.Now, ClockUnsure: true}
	var err error
	if c.Root, err = os.ReadFile(rootFile); err != nil {
		return c, fmt.Errorf("root of trust: %w; build the image with --root", err)
	}
	if c.Mode, err = bootMode(args); err != nil {
		return c, err
	}
	if c.Channel == "" {
		data, err := os.ReadFile(channelFile)
		if err != nil {
			return c, fmt.Errorf("channel: %w; add phase.channel=NAME to the command line", err)
		}
		c.Channel = strings.TrimSpace(string(data))
	}
	if c.Arch, err = machineArch(); err != nil {
		return c, err
	}
	if c.Floor, err = buildTime(buildFile); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return c, err
}

// bootMode loads the mode and lets the command line take its rights to the
// cache away, never add to them: a private boot stays one that writes nothing.
func bootMode(args bootargs.Arguments) (modes.Mode, error) {
	name := args.Mode
	if name == "" {
		name = modes.Default
	}
	m, err := modes.Load(name)
	if err != nil {
		return m, err
	}
	if err := bootargs.CheckCache(args.Cache); err != nil {
		return m, err
	}
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

// machineArch is the architecture as channels spell it.
func machineArch() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	if name := unix.ByteSliceToString(u.Machine[:]); name != "aarch64" {
		return name, nil
	}
	return "arm64", nil
}

// modulesDir is the folder of the running kernel's modules.
func modulesDir() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:])), nil
}

func (b *boot) modules(ctx context.Context) (string, error) {
	dir, err := modulesDir()
	if err != nil {
		return "", err
	}
	m, err := openModules(dir)
	if err != nil {
		return "", err
	}
	err = errors.Join(m.loadList(modulesFile), m.hotplug(ctx, b.disk))
	m.coldplug("/sys")
	return fmt.Sprintf("%d loaded", m.count()), err
}

func (b *boot) network(ctx context.Context) (string, error) {
	n := &network{randomMAC: b.config.Mode.RandomMAC, resolv: "/etc/resolv.conf", say: b.story.Say, cardPatience: usbWait("/sys", cardPatience)}
	var words string
	words, b.offline = n.up(ctx)
	return words, b.offline
}

func (b *boot) cache(ctx context.Context) (string, error) {
	rights := b.config.Mode.Cache
	if rights == "off" {
		return "off: no block device is opened", nil
	}
	d := disks{sys: "/sys", dev: "/dev", boot: bootPartition(loadModule)}
	found, others, err := d.wait(ctx, b.disk)
	if errors.Is(err, errNoCache) || errors.Is(err, errNoDriver) {
		return err.Error() + ": everything comes from the network", nil
	}
	if err != nil {
		return "", err
	}
	unmountCache() // left by an attempt that crashed
	rights, words, err := useCache(ctx, found, rights)
	if err != nil {
		return "", err
	}
	b.config.Mode.Cache = rights
	b.config.Cache, b.stick = cacheDir, onUSB("/sys", found.device)
	switch {
	case others > 0 && found.booted:
		words += fmt.Sprintf("; of %d disks with a cache, the one that this was started from", others+1)
	case others > 0:
		words += fmt.Sprintf("; the first of %d disks with a cache: the firmware does not say from which this was started", others+1)
	}
	return words, nil
}

// loadModule loads a kernel module by its name.
func loadModule(name string) error {
	dir, err := modulesDir()
	if err != nil {
		return err
	}
	m, err := openModules(dir)
	if err != nil {
		return err
	}
	return m.load(name)
}

func (b *boot) machineKey(context.Context) (string, error) {
	path := ""
	if b.config.Cache != "" {
		path = filepath.Join(b.config.Cache, keyFile)
	}
	key, words, err := machineKey(path, b.config.Mode.Cache == "rw")
	b.key = key
	return words, err
}

// fetch resolves, verifies and fetches the release into sealed memory. Run tells
// its own steps.
func (b *boot) fetch(ctx context.Context) (string, error) {
	b.payload = NewPayload(b.key, meminfo("MemAvailable"))
	b.payload.seed = planSeed(b.config, b.stick)
	b.config.Keep = b.payload.seed.nodes
	if err := os.RemoveAll(nodesDir); err != nil { // of an attempt before this
		return "", err
	}
	if errors.Is(b.offline, errNoCard) {
		b.config.Timeout, b.config.Patience = offlineTimeout, offlineTimeout
	}
	v, err := bootclient.Run(ctx, b.config, b.payload)
	if err != nil && errors.Is(b.offline, errNoCard) && errors.Is(err, cas.ErrUnreachable) {
		err = fmt.Errorf("no source can be reached: %w", b.offline)
	}
	for _, s := range b.story.Sources() {
		if s.Used() {
			b.story.Say("source: %s", s)
		}
	}
	if err != nil {
		return "", err
	}
	b.release = v.Release()
	if _, ok := b.release.Artifact(manifest.RoleKernel); !ok {
		return "", fmt.Errorf("release %.40q: it has no kernel; sign one with --kernel", b.release.Version)
	}
	b.keepReport()
	return fmt.Sprintf("%s sealed, %s in memory", b.release.Version, humanize.IBytes(uint64(b.payload.Size()))), nil
}

// seed says what Commit decided.
func (b *boot) seed(context.Context) (string, error) { return b.payload.seed.words, nil }

func (b *boot) load(context.Context) (string, error) {
	// What fetching needed is worth a copy of the payload now.
	debug.FreeOSMemory()
	line, err := targetCmdline(b.release.Cmdline, b.release.Version, b.args.Console, func(device string) bool { return consoleWorks("/sys", device) })
	if err != nil {
		return "", err
	}
	busy := func(so time.Duration) string {
		return fmt.Sprintf("kexec: loading %s, %v so far", words(b.payload.Size()), so)
	}
	b.story.While(busy, func() { err = b.payload.Load(line, b.config.Arch, meminfo("MemAvailable")) })
	return "loaded, command line: " + line, err
}

// keepReport writes the report to a cache that may be written. Its loss does
// not change the boot.
func (b *boot) keepReport() {
	if b.config.Cache == "" || b.config.Mode.Cache != "rw" {
		return
	}
	path := filepath.Join(b.config.Cache, "report.json")
	data, err := json.Marshal(b.story)
	if err == nil && errors.Is(file.Check(path, file.NoFollow), file.ErrKind) {
		err = os.RemoveAll(path) // a stranger's link or folder
	}
	if err == nil {
		err = atomicfile.Write(path, 0o644, data)
	}
	if err != nil {
		b.story.Say("report: not kept: %v", err)
	}
}

// progress tells how far a fetch is when it takes long.
func (b *boot) progress() func(done, total int64) {
	var last time.Time
	return func(done, total int64) {
		now := time.Now()
		if last.IsZero() {
			last = now
		}
		if now.Sub(last) >= progressEvery {
			last = now
			b.story.Say("fetch: %s of %s", humanize.IBytes(uint64(done)), humanize.IBytes(uint64(total)))
		}
	}
}
