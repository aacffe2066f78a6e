package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	// systemdDir exists while systemd is the service manager (sd_booted(3)).
	systemdDir = "/run/systemd/system"
	// signalKexec is SIGRTMIN+6, with which systemd as PID 1 stops the system and jumps (systemd(1), kexec.target).
	signalKexec = unix.Signal(40)
	// lockdownFile says what a locked down kernel refuses (kernel_lockdown(7)).
	lockdownFile = "/sys/kernel/security/lockdown"
)

// SwitchOptions say how `phase-boot switch` goes on.
type SwitchOptions struct {
	NextOptions
	Release string // version that must be the next one, "" for any
	Now     bool   // jump without a stop of the system
	DryRun  bool   // say what would be done
	// Loaded is called when the kernel is loaded, before the start is counted, or at the end of a dry run. Its error stops
	// the jump.
	Loaded func(Switched) error
}

// A Switched is the result of Switch.
type Switched struct {
	From   string `json:"from"` // versions of releases
	To     string `json:"to"`
	Number int64  `json:"role_version"`
	Bytes  int64  `json:"bytes"` // of kernel, initramfs and hand-over in memory
	DryRun bool   `json:"dry_run,omitempty"`
	How    string `json:"how"` // in words
}

// Switch is `phase-boot switch`: it starts the next release of a running target, from the cache alone. It does what a boot
// does after its search: it verifies metadata and artifacts again, seals them in memory with a new hand-over, loads the
// kernel, and writes the record of the start. Then systemd stops the system and jumps; with Now, Switch returns only after an
// error. steps gets a line for each step.
//
// The error wraps fs.ErrInvalid if the boot mode or the version forbids it, fs.ErrPermission without root, and otherwise is that of
// a boot; fs.ErrNotExist says that no other release is in the cache.
func Switch(ctx context.Context, o SwitchOptions, steps io.Writer) error {
	r, err := readRunning(o.dir(), "switch")
	if err != nil {
		return err
	}
	if err := maySwitch(o); err != nil {
		return err
	}
	open := openCache
	if o.DryRun {
		open = openCacheReadOnly
	}
	cache, leave, err := open(ctx, o.Cache)
	if err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	done, err := r.boot(cache, steps).switchTo(ctx, r, o)
	if err != nil {
		return errors.Join(err, leave())
	}
	err = leave()
	if o.DryRun {
		if err == nil {
			err = o.Loaded(done)
		}
		return err
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = start(o.Now)
	}
	if err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("switch: the start of release %s was counted, and the jump has failed: %w", report.Printable(done.To), err), unload())
}

// maySwitch refuses a switch that would fail at its end.
func maySwitch(o SwitchOptions) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("switch: %w: only root may start a kernel; run it as root", fs.ErrPermission)
	}
	if o.Now || o.DryRun {
		return nil
	}
	if _, err := os.Stat(systemdDir); err != nil {
		return refusal.Invalid("switch: this system has no systemd that could stop it; stop its services and use --now")
	}
	return nil
}

// boot returns what the boot of the running release knew, for the next one.
func (r *running) boot(cache string, steps io.Writer) *boot {
	began := time.Now()
	r.config.Cache = cache
	b := &boot{
		report: report.New(began, steps), began: began, config: r.config, args: r.args, bootLine: r.next.Cmdline, removable: r.next.Removable, bootID: newBootID(),
		avoidFile: avoidFile,
	}
	b.config.Report, b.config.Log = b.report, logger(b.report)
	if state, err := readState(filepath.Join(r.dir, stateFile)); err == nil {
		renewSoon(&state, began)
		b.state = &state
	}
	b.key, _ = readKey(filepath.Join(r.dir, keyFile)) // without it the next target makes no signature
	b.age, _ = ageKey(filepath.Join(cache, ageFile), false)
	var to reporting
	if readHanded(filepath.Join(r.dir, reportingName), &to) {
		b.receivers, b.newKey = peers.Receivers{Named: to.To, Heard: to.Heard}, to.Ephemeral
	}
	return b
}

// renewSoon lets the next target ask the DHCP servers soon: leases may have been renewed since the boot, and their ends are
// not known here.
func renewSoon(s *network.State, now time.Time) {
	for i := range s.Interfaces {
		for _, l := range []*network.Lease{s.Interfaces[i].Lease4, s.Interfaces[i].Lease6} {
			if l != nil && !l.Until.IsZero() {
				l.Until = now
			}
		}
	}
}

// switchTo verifies, seals and loads the next release. It loads nothing in a dry run.
func (b *boot) switchTo(ctx context.Context, r *running, o SwitchOptions) (Switched, error) {
	if !o.DryRun { // it writes who has started
		b.readStarts()
		if b.config.Starts != nil {
			b.config.Starts = r.startsBeside(b.config.Starts)
		}
	} else {
		r.useCache(b.config.Cache)
		b.config.Starts, b.config.Blessed = r.config.Starts, r.config.Blessed
	}
	b.payload = NewPayload(b.key, meminfo("MemAvailable"))
	b.payload.seed, b.payload.handOver, b.payload.handed = planSeed(b.config, r.next.Removable), b.handOver, "nothing"
	b.payload.openSettings = b.openSettings
	if r.next.Removable {
		b.payload.seed = b.payload.seed.off("the cache partition is on a disk that may be unplugged, and a switch keeps no copy in memory")
	}
	if b.config.Arch == bootfile.ARM64 {
		b.payload.compatible = compatible(compatibleFile)
	}
	defer b.payload.Abort()
	v, err := bootclient.Run(ctx, fromCache(b.config), &nextPayload{b.payload, r.release, o.Release})
	if err != nil {
		return Switched{}, err
	}
	if err := bootclient.CheckRunning(v, r.release); err != nil {
		return Switched{}, fmt.Errorf("switch: %w", err)
	}
	b.saySettings(v.Settings())
	b.release, b.chosen, b.settings = v.Release(), v.Chosen(), v.Settings().Number
	b.sayTries(b.release)
	if _, ok := b.release.Artifact(manifest.RoleKernel); !ok {
		return Switched{}, fmt.Errorf("release %.40q: no kernel; sign a release with --kernel", b.release.Version)
	}
	done := Switched{From: r.release.Version, To: b.release.Version, Number: b.release.Number, Bytes: b.payload.Size(), DryRun: o.DryRun, How: how(o)}
	if o.DryRun {
		return done, b.checkLockdown()
	}
	words, err := b.load(ctx)
	if err != nil {
		return Switched{}, err
	}
	b.report.Say("kexec: %s", words)
	if err := b.commitStart(ctx, o, done); err != nil {
		return Switched{}, errors.Join(err, unload())
	}
	b.report.Finish(nil)
	return done, nil
}

// commitStart says what starts and counts the start, unless somebody has stopped it.
func (b *boot) commitStart(ctx context.Context, o SwitchOptions, done Switched) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := o.Loaded(done); err != nil {
		return err
	}
	if err := b.recordStart(); err != nil {
		return fmt.Errorf("switch: the start cannot be counted: %w; is %s writable?", err, b.config.Cache)
	}
	return nil
}

// fromCache returns the configuration of a boot that has the cache as its only source, and does not write it.
func fromCache(c bootclient.Config) bootclient.Config {
	c.Mode.Cache, c.Mode.Discovery, c.Mode.Announce = "ro", nil, false
	c.Mirrors, c.Peers, c.Bootstrap, c.Heard, c.Share = nil, nil, nil, nil, false
	c.Timeout = offlineTimeout
	return c
}

// A nextPayload is a Payload that refuses the release that runs already.
type nextPayload struct {
	*Payload
	running manifest.Release
	wanted  string // version, "" for any
}

// Plan refuses a release that is not the next one.
func (p *nextPayload) Plan(r manifest.Release) error {
	switch {
	case r.Content() == p.running.Content():
		return fmt.Errorf("release %s runs already, and the cache has no other one for this machine: %w; fetch one with phase-boot watch --once", report.Printable(r.Version), fs.ErrNotExist)
	case p.wanted != "" && p.wanted != r.Version:
		return refusal.Invalid("--release %.80q: the next release of this machine is %.80q", p.wanted, r.Version)
	}
	return p.Payload.Plan(r)
}

// how says how the jump happens.
func how(o SwitchOptions) string {
	if o.Now {
		return "the kernel jumps at once, without a stop of the system"
	}
	return "systemd stops the system, then the kernel jumps"
}

// checkLockdown says in a dry run what the load would say: a locked down kernel loads none without a signature. The load
// itself judges the signature.
func (b *boot) checkLockdown() error {
	if kexecDisabled() {
		return fmt.Errorf("kexec: %w: %s", unix.EPERM, notPermitted(true, true))
	}
	state, err := os.ReadFile(lockdownFile)
	if err != nil || strings.Contains(string(state), "[none]") {
		return nil
	}
	if b.payload.tree != nil || b.config.Arch == bootfile.ARM64 && noFileLoad() {
		return fmt.Errorf("kexec: %w: %s", unix.EPERM, lockedDown)
	}
	info, err := b.payload.kernel.Stat()
	if err != nil {
		return err
	}
	if !bootfile.IsSigned(b.payload.kernel, info.Size()) {
		return fmt.Errorf("kexec: %w: %s", unix.ENODATA, notSigned)
	}
	return nil
}

// start begins the jump: systemd stops the system first, unless now is set.
func start(now bool) error {
	unix.Sync()
	if now {
		return jump()
	}
	debug.FreeOSMemory()
	if err := unix.Kill(1, signalKexec); err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	return nil
}
