package modes

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

// Default is the mode when the kernel command line does not name one.
const Default = "internet"

// Limits of a mode.
const (
	MaxFile  = 8 << 10 // bytes of its file
	maxTitle = 100     // characters of its title, so that it fits in a line of a boot menu
	maxRetry = bootargs.MaxRetry
)

// ErrMalformed marks a file that is not a valid mode.
var ErrMalformed = errors.New("malformed boot mode")

// A Mode is a boot policy as read from its file.
type Mode struct {
	Name  string `json:"name"`  // the file's name without .json: 1 to 32 characters a-z, 0-9 and -
	Title string `json:"title"` // text of the boot menu entry: 1 to 100 printable ASCII characters
	// Discovery lists the ways to find sources, the preferred one first: "mirror"
	// (the https URLs of root.json), "dht", "mdns". Every mode also uses the mirrors,
	// peers and bootstrap nodes of the kernel command line.
	Discovery []string `json:"discovery"`
	Cache     string   `json:"cache"`      // use of the cache partition: "rw", "ro" or "off"
	Identity  string   `json:"identity"`   // "ephemeral": a new peer identity at every boot
	Announce  bool     `json:"announce"`   // serve verified blocks to peers and announce it; never with a proxy
	Proxy     string   `json:"proxy"`      // URL of a proxy for every connection, "" for none
	Stale     string   `json:"stale"`      // policy for expired metadata: "refuse" or "last-good"
	RandomMAC bool     `json:"random_mac"` // use a random MAC address, send no host name in DHCP, give the lease back
	// DHCPMirror asks DHCP servers for the address of a mirror (option 224), a hint as on the kernel
	// command line.
	DHCPMirror bool `json:"dhcp_mirror"`
	// NoShell removes the shell from the menu of a failed boot, for a machine that others can reach.
	NoShell bool `json:"no_shell,omitempty"`
	// Retry is the number of failed attempts after which the machine restarts; 0 is never.
	// phase.retry= on the kernel command line replaces it.
	Retry int `json:"retry,omitempty"`
	// Tor starts the Tor of the image (phase-image --with-tor) for a boot. Proxy is its SOCKS port.
	// phase-boot fetch uses a Tor that is running.
	Tor bool `json:"tor,omitempty"`
	// Report says who gets the boot reports of a machine: "" for nobody, or ReportPublisher. A mode that hides the
	// machine (cache "off", a proxy, a random MAC address) has none.
	Report string `json:"report,omitempty"`
}

// ReportPublisher is the value of Mode.Report for a machine that reports its boots to the publisher.
const ReportPublisher = "publisher"

// Uses reports whether the mode's discovery includes way.
func (m Mode) Uses(way string) bool { return slices.Contains(m.Discovery, way) }

func parse(name string, data []byte) (Mode, error) {
	var m Mode
	err := checkKeys(data)
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		err = dec.Decode(&m)
	}
	if err == nil {
		err = m.check(name)
	}
	if err != nil {
		return Mode{}, fmt.Errorf("%w %.40s.json: %w", ErrMalformed, name, err)
	}
	return m, nil
}

// checkKeys refuses data that are not one JSON object with each key at most once and in lower case, as a mode
// writes it. Package json takes the last of several keys, in any case.
func checkKeys(data []byte) error {
	if len(data) > MaxFile {
		return fmt.Errorf("%d bytes: at most %d", len(data), MaxFile)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		return errors.New("must be one JSON object")
	}
	seen := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		name, _ := key.(string) // of an object, so it is one
		if seen[name] || name != strings.ToLower(name) {
			return fmt.Errorf("key %.40q: repeated, or not in lower case", name)
		}
		seen[name] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
		if string(value) == "null" {
			return fmt.Errorf("key %.40q: must not be null; remove it", name)
		}
	}
	if _, err := dec.Token(); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

func (m Mode) check(name string) error {
	switch {
	case m.Name != name || !nameForm.MatchString(name):
		return fmt.Errorf("name %.40q: must be the file's name %.40q, with 1 to 32 characters a-z, 0-9 and -", m.Name, name)
	case !isTitle(m.Title):
		return fmt.Errorf("title %.100q: must have 1 to %d printable ASCII characters, without double quotes, the boot menu shows it", m.Title, maxTitle)
	case len(m.Discovery) == 0:
		return errors.New("discovery: must not be empty; use mirror, dht, mdns")
	case m.Identity != "ephemeral":
		return fmt.Errorf("identity %.40q: must be ephemeral", m.Identity)
	case m.Tor && (m.Announce || !isLocalSOCKS(m.Proxy)):
		return fmt.Errorf("tor: proxy %.40q must be a SOCKS port of this machine like socks5://127.0.0.1:9050, and announce false", m.Proxy)
	case m.Retry < 0 || m.Retry > maxRetry:
		return fmt.Errorf("retry %d: must be from 0 to %d", m.Retry, maxRetry)
	}
	switch {
	case m.Report != "" && m.Report != ReportPublisher:
		return fmt.Errorf("report %.40q: must be publisher; leave it out for none", m.Report)
	case m.Report != "" && (m.Cache == "off" || m.Proxy != "" || m.RandomMAC):
		return errors.New("report: not in a mode with cache off, a proxy or a random MAC address, which hides the machine; remove report")
	}
	if m.Proxy != "" {
		if err := bootargs.CheckProxy(m.Proxy); err != nil {
			return fmt.Errorf("proxy: %w", err)
		}
	}
	for i, way := range m.Discovery {
		if !slices.Contains([]string{"mirror", "dht", "mdns"}, way) || slices.Contains(m.Discovery[:i], way) {
			return fmt.Errorf("discovery %.40q: unknown or repeated; use mirror, dht, mdns", way)
		}
	}
	if !slices.Contains([]string{"rw", "ro", "off"}, m.Cache) {
		return fmt.Errorf("cache %.40q: must be rw, ro or off", m.Cache)
	}
	if !slices.Contains([]string{"refuse", "last-good"}, m.Stale) {
		return fmt.Errorf("stale %.40q: must be refuse or last-good", m.Stale)
	}
	return nil
}

// isTitle reports whether boot loaders show a text as it is. They would cut off spaces at its ends and remove
// quotes, and a new line would be a new setting.
func isTitle(s string) bool {
	other := func(r rune) bool { return r < ' ' || r > '~' || r == '"' }
	return s != "" && len(s) <= maxTitle && strings.TrimSpace(s) == s && !strings.ContainsFunc(s, other)
}

// isLocalSOCKS reports whether a proxy is a SOCKS port on the loopback interface.
func isLocalSOCKS(proxy string) bool {
	port, found := strings.CutPrefix(proxy, "socks5://127.0.0.1:")
	n, err := strconv.ParseUint(port, 10, 16)
	return found && err == nil && n > 0
}
