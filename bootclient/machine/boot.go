package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"filippo.io/age"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/machine/display"
	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	// progressEvery is the time between two records of progress. PID 1 shows them every second.
	progressEvery = 500 * time.Millisecond
	// offlineTimeout bounds the search of a machine whose only source is its cache.
	offlineTimeout = 10 * time.Second
	// staleTimeout bounds the search of a machine without a link whose cache has the last good release.
	staleTimeout = 3 * time.Second
)

// Boot is `phase-boot boot`, the process that PID 1 starts: all steps from the kernel command line
// to a loaded kernel. It returns nil when PID 1 may jump. It writes its error to a file, and PID 1
// prints it on the consoles.
func Boot(ctx context.Context, choice Choice) error {
	out := records{os.Stdout}
	rep := newReport(out)
	b := &boot{report: rep, records: &out, choice: choice, newDisk: make(chan struct{}, 1), entropy: startEntropy(), avoidFile: avoidFile, bootID: newBootID()}
	defer unmountCache()
	defer rep.SampleMemory(usedMemory)()
	defer b.stopTor()
	if words := takeCrash(crashFile); words != "" {
		rep.Begin("last attempt").Done("%s", words)
	}
	err := runSteps(ctx, rep, b.steps())
	if err != nil && ctx.Err() == nil && b.fallsBack(err) {
		err = b.tryLastGood(err, func() error { return runSteps(ctx, rep, b.releaseSteps()) })
	}
	if err == nil {
		_ = b.recordStart()
		b.renewStick(ctx)
		b.jumpReport()
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("stopped at the console: %w", ctx.Err())
	}
	rep.Finish(err)
	if ctx.Err() == nil {
		b.reportFailure(ctx)
	}
	b.leaveNetwork() // the next attempt has another hardware address, and gets a lease of its own
	b.saveReport()
	if fileErr := b.recordFailure(err); fileErr != nil {
		rep.Say("%v; and the file for PID 1 cannot be written: %v", err, fileErr)
	}
	return err
}

// A boot is the state that the steps of one attempt share.
type boot struct {
	report       *report.Report
	records      *records // for PID 1; nil for none
	choice       Choice
	newDisk      chan struct{}   // signalled for each new block device
	entropy      <-chan struct{} // closed when random numbers are ready
	config       bootclient.Config
	net          *network.Network
	networkErr   error              // of the network step, nil if there is an address
	networkWords string             // the addresses, or why there is none
	mayWrite     bool               // the mode and the command line allow to write to a disk
	alone        *manifest.Verified // the release that the cache can boot without a source, if that is known
	removable    bool               // the cache partition is on a disk that may be unplugged
	args         bootargs.Arguments
	key          []byte
	age          *age.X25519Identity // opens secrets in settings; nil without a cache
	avoidFile    string              // names the release that could not be booted
	failed       string              // the newest release, if neither it nor the last good one could be booted
	saidStart    bool                // the report says how the last start has ended
	health       health              // of the releases that were started here
	inFirmware   bool                // they are counted in an EFI variable
	payload      *Payload
	release      manifest.Release
	chosen       bool            // the newest metadata choose it for this machine
	settings     int64           // version of the machines' settings
	tor          *tor            // nil if it does not run
	newKey       bool            // key is of this boot alone
	bootID       string          // of this attempt, in boot reports
	bootLine     string          // the kernel command line of the boot
	began        time.Time       // of a switch, which is no boot; zero: the start of the kernel
	state        *network.State  // of a switch: the network that the running system got; nil for none
	receivers    peers.Receivers // addresses that may take boot reports

	firstAddress time.Duration // how long the network step waits for it; 0 is the usual time
}

func (b *boot) steps() []step {
	return []step{
		{"memory", required, b.memory},
		{"command line", required, b.commandLine},
		{"modules", optional, b.modules},
		{"random numbers", required, b.waitEntropy},
		{"cache", optional, b.cacheStep},
		{"machine key", optional, b.machineKey},
		{"network", optional, b.networkStep},
		{"release", selfReporting, b.fetch},
		{"seed", optional, b.seed},
		{"boot report", optional, b.reportStep},
		{"kexec", required, b.load},
	}
}

// releaseSteps are the steps for another release.
func (b *boot) releaseSteps() []step {
	list := b.steps()
	return list[slices.IndexFunc(list, func(s step) bool { return s.name == "release" }):]
}

func (b *boot) memory(context.Context) (string, error) {
	total := meminfo("MemTotal")
	limitMemory(total)
	free := meminfo("MemAvailable")
	return fmt.Sprintf("%s, %s free", report.Bytes(total), report.Bytes(free)), checkBootMemory(total, free)
}

func (b *boot) modules(ctx context.Context) (string, error) {
	m, err := openKernelModules()
	if err != nil {
		return "", err
	}
	err = errors.Join(m.loadList(modulesFile), m.hotplug(ctx, b.newDisk))
	m.coldplug("/sys")
	return fmt.Sprintf("%d loaded", m.count()), err
}

// cacheStep begins to configure the network, and opens the cache meanwhile.
func (b *boot) cacheStep(ctx context.Context) (string, error) {
	b.startNetwork(ctx)
	return b.cache(ctx)
}

func (b *boot) cache(ctx context.Context) (string, error) {
	rights := b.config.Mode.Cache
	if rights == "off" {
		return "off: no block device is opened", nil
	}
	d := disks{sys: "/sys", dev: "/dev", boot: bootPartition(loadModule)}
	found, others, err := d.wait(ctx, b.newDisk)
	if errors.Is(err, errNoCache) || errors.Is(err, errNoDriver) {
		return err.Error() + "; all blocks come from the network", nil
	}
	if err != nil {
		return "", err
	}
	unmountCache() // a crashed attempt may have left it mounted
	rights, summary, err := b.openCache(ctx, found, rights)
	if err != nil {
		return "", err
	}
	b.config.Mode.Cache = rights
	b.config.Cache, b.removable = cacheDir, onUSB("/sys", found.device)
	switch {
	case others > 0 && found.onBootDisk:
		summary += fmt.Sprintf("; on the boot disk, one of %d disks with a cache", others+1)
	case others > 0:
		summary += fmt.Sprintf("; the first of %d disks with a cache: the boot disk is not known", others+1)
	}
	return summary, nil
}

func (b *boot) machineKey(context.Context) (string, error) {
	path := ""
	if b.config.Cache != "" {
		path = filepath.Join(b.config.Cache, keyFile)
	}
	key, summary, err := machineKey(path, b.config.Mode.Cache == "rw")
	b.key, b.newKey = key, summary == ephemeral
	if path != "" {
		var ageErr error
		if b.age, ageErr = ageKey(filepath.Join(b.config.Cache, ageFile), b.config.Mode.Cache == "rw"); b.age != nil {
			summary += ", secrets are sealed to " + b.age.Recipient().String()
		}
		err = errors.Join(err, ageErr)
	}
	return summary, err
}

// fetch resolves, verifies and fetches the release into sealed memory. bootclient.Run reports its own
// steps.
func (b *boot) fetch(ctx context.Context) (string, error) {
	if err := b.useTor(ctx); err != nil {
		return "", err
	}
	b.payload = NewPayload(b.key, meminfo("MemAvailable"))
	b.payload.seed, b.payload.handOver, b.payload.handed = planSeed(b.config, b.removable), b.handOver, "nothing"
	b.payload.openSettings = b.openSettings
	if b.config.Arch == bootfile.ARM64 { // kexec_load hands it over
		b.payload.compatible = compatible(compatibleFile)
	}
	b.payload.renewal = b.newRenewal()
	if !b.saidStart {
		b.saidStart = true
		b.readStarts()
		b.sayBootSet()
	}
	if words, err := os.ReadFile(watchdogFile); err == nil {
		b.report.Begin("watchdog").Done("%s", words)
	}
	if slowSHA256() {
		_ = loadModule(hashModule) // without it, Go's sha256 works too
	}
	if b.payload.seed.env != nil {
		b.config.Keep = nodesDir // also for a cache partition, which may turn out to be full
	}
	b.config.Stored = b.seedWithoutPartition
	b.config.Receivers = func(r peers.Receivers) { b.receivers = r }
	if err := os.RemoveAll(nodesDir); err != nil { // of an earlier attempt
		return "", err
	}
	switch {
	case errors.Is(b.networkErr, network.ErrNoNIC):
		b.config.Timeout, b.config.Patience = offlineTimeout, offlineTimeout
	case errors.Is(b.networkErr, network.ErrNoLink) && b.alone != nil && b.alone.LastGood():
		b.config.Timeout = staleTimeout
	}
	b.identify()
	v, err := bootclient.Run(ctx, b.config, b.payload)
	if err != nil && errors.Is(b.networkErr, network.ErrNoNIC) && errors.Is(err, cas.ErrUnreachable) {
		err = fmt.Errorf("no source is reachable: %w", b.networkErr)
	}
	for _, s := range b.report.Sources() {
		if s.Used() {
			b.report.Say("source: %s", s)
		}
	}
	if err != nil {
		return "", err
	}
	b.saySettings(v.Settings())
	b.release, b.chosen, b.settings = v.Release(), v.Chosen(), v.Settings().Number
	b.sayTries(b.release)
	if _, ok := b.release.Artifact(manifest.RoleKernel); !ok {
		return "", fmt.Errorf("release %.40q: no kernel; sign a release with --kernel", b.release.Version)
	}
	return fmt.Sprintf("%s sealed, %s in memory; the target gets %s", b.release.Version, report.Bytes(b.payload.Size()), b.payload.handed), nil
}

// seedWithoutPartition lets the target serve from memory if the cache partition has not taken the whole
// release.
func (b *boot) seedWithoutPartition(whole bool) {
	if !whole && b.payload.seed.env != nil && b.payload.seed.nodes == "" {
		b.payload.seed = planSeed(b.config, true)
	}
}

// seed reports whether and how the target will serve the release. Commit has decided it.
func (b *boot) seed(context.Context) (string, error) { return b.payload.seed.summary, nil }

// load loads the kernel of the release.
func (b *boot) load(context.Context) (string, error) {
	b.stopTor() // kexec_file_load needs its memory
	// Free the heap of the fetch: kexec_file_load needs the memory for copies of the payload.
	debug.FreeOSMemory()
	line, err := b.cmdline(b.release)
	if err != nil {
		return "", err
	}
	progress := func(elapsed time.Duration) string {
		return fmt.Sprintf("kexec: loading %s, %v so far", report.Bytes(b.payload.Size()), elapsed)
	}
	b.report.While(progress, func() { err = b.payload.Load(line, b.config.Arch, meminfo("MemAvailable")) })
	if err == nil {
		b.leaveNetwork()
	}
	words := "loaded"
	if b.payload.treeRole != "" {
		words += ", device tree: " + b.payload.treeRole
	}
	return words + ", command line: " + line, err
}

// cmdline returns the command line of a release's kernel.
func (b *boot) cmdline(r manifest.Release) (string, error) {
	return targetCmdline(withSettings(r.Cmdline, b.payload.settings.Cmdline), r.Version, b.args, func(device string) bool { return consolePresent("/sys", device) })
}

// jumpReport records what was loaded: it says how much memory the boot has used, and saves the report.
func (b *boot) jumpReport() {
	if step, n := b.report.MemoryPeak(); n > 0 {
		b.report.Say("memory: at most %s of %s in use, in step %s", report.Bytes(n), report.Bytes(meminfo("MemTotal")), step)
	}
	b.report.Finish(nil)
	b.saveReport()
}

// usedMemory returns how much of the machine's memory is in use, in bytes.
func usedMemory() int64 { return meminfo("MemTotal") - meminfo("MemAvailable") }

// saveReport writes the report to a writable cache. An error does not stop the boot.
func (b *boot) saveReport() {
	if b.config.Cache == "" || b.config.Mode.Cache != "rw" {
		return
	}
	path := filepath.Join(b.config.Cache, "report.json")
	data, err := json.Marshal(b.report)
	if err == nil && errors.Is(file.Check(path, file.NoFollow), file.ErrKind) {
		err = os.RemoveAll(path) // a link or folder that an attacker made
	}
	if err == nil {
		err = atomicfile.Write(path, 0o644, data)
	}
	if err != nil {
		b.report.Say("report: not saved: %v", err)
	}
}

// progress returns a callback that reports the progress of the fetch every progressEvery. Its first
// call, before the first block, tells PID 1 how long the attempt may take.
func (b *boot) progress() func(done, total int64) {
	var last time.Time
	return func(done, total int64) {
		now := time.Now()
		if last.IsZero() {
			last = now
			if err := writeLimit(limitFile, total); err != nil {
				b.report.Say("limit of the attempt: %v", err)
			}
		}
		if now.Sub(last) >= progressEvery || done == total {
			last = now
			b.showProgress(done, total)
		}
	}
}

// showProgress sends the progress of the fetch and its sources to PID 1.
func (b *boot) showProgress(done, total int64) {
	if b.records != nil {
		b.records.send(display.ProgressOf(uptime(), done, total, b.report.LiveSources()))
	}
}
