package modes

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Default is the mode of a machine whose command line names none.
const Default = "internet"

// ErrMalformed says that a mode's file is not what this package describes.
var ErrMalformed = errors.New("malformed boot mode")

// A Mode is one boot policy, as its file says it.
type Mode struct {
	Name  string `json:"name"`  // the file's name without .json: [a-z0-9-]+
	Title string `json:"title"` // the words of the boot menu
	// Discovery lists the ways to find sources, first choice first: "mirror"
	// (the https URLs of root.json), "dht", "mdns". Mirrors, peers and bootstrap
	// nodes named on the command line are used in every mode.
	Discovery []string `json:"discovery"`
	Cache     string   `json:"cache"`      // "rw", "ro" or "off": the cache partition
	Identity  string   `json:"identity"`   // "ephemeral": a new peer identity every boot
	Announce  bool     `json:"announce"`   // serve what is verified to others and tell them; never with a proxy
	Proxy     string   `json:"proxy"`      // URL of a proxy for every connection, "" for none
	Stale     string   `json:"stale"`      // expired metadata: "refuse" or "last-good"
	RandomMAC bool     `json:"random_mac"` // a random hardware address, no host name in DHCP
}

// Uses reports whether the mode discovers by the given way.
func (m Mode) Uses(way string) bool { return slices.Contains(m.Discovery, way) }

//go:embed *.json
var files embed.FS

// Load returns the mode of a name. An unknown name wraps fs.ErrNotExist and
// lists the known ones.
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

// Names lists the modes of this build, the default one first.
func Names() []string {
	found, err := fs.Glob(files, "*.json")
	if err != nil {
		return nil
	}
	names := []string{Default}
	for _, f := range found {
		if n := strings.TrimSuffix(path.Base(f), ".json"); n != Default {
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
		return fmt.Errorf("name is %.40q, the file says %.40q", m.Name, name)
	case m.Title == "":
		return errors.New("title is empty: the boot menu shows it")
	case len(m.Discovery) == 0:
		return errors.New("discovery is empty: name mirror, dht or mdns")
	case m.Identity != "ephemeral":
		return fmt.Errorf("identity %.40q: only ephemeral is known", m.Identity)
	}
	for i, way := range m.Discovery {
		if !slices.Contains([]string{"mirror", "dht", "mdns"}, way) || slices.Contains(m.Discovery[:i], way) {
			return fmt.Errorf("discovery %.40q: unknown or named twice; use mirror, dht, mdns", way)
		}
	}
	if !slices.Contains([]string{"rw", "ro", "off"}, m.Cache) {
		return fmt.Errorf("cache %.40q: one of rw, ro, off", m.Cache)
	}
	if !slices.Contains([]string{"refuse", "last-good"}, m.Stale) {
		return fmt.Errorf("stale %.40q: one of refuse, last-good", m.Stale)
	}
	return nil
}
