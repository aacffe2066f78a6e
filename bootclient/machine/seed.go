package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
)

// What a boot hands over for its release to be served by the target. Where seedFile is
// missing, the mode forbids it or there is nothing to serve.
const (
	seedFile    = "seed.env"  // PHASE_SEED="arguments of phase-boot seed", for a unit
	seedRoot    = "root.json" // the root of trust
	seedProgram = handOverTo + "/phase-boot"
	seedCache   = handOverTo + "/cache"
)

// seedEnvironment says how the target serves what this boot left in the cache; nil when
// the mode does not announce, or no cache remembers the release.
func seedEnvironment(c bootclient.Config) []byte {
	if !c.Mode.Announce || c.Mode.Proxy != "" || c.Cache == "" || c.Mode.Cache != "rw" {
		return nil
	}
	args := []string{
		"--root", filepath.Join(handOverTo, seedRoot), "--cache", seedCache,
		"--channel", c.Channel, "--arch", c.Arch, "--mode", c.Mode.Name,
	}
	for _, b := range c.Bootstrap {
		args = append(args, "--bootstrap", b)
	}
	for _, a := range args {
		if a == "" || strings.ContainsFunc(a, notPlain) {
			return nil // it came from a command line and could be read as something else
		}
	}
	return fmt.Appendf(nil, "PHASE_SEED=%q\n", strings.Join(args, " "))
}

// notPlain is a character that a channel, a mode or a multiaddr has no use for.
func notPlain(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("./:_-%", r))
}

// prepareSeed gives the next root what phase-boot seed needs: the cache partition, only
// for reading, and this program, which stays in the memory that it has already. Without
// them nothing is served.
func prepareSeed(context.Context) (string, error) {
	env := filepath.Join(handOverTo, seedFile)
	if _, err := os.Stat(env); err != nil {
		return "not asked for", nil
	}
	if err := errors.Join(loadSeedModules(), mountSeed()); err != nil {
		return "", errors.Join(err, os.Remove(env))
	}
	return seedCache + ", read only", nil
}

func loadSeedModules() error {
	dir, err := modulesDir()
	if err != nil {
		return err
	}
	m, err := openModules(dir)
	if err != nil {
		return err
	}
	return m.load("ext4")
}

func mountSeed() error {
	device, err := findLabel("/sys", "/dev", cacheLabel)
	if err != nil {
		return err
	}
	if err := mountCache(device, seedCache, false); err != nil {
		return err
	}
	if err := os.WriteFile(seedProgram, nil, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/init", seedProgram, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", seedProgram, err)
	}
	return nil
}
