package bootclient

import (
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/modes"
)

// Config says what to boot and where to look. Only Root decides about trust; all
// the rest are hints.
type Config struct {
	Root          []byte // root.json, the one thing that is trusted
	Channel, Arch string
	Mode          modes.Mode
	Cache         string                // folder for blocks and remembered metadata, "" for none
	CacheWanted   bool                  // a person named Cache: what makes it useless is an error, and it is not made anew
	Mirrors       []string              // URLs that /ipfs/ and /ipns/ hang under: http, https, file
	Peers         []string              // multiaddrs with /p2p/ID
	Bootstrap     []string              // the same, to enter the DHT; also asked directly
	Share         bool                  // serve what is verified while it is fetched, where the mode announces
	HTTP          string                // host:port to serve at, "" for a free port
	Listen        []multiaddr.Multiaddr // the same for peers, none for free ports
	Timeout       time.Duration         // to find a valid release; 0 is DefaultTimeout
	Patience      time.Duration         // to wait for the next block of it; 0 is DefaultPatience
	Floor         time.Time             // the clock is not before this (image build time)
	Now           func() time.Time
	ClockUnsure   bool // the dates of https certificates are passed over: nobody set this clock
	Log           *slog.Logger
	Report        *Report
	// Proxy returns the proxy for a request to a mirror, as http.ProxyFromEnvironment does; a
	// mode with a proxy of its own comes first. Nil is none. Peers are dialled directly.
	Proxy func(*http.Request) (*url.URL, error)
	// Ready is told where others find this machine, when it begins to serve. Nil is fine.
	Ready func(Ready)
	// Stay, when not nil, is told after Commit what is served and where, and a machine that
	// serves goes on until ctx ends, which is no error then.
	Stay func(Ready)
	// Progress is called now and then, from one goroutine, with the verified and
	// the total bytes of the artifacts. Nil is fine.
	Progress func(done, total int64)
	// Keep is a folder to which Run writes, before Commit, what Seed needs beside the
	// artifacts: a cache with metadata, record and inner nodes, and no leaf. A machine
	// that serves nobody writes nothing. "" for none.
	Keep string
	// Artifacts is a folder with kernel, initramfs, rootfs, job/NAME.wasm, from which Seed
	// takes the leaves that Cache has not. "" for none.
	Artifacts string

	times      *timings                        // nil: usual
	interfaces func() ([]net.Interface, error) // nil: net.Interfaces
}

// Check reports the first hint that is not an address, as an error that wraps
// fs.ErrInvalid. Run itself leaves such a hint out and says so in the report: a slip on
// a kernel command line does not stop a boot.
func (c Config) Check() error {
	for _, m := range c.Mirrors {
		if err := bootargs.CheckMirror(m); err != nil {
			return err
		}
	}
	for _, p := range append(append([]string{}, c.Peers...), c.Bootstrap...) {
		if _, err := bootargs.ParsePeer(p); err != nil {
			return err
		}
	}
	return nil
}

// misuse is an error that the person who typed it mends. It is an fs.ErrInvalid.
type misuse struct{ msg string }

func (m misuse) Error() string        { return m.msg }
func (m misuse) Is(target error) bool { return target == fs.ErrInvalid }

// complete fills in what was left out.
func (c Config) complete() Config {
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Patience <= 0 {
		c.Patience = DefaultPatience
	}
	if c.interfaces == nil {
		c.interfaces = net.Interfaces
	}
	if c.times == nil {
		c.times = &usual
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Report == nil {
		c.Report = NewReport(time.Now(), nil)
	}
	if c.Ready == nil {
		c.Ready = func(Ready) {}
	}
	if c.Progress == nil {
		c.Progress = func(int64, int64) {}
	}
	if c.Mode.Cache == "off" {
		c.Cache = ""
	}
	return c
}

// shares reports whether others may be served. A proxy is there so that nobody sees the
// machine.
func (c Config) shares() bool { return c.Share && c.Mode.Announce && c.Mode.Proxy == "" }

func (c Config) blocksDir() string { return filepath.Join(c.Cache, "blocks") }
func (c Config) trustDir() string  { return filepath.Join(c.Cache, "trust") }

// mirrorKey makes one source of two spellings of a URL.
func mirrorKey(s string) string { return strings.TrimRight(s, "/") }
