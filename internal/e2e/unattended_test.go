package e2e

import (
	"testing"
	"time"
)

// The publisher of a site starts after the machine's first attempt has failed. Nobody presses a key: the
// search behind the menu finds the publisher before the countdown has ended.
func TestAPublisherThatStartsLateEndsTheMenu(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	m := l.boot(fx.path("local.img"))
	m.waitFor([]string{"] network: eth0 10.55", refused, "tried: mode local, channel stable, x86_64; network: eth0 10.55", "to try: ", menuShown, "> 1 try again now (by itself in"}, jump)
	l.host().publish("--dht", "off")
	began := time.Now()
	m.waitFor([]string{menuShown, "phase-boot: watch: found stable/x86_64 " + release})
	t.Logf("found %s after the publisher started", time.Since(began).Round(time.Second))
	m.waitFor([]string{menuShown, "the next attempt begins", "] resolve: stable", "] kexec: starting"}, "Attempt 2 has failed")
	t.Logf("jumped %s after the publisher started", time.Since(began).Round(time.Second))
	m.waitFor(bootMarks())
}

// Mode private finds no publisher without a mirror. A person chooses mode local in the menu on the
// serial line.
func TestAnotherModeIsChosenInTheMenuOnASerialLine(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	l.host().publish("--dht", "off")
	m := l.boot(l.image("--default-mode", "private"))
	m.waitFor([]string{refused, "mode private", menuShown, "> 1 try again now"}, jump)
	m.typeSerial("\x1b[B\r")
	m.waitFor([]string{menuShown, "another boot mode:", "1 internet", "2 edge", "3 local", menuShown, "> 1 internet"})
	m.typeSerial("3\r")
	m.waitFor([]string{"another boot mode:", "] command line: mode local", "] resolve: stable"})
	m.waitFor(bootMarks())
}

// After its attempts, a machine restarts without a key. QEMU ends then.
func TestAMachineRestartsAfterItsAttempts(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	m := l.boot(l.image("--default-mode", "private", "--cmdline", "phase.retry=1"))
	m.waitFor([]string{refused, menuShown, "(restart by itself in", "restarting the machine"}, "Attempt 2 has failed")
	m.waitForEnd()
}

// A target that panics at once does not stand still. QEMU ends when it restarts.
func TestATargetThatPanicsRestarts(t *testing.T) {
	t.Parallel()
	l, p := newLAN(t), publication(t)
	p.signOwn(t, fx.path("artifacts"), "2026.12-panic", "--cmdline", "console=ttyS0,115200 rdinit=/missing")
	p.serve(l.host())
	m := l.boot(fx.path("local.img"))
	m.waitFor([]string{"] kexec: loaded", "panic=30", "] kexec: starting", "Linux version", "Kernel panic", "Rebooting in 30 seconds"}, refused)
	m.waitForEnd()
}

// waitForEnd waits until the machine restarts, which ends QEMU.
func (m *machine) waitForEnd() {
	m.t.Helper()
	select {
	case <-m.ended:
	case <-time.After(3 * time.Minute):
		m.t.Fatal("the machine does not restart")
	}
}
