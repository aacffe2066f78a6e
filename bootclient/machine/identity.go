package machine

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	uuidFile   = "/sys/class/dmi/id/product_uuid"
	serialFile = "/sys/class/dmi/id/product_serial"
	netDir     = "/sys/class/net"
)

var uuidGrammar = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// dummyUUIDs are values that firmware of many machines has in place of a UUID of its own.
var dummyUUIDs = []string{
	"00020003-0004-0005-0006-000700080009",
	"03000200-0400-0500-0006-000700080009",
	"12345678-1234-5678-90ab-cddeefaabbcc",
	"12345678-1234-1234-1234-123456789012",
	"fefefefe-fefe-fefe-fefe-fefefefefefe",
	"ffffff00-ffff-ffff-ffff-ffffffffff00",
}

// machineID is the ID of a machine in roll-outs, 64 hex digits: a hash of something that stays the same from
// boot to boot. "" stays "". The ID leaves the machine in a boot report alone.
func machineID(of string) string {
	if of == "" {
		return ""
	}
	sum := sha256.Sum256([]byte("phaseboot machine\x00" + of))
	return hex.EncodeToString(sum[:])
}

// identify sets the ID of the machine, for a firmware without a UUID: by the first network card, or by the key in
// the cache. A new key in every boot is no ID.
func (b *boot) identify() {
	cards := ethernetCards(netDir)
	b.config.Machine.Selectors = selectors(systemSerial(serialFile), systemUUID(uuidFile), cards)
	if b.config.Machine.ID != "" {
		return
	}
	of := firstCard(cards).mac
	if of == "" && b.config.Cache != "" {
		key, _ := readKey(filepath.Join(b.config.Cache, keyFile)) // without one there is no ID
		of = string(key)
	}
	b.config.Machine.ID = machineID(of)
}

// systemUUID returns the UUID of the system as firmware names it, "" if there is none of its own.
func systemUUID(path string) string {
	data, err := file.Read(path, 0, 4096) // sysfs gives each file a size of a page
	uuid := strings.ToLower(strings.TrimSpace(string(data)))
	if err != nil || !uuidGrammar.MatchString(uuid) || slices.Contains(dummyUUIDs, uuid) || oneDigit(uuid) {
		return ""
	}
	return uuid
}

// oneDigit reports whether a UUID has one digit alone, such as 0 or f.
func oneDigit(uuid string) bool {
	return strings.Trim(uuid, "-"+uuid[:1]) == ""
}

// dummySerials are values that firmware of many machines has in place of a serial number, in lower case.
var dummySerials = []string{"0", "123456789", "default string", "none", "not applicable", "not specified", "system serial number", "to be filled by o.e.m."}

// systemSerial returns the serial number of the system as firmware names it, "" if there is none of its own.
func systemSerial(path string) string {
	data, err := file.Read(path, 0, 4096)
	serial := strings.TrimSpace(string(data))
	if err != nil || slices.Contains(dummySerials, strings.ToLower(serial)) {
		return ""
	}
	return serial
}

// selectors name the machine in settings, the most specific last.
func selectors(serial, uuid string, cards []card) (list []string) {
	names := []string{manifest.SerialSelector(serial), manifest.UUIDSelector(uuid)}
	var macs []string
	for _, c := range cards {
		macs = append(macs, manifest.MACSelector(c.mac))
	}
	for _, s := range append(names, slices.Sorted(slices.Values(macs))...) {
		if s != "" && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// ethernetCards returns the Ethernet cards with their permanent MAC addresses. dir is /sys/class/net.
func ethernetCards(dir string) []card {
	links, err := netlink.LinkList()
	if err != nil {
		return nil
	}
	var cards []card
	for _, l := range links {
		a := l.Attrs()
		c := card{mac: a.PermHWAddr.String()}
		if c.mac == "" {
			c.mac = a.HardwareAddr.String()
		}
		c.place, err = filepath.EvalSymlinks(filepath.Join(dir, a.Name, "device"))
		_, wireless := os.Stat(filepath.Join(dir, a.Name, "phy80211"))
		if err == nil && wireless != nil && a.EncapType == "ether" && c.mac != "" {
			cards = append(cards, c)
		}
	}
	return cards
}

// A card is a network card: its place among the devices in /sys, and its MAC address.
type card struct{ place, mac string }

// firstCard returns the first card in the order of their places on the buses, those on USB last: names of
// interfaces depend on which driver is the first. The zero value is none.
func firstCard(cards []card) card {
	if len(cards) == 0 {
		return card{}
	}
	return slices.MinFunc(cards, func(a, b card) int {
		return cmp.Or(onUSBBus(a)-onUSBBus(b), strings.Compare(a.place, b.place), strings.Compare(a.mac, b.mac))
	})
}

func onUSBBus(c card) int { return min(1, strings.Count(c.place, "/usb")) }
