package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/internal/file"
)

const (
	networkdDir = "systemd/network" // below /run: where systemd-networkd and udev find files

	maxNetworkFile = 256 << 10 // bytes of a file of the network that was handed over
)

// placeNetwork is the step that gives the network of the boot to the system of the target.
func placeNetwork(context.Context) (string, error) {
	state, err := readState(filepath.Join(runDir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "none was handed over; the system configures its own", nil
	}
	if err == nil {
		err = loadDeviceModules(state)
	}
	if err != nil {
		return "", err
	}
	name, err := placeNetworkIn(state, runDir, "/run", newRoot)
	words := "as in the boot, without DHCP"
	if err != nil || name == "" {
		return words, err
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return words, fmt.Errorf("host name %.80q: %w", name, err)
	}
	return words + "; host name " + name, nil
}

// loadDeviceModules loads the modules of VLANs and bonds: the root filesystem may have none for this kernel.
func loadDeviceModules(s network.State) (err error) {
	for _, i := range s.Interfaces {
		if module := map[string]string{"vlan": "8021q", "bond": "bonding"}[i.Kind]; module != "" {
			err = errors.Join(err, loadModule(module))
		}
	}
	return err
}

// placeNetworkIn copies the files for systemd-networkd from handed to where it finds them, renews the lease
// by a timer of systemd, and makes resolv.conf where the root filesystem has none. It returns the host
// name of the machine, "" if the root filesystem sets one.
func placeNetworkIn(s network.State, handed, run, root string) (host string, err error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return "", err
	}
	defer r.Close()
	files, _ := filepath.Glob(filepath.Join(handed, networkDir, filePrefix+"*")) // the pattern is valid
	err = errors.Join(
		copyHanded(files, filepath.Join(run, networkdDir)),
		placeTimer(filepath.Join(handed, renewAfter), filepath.Join(run, "systemd/system")),
		placeResolver(r, filepath.Join(handed, resolvHand), run),
	)
	if name, readErr := r.ReadFile("etc/hostname"); readErr == nil && strings.TrimSpace(string(name)) != "" {
		return "", err
	}
	return hostName(filepath.Join(handed, hostFile), s), err
}

func readState(path string) (s network.State, err error) {
	data, err := file.Read(path, file.NoFollow, maxNetworkFile)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	return s, err
}

// copyHanded copies files that were handed over into a folder. An error with one does not stop the others.
func copyHanded(files []string, to string) error {
	err := os.MkdirAll(to, 0o755)
	for _, name := range files {
		data, readErr := file.Read(name, file.NoFollow, maxNetworkFile)
		if readErr == nil {
			readErr = os.WriteFile(filepath.Join(to, filepath.Base(name)), data, 0o644)
		}
		err = errors.Join(err, readErr)
	}
	return err
}

// Units that renew the lease: networkd reads the files of renewDir, which start DHCP and keep the address.
const (
	leaseService = `[Unit]
Description=Renewal of the DHCP lease of the boot
ConditionPathExists=` + runDir + "/" + renewDir + `

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cp ` + runDir + "/" + renewDir + `/* /run/` + networkdDir + `/'
ExecStart=systemctl --no-block try-restart systemd-networkd.service
`
	leaseTimer = `[Unit]
Description=Renewal of the DHCP lease of the boot

[Timer]
OnActiveSec=%s
AccuracySec=5s
`
)

// placeTimer makes the timer that renews the lease. delay is the path of renewAfter; without that file no lease
// ends, and there is no timer.
func placeTimer(delay, units string) error {
	seconds, err := file.Read(delay, file.NoFollow, maxNetworkFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	wants := filepath.Join(units, "timers.target.wants")
	link := filepath.Join(wants, "phase-lease.timer")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(units, "phase-lease.service"), []byte(leaseService), 0o644),
		os.WriteFile(filepath.Join(units, "phase-lease.timer"), fmt.Appendf(nil, leaseTimer, strings.TrimSpace(string(seconds))), 0o644),
		os.Symlink("../phase-lease.timer", link),
	)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// placeResolver gives the name servers to a root filesystem without a resolv.conf. One that points into
// /run, where nothing writes it, gets its file there. systemd-resolved writes its own.
func placeResolver(root *os.Root, servers, run string) error {
	if _, err := root.Stat("usr/lib/systemd/systemd-resolved"); err == nil {
		return nil
	}
	const name = "etc/resolv.conf"
	info, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := root.MkdirAll("etc", 0o755); err != nil {
			return err
		}
		return root.Symlink(path.Join(runDir, resolvHand), name)
	case err != nil || info.Mode()&fs.ModeSymlink == 0:
		return err // the system has its own
	}
	to, err := root.Readlink(name)
	if err != nil {
		return err
	}
	if !path.IsAbs(to) {
		to = path.Join("/etc", to)
	}
	below, inRun := strings.CutPrefix(path.Clean(to), "/run/")
	if !inRun {
		return nil
	}
	data, err := file.Read(servers, file.NoFollow, maxNetworkFile)
	if err != nil {
		return err
	}
	to = filepath.Join(run, below)
	return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, 0o644))
}

// hostName returns the name that a DHCP server gave to the machine, or else one with the end of its MAC
// address.
func hostName(given string, s network.State) string {
	if name, err := file.Read(given, file.NoFollow, maxNetworkFile); err == nil {
		return strings.TrimSpace(string(name))
	}
	for _, i := range s.Interfaces {
		if parts := strings.Split(i.PermanentMAC, ":"); i.Kind == "ethernet" && len(parts) == 6 {
			return "phase-" + strings.Join(parts[3:], "")
		}
	}
	return "phase"
}
