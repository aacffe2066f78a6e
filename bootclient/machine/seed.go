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
	seedRootfs  = handOverTo + "/rootfs"

	nodesDir = "/run/phase-nodes" // where Run leaves a cache without leaves
)

// A seedPlan is how the target is to serve the release, and the words for it.
type seedPlan struct {
	env, root []byte // seedFile and seedRoot; no env: not at all
	nodes     string // what goes along to be served from memory, "" where a cache partition serves
	words     string
}

// planSeed decides what the mode and the command line allow: to serve from a cache
// partition that this boot may write and that stays in the machine, otherwise from memory.
func planSeed(c bootclient.Config, stick bool) seedPlan {
	if !c.Mode.Announce || c.Mode.Proxy != "" {
		return seedPlan{words: "mode " + c.Mode.Name + " serves nobody after the jump"}
	}
	plan := seedPlan{root: c.Root, words: "from the cache partition after the jump"}
	args := []string{"--root", filepath.Join(handOverTo, seedRoot), "--cache", seedCache}
	if c.Cache == "" || c.Mode.Cache != "rw" || stick {
		plan.nodes = nodesDir
		args = append(args, "--artifacts", handOverTo)
	}
	args = append(args, "--channel", c.Channel, "--arch", c.Arch, "--mode", c.Mode.Name)
	for _, b := range c.Bootstrap {
		args = append(args, "--bootstrap", b)
	}
	for _, a := range args {
		if a == "" || strings.ContainsFunc(a, notPlain) {
			// it came from a command line and could be read as something else
			return seedPlan{words: fmt.Sprintf("serves nobody after the jump: %.80q cannot be handed over", a)}
		}
	}
	plan.env = fmt.Appendf(nil, "PHASE_SEED=%q\n", strings.Join(args, " "))
	return plan
}

// notPlain is a character that a channel, a mode or a multiaddr has no use for.
func notPlain(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("./:_-%", r))
}

// prepareSeed gives the next root what phase-boot seed needs: the cache partition, only
// for reading, or the root file system beside what was handed over in memory; and this
// program. Both stay in the memory that they have already. Without them nothing is served.
func prepareSeed(context.Context) (string, error) {
	env := filepath.Join(handOverTo, seedFile)
	if _, err := os.Stat(env); err != nil {
		return "not asked for", nil
	}
	words, prepare := "from memory", seedFromMemory
	if _, err := os.Stat(seedCache); err != nil {
		words, prepare = seedCache+", read only", seedFromDisk
	}
	if err := errors.Join(prepare(), bind("/init", seedProgram, 0o755)); err != nil {
		return "", errors.Join(err, os.Remove(env))
	}
	return words, nil
}

func seedFromMemory() error { return bind(rootfsImage, seedRootfs, 0o644) }

func seedFromDisk() error {
	if err := loadModule("ext4"); err != nil {
		return err
	}
	found, _, err := disks{sys: "/sys", dev: "/dev", boot: bootPartition(loadModule)}.find()
	if err == nil && found.blank {
		err = errNoCache
	}
	if err != nil {
		return err
	}
	return mountCache(found.device, seedCache, false)
}

// bind makes a file of the initramfs readable in the next root.
func bind(from, to string, mode os.FileMode) error {
	if err := os.WriteFile(to, nil, mode); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", to, err)
	}
	return nil
}
