package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/modes"
)

// Files with which the target serves its release. If seedFile is missing, the target does not serve.
const (
	seedFile    = "seed.env"  // PHASE_SEED="arguments of phase-boot seed", for a systemd unit
	seedRoot    = "root.json" // the root of trust
	seedProgram = runDir + "/phase-boot"
	seedCache   = runDir + "/cache"
	seedRootfs  = runDir + "/rootfs"

	nodesDir = "/run/phase-nodes" // where Run writes a cache of metadata and inner nodes
)

// A seedPlan says how the target serves the release.
type seedPlan struct {
	env     []byte // content of seedFile; without it the target does not serve
	root    []byte // content of seedRoot, which plasmd reads too
	nodes   string // the cache to hand over in memory, "" if the target reads the cache partition
	summary string // for the report
}

// off returns the plan of a target that does not serve.
func (p seedPlan) off(reason string) seedPlan {
	return seedPlan{root: p.root, summary: "the target does not serve: " + reason}
}

// planSeed returns how the mode and the command line let the target serve: from a writable cache
// partition on a fixed disk, or else from memory.
func planSeed(c bootclient.Config, removable bool) seedPlan {
	plan := seedPlan{root: c.Root, summary: "from the cache partition after the jump"}
	if !c.Mode.Announce || c.Mode.Proxy != "" {
		return plan.off("mode " + c.Mode.Name + " does not announce")
	}
	args := []string{"--root", filepath.Join(runDir, seedRoot), "--cache", seedCache}
	if c.Cache == "" || c.Mode.Cache != "rw" || removable {
		plan.nodes = nodesDir
		args = append(args, "--artifacts", runDir)
	}
	args = append(args, "--channel", c.Channel, "--arch", c.Arch, "--mode", seedMode(c.Mode))
	for _, b := range c.Bootstrap {
		args = append(args, "--bootstrap", b)
	}
	for _, a := range args {
		if a == "" || strings.ContainsFunc(a, needsQuoting) {
			// It may come from a command line, and systemd would split or expand it.
			return plan.off(fmt.Sprintf("%.80q cannot be handed over", a))
		}
	}
	plan.env = fmt.Appendf(nil, "PHASE_SEED=%q\n", strings.Join(args, " "))
	return plan
}

// seedMode returns the mode of phase-boot seed in the target: the name of a shipped mode, or the file that the boot
// hands over, because the target's program does not know the modes of the image.
func seedMode(m modes.Mode) string {
	if isShipped(m) {
		return m.Name
	}
	return filepath.Join(runDir, handedModes, m.Name+".json")
}

// isShipped reports whether the programs contain the mode. An image may have another file of the same name. The
// use of the cache is left out: the command line may change it, and a seed does not depend on it.
func isShipped(m modes.Mode) bool {
	shipped, err := modes.Load(m.Name)
	shipped.Cache = m.Cache
	return err == nil && reflect.DeepEqual(m, shipped)
}

// needsQuoting reports whether a character is outside those of channels, modes and multiaddrs.
func needsQuoting(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("./:_-%", r))
}

// prepareSeed makes the files of phase-boot seed available in the next root: this program, and the
// cache partition read-only or, to serve from memory, the root filesystem. They are bind mounts,
// so they use no further memory. If one of them fails, the target does not serve.
func (t *targetBoot) prepareSeed(ctx context.Context) (string, error) {
	env := filepath.Join(runDir, seedFile)
	if _, err := os.Stat(env); err != nil {
		return "off", nil
	}
	summary, prepare := "from memory", seedFromMemory
	if _, err := os.Stat(seedCache); err != nil {
		summary, prepare = seedCache+", read only", func() error { return t.seedFromDisk(ctx) }
	}
	if err := errors.Join(prepare(), t.bindProgram()); err != nil {
		return "", errors.Join(err, os.Remove(env))
	}
	return summary, nil
}

func seedFromMemory() error { return bindFile(rootfsImage, seedRootfs, 0o644) }

func (t *targetBoot) seedFromDisk(ctx context.Context) error {
	if t.cacheMounted {
		return bindReadOnly(confirmDir, seedCache)
	}
	if mounted(nextCache) {
		return bindReadOnly(nextCache, seedCache)
	}
	_, err := mountFoundCache(ctx, t.newDisk, seedCache, false)
	return err
}

// bindProgram makes this program available in the next root.
func (t *targetBoot) bindProgram() error {
	if t.programBound {
		return nil
	}
	t.programBound = true
	return bindFile("/init", seedProgram, 0o755)
}

// bindReadOnly makes the files of a mounted cache partition readable at another folder.
func bindReadOnly(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", to, err)
	}
	return unix.Mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|noPrograms|unix.MS_NOSYMFOLLOW, "")
}

// bindFile makes a file of the initramfs readable in the next root.
func bindFile(from, to string, mode os.FileMode) error {
	if err := os.WriteFile(to, nil, mode); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", to, err)
	}
	return nil
}
