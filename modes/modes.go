package modes

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Default is the mode when the kernel command line does not name one.
const Default = "internet"

// maxRetry is the largest number of attempts, as of phase.retry=.
const maxRetry = 1000

// ErrMalformed marks a file that is not a valid mode.
var ErrMalformed = errors.New("malformed boot mode")

// A Mode is a boot policy as read from its file.
type Mode struct {
	Name  string `json:"name"`  // the file's name without .json: [a-z0-9-]+
	Title string `json:"title"` // text of the boot menu entry
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
}

// Uses reports whether the mode's discovery includes way.
func (m Mode) Uses(way string) bool { return slices.Contains(m.Discovery, way) }

//go:embed *.json
var files embed.FS

// Load returns a mode by its name. The error for an unknown name wraps fs.ErrNotExist and
// lists the known names.
func Load(name string) (Mode, error) {
	if !slices.Contains(Names(), name) {
		return Mode{}, fmt.Errorf("boot mode %.40q: %w; use one of %s", name, fs.ErrNotExist, strings.Join(Names(), ", "))
	}
	data, err := files.ReadFile(name + ".json")
	if err != nil {
		return Mode{}, err
	}
	return parse(name, data)
}

// Available lists the modes that an image can boot, Default first: without Tor, those that do not
// need it.
func Available(tor bool) []string {
	return slices.DeleteFunc(Names(), func(name string) bool {
		m, err := Load(name)
		return err != nil || m.Tor && !tor
	})
}

// Names lists the modes of this build, Default first.
func Names() []string {
	found, _ := fs.Glob(files, "*.json") // cannot fail: the pattern is valid
	names := []string{Default}
	for _, f := range found {
		if n := strings.TrimSuffix(f, ".json"); n != Default {
			names = append(names, n)
		}
	}
	return names
}

func parse(name string, data []byte) (Mode, error) {
	var m Mode
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(&m)
	if err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = errors.New("more than one JSON value")
		}
	}
	if err == nil {
		err = m.check(name)
	}
	if err != nil {
		return Mode{}, fmt.Errorf("%w %s.json: %w", ErrMalformed, name, err)
	}
	return m, nil
}

var nameForm = regexp.MustCompile(`^[a-z0-9-]+$`)

func (m Mode) check(name string) error {
	switch {
	case m.Name != name || !nameForm.MatchString(name):
		return fmt.Errorf("name %.40q: must be the file's name %.40q, with characters a-z, 0-9 and -", m.Name, name)
	case m.Title == "":
		return errors.New("title: must not be empty, the boot menu shows it")
	case len(m.Discovery) == 0:
		return errors.New("discovery: must not be empty; use mirror, dht, mdns")
	case m.Identity != "ephemeral":
		return fmt.Errorf("identity %.40q: must be ephemeral", m.Identity)
	case m.Tor && (m.Announce || !isLocalSOCKS(m.Proxy)):
		return fmt.Errorf("tor: proxy %.40q must be a SOCKS port of this machine like socks5://127.0.0.1:9050, and announce false", m.Proxy)
	case m.Retry < 0 || m.Retry > maxRetry:
		return fmt.Errorf("retry %d: must be from 0 to %d", m.Retry, maxRetry)
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

// isLocalSOCKS reports whether a proxy is a SOCKS port on the loopback interface.
func isLocalSOCKS(proxy string) bool {
	port, found := strings.CutPrefix(proxy, "socks5://127.0.0.1:")
	n, err := strconv.ParseUint(port, 10, 16)
	return found && err == nil && n > 0
}
