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

// maxNetworkFile limits a file of the network that was handed over, in bytes.
const maxNetworkFile = 256 << 10

// placeNetwork is the step that gives the network of the boot to the system of the target.
func placeNetwork(context.Context) (string, error) {
	dir := filepath.Join(runDir, networkDir)
	if s, err := readState(filepath.Join(dir, filepath.Base(stateFile))); err == nil {
		if err := loadDeviceModules(s); err != nil {
			return "", err
		}
	}
	name, err := placeNetworkIn(dir, "/run", newRoot)
	if err != nil || name == "" {
		return "none was handed over; the system configures its own", err
	}
	words := "as in the boot, without DHCP"
	if name == ownName {
		return words, nil
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

// ownName stands for the host name that the root filesystem sets.
const ownName = "(of the root filesystem)"

// placeNetworkIn copies the files for systemd-networkd from dir to where it finds them, renews the lease
// by a timer of systemd, and makes resolv.conf where the root filesystem has none. It returns the host
// name of the machine, "" if no network was handed over.
func placeNetworkIn(dir, run, root string) (host string, err error) {
	state, err := readState(filepath.Join(dir, filepath.Base(stateFile)))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return "", err
	}
	defer r.Close()
	err = errors.Join(copyNetworkd(dir, filepath.Join(run, "systemd/network")), placeTimer(dir, filepath.Join(run, "systemd/system")), placeResolver(r, filepath.Join(dir, "resolv.conf"), run))
	if name, err := r.ReadFile("etc/hostname"); err == nil && strings.TrimSpace(string(name)) != "" {
		return ownName, err
	}
	return hostName(filepath.Join(dir, "hostname"), state), err
}

func readState(path string) (s network.State, err error) {
	data, err := file.Read(path, file.NoFollow, maxNetworkFile)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	return s, err
}

// copyNetworkd copies the .network and .netdev files.
func copyNetworkd(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	names, _ := filepath.Glob(filepath.Join(from, filePrefix+"*")) // the pattern is valid
	for _, name := range names {
		data, err := file.Read(name, file.NoFollow, maxNetworkFile)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, filepath.Base(name)), data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Units that renew the lease: networkd reads the files of renewDir, which start DHCP and keep the address.
const (
	leaseService = `[Unit]
Description=Renewal of the DHCP lease of the boot
ConditionPathExists=` + runDir + "/" + renewDir + `

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cp ` + runDir + "/" + renewDir + `/* /run/systemd/network/'
ExecStart=systemctl --no-block try-restart systemd-networkd.service
`
	leaseTimer = `[Unit]
Description=Renewal of the DHCP lease of the boot

[Timer]
OnActiveSec=%s
AccuracySec=5s
`
)

// placeTimer makes the timer that renews the lease.
func placeTimer(dir, units string) error {
	after, err := file.Read(filepath.Join(dir, filepath.Base(renewAfter)), file.NoFollow, maxNetworkFile)
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
		os.WriteFile(filepath.Join(units, "phase-lease.timer"), fmt.Appendf(nil, leaseTimer, strings.TrimSpace(string(after))), 0o644),
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
