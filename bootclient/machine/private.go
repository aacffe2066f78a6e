package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/modes"
)

const (
	modeName    = "mode.json" // the boot mode, as its file in modes
	handedModes = "modes"     // the file NAME.json of a mode that is not shipped as it is, for phase-boot seed
	privateDir  = "private"   // of a private mode: files for systemd-networkd and udev, below archiveDir and runDir

	// gptGenerator mounts and swaps what it finds on the disks of a machine (systemd-gpt-auto-generator(8)).
	gptGenerator = "systemd/system-generators/systemd-gpt-auto-generator"
)

// privateLink gives every wired port a random hardware address (systemd.link(5)). It replaces the usual
// 99-default.link, so it has its policy of names.
const privateLink = `# the boot mode is private: the hardware address of this machine is not shown
[Match]
Type=ether
Kind=!*

[Link]
MACAddressPolicy=random
NamePolicy=keep kernel database onboard slot path
WakeOnLan=off
`

// privateNetwork configures wired ports without an identifier of this machine (systemd.network(5)); Anonymize
// is the profile of RFC 7844. It counts only if the system of the release starts systemd-networkd and has no
// earlier file for the port.
const privateNetwork = `# the boot mode is private: no identifier of this machine is sent
[Match]
Type=ether
Kind=!*

[Network]
DHCP=yes
IPv6PrivacyExtensions=yes
IPv6LinkLocalAddressGenerationMode=random
LLMNR=no
MulticastDNS=no
LLDP=no
EmitLLDP=no

[DHCPv4]
Anonymize=yes
ClientIdentifier=mac
SendHostname=no
UseHostname=no

[DHCPv6]
DUIDType=link-layer
SendHostname=no
UseHostname=no

[IPv6AcceptRA]
DHCPv6Client=no
`

// modeFiles returns the files that tell the target the boot mode. In a private mode they also keep a target
// private that starts a network.
func modeFiles(m modes.Mode) []handedFile {
	data := append(marshal(m), '\n')
	files := []handedFile{{modeName, 0o644, data}}
	if !isShipped(m) {
		files = append(files, handedFile{handedModes + "/" + m.Name + ".json", 0o644, data})
	}
	if m.RandomMAC {
		files = append(files, text(privateDir+"/10-phase.link", privateLink), text(privateDir+"/10-phase.network", privateNetwork))
	}
	return files
}

// keepPrivate is the step that keeps the target of a private mode private until its own system decides: ports that
// exist get random hardware addresses, udev and systemd-networkd find the files of privateDir, and systemd
// does not look for file systems and swap on the disks.
func keepPrivate(context.Context) (string, error) {
	private, placeErr := placePrivate(filepath.Join(runDir, privateDir), "/run")
	if !private {
		return "no: the mode does not ask for it", placeErr
	}
	ports, err := network.RandomizePorts()
	return fmt.Sprintf("random hardware addresses for %d ports, no disk is used", ports), errors.Join(placeErr, err)
}

// placePrivate copies the files of dir to where systemd finds them. It reports false if there are none.
func placePrivate(dir, run string) (private bool, err error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	var files []string
	for _, e := range names {
		files = append(files, filepath.Join(dir, e.Name()))
	}
	generator := filepath.Join(run, gptGenerator)
	err = errors.Join(err, copyHanded(files, filepath.Join(run, networkdDir)), os.MkdirAll(filepath.Dir(generator), 0o755))
	if linkErr := os.Symlink(os.DevNull, generator); !errors.Is(linkErr, fs.ErrExist) { // of an earlier attempt
		err = errors.Join(err, linkErr)
	}
	return true, err
}
