package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/spf13/pflag"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/modes"
	"github.com/phaseboot/phaseboot/plasm/daemon"
)

const fetchTimeout = 2 * time.Minute

// sourceFlags say where a module is fetched that a job names by its CID.
type sourceFlags struct {
	mirrors, peers, bootstrap []string
	cache                     string
	timeout                   time.Duration
}

func (f *sourceFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.mirrors, "mirror", nil, "`URL` of a mirror from which modules are fetched by their CID (repeatable)")
	flags.StringArrayVar(&f.peers, "peer", nil, "`multiaddr` with /p2p/ID of a peer from which modules are fetched (repeatable)")
	flags.StringArrayVar(&f.bootstrap, "bootstrap", nil, "`multiaddr` with /p2p/ID of a bootstrap node of the DHT (repeatable; default: those of --root)")
	flags.StringVar(&f.cache, "cache", "", "`folder` of a boot's cache, from which modules are read first (default: cache beside the release, if it is there)")
	flags.DurationVar(&f.timeout, "fetch-timeout", fetchTimeout, "time for a module to be fetched, before its job ends as unreachable")
}

// readSources sets how modules are fetched: as the boot did, from the sources that its mode, the root and the
// flags name, and from the mirrors that sent something during the boot.
func (s *server) readSources() error {
	f := s.sources
	if f.timeout <= 0 {
		return cli.Usagef("--fetch-timeout %s: must be positive", f.timeout)
	}
	m, err := s.fetchMode()
	if err != nil {
		return err
	}
	if m.Proxy != "" && len(f.peers)+len(f.bootstrap) > 0 {
		return cli.Usagef("--peer, --bootstrap: the proxy of mode %s is for mirrors only; name a mirror or another mode", m.Name)
	}
	cfg := bootclient.Config{
		Mode: m, Mirrors: slices.Concat(f.mirrors, bootMirrors(s.report)), Peers: f.peers, Bootstrap: f.bootstrap,
		Timeout: f.timeout, Log: s.log,
	}
	if err := cfg.Check(); err != nil {
		return err
	}
	switch {
	case s.repository != nil:
		cfg.Root = s.repository.Bytes()
	case s.mode == "" && len(cfg.Mirrors)+len(cfg.Peers)+len(cfg.Bootstrap) == 0 && f.cache == "":
		return nil // no source is known
	}
	if m.Tor && f.timeout == fetchTimeout {
		cfg.Timeout = 0 // that of a boot through Tor
	}
	if m.Proxy == "" {
		cfg.Proxy = http.ProxyFromEnvironment
	}
	if cfg.Cache, cfg.CacheWanted = f.cache, f.cache != ""; !cfg.CacheWanted && s.release != "" {
		if at := filepath.Join(filepath.Dir(s.release), "cache"); isFolder(at) {
			cfg.Cache = at
		}
	}
	s.opts.Fetch = func(ctx context.Context, c cid.Cid, limit int64) ([]byte, error) {
		data, err := bootclient.File(ctx, cfg, c, limit)
		if tooLarge := new(bootclient.TooLargeError); errors.As(err, &tooLarge) {
			return nil, refusal.New(daemon.ErrTooLarge, "%v", err)
		}
		return data, err
	}
	return nil
}

// fetchMode returns the mode whose rules a fetch follows: that of --mode, or without it one that finds sources as
// phase-boot fetch does, and with --private one that asks only mirrors.
func (s *server) fetchMode() (modes.Mode, error) {
	switch {
	case s.mode != "":
		return s.bootMode, nil
	case s.private:
		return modes.Load("private")
	}
	return modes.Load(modes.Default)
}

// bootMirrors returns the mirrors that sent blocks during the boot, from its report: a person or a DHCP server may
// have named them, and nothing else tells this machine.
func bootMirrors(data []byte) (mirrors []string) {
	var boot struct {
		Sources []report.SourceStats `json:"sources"`
	}
	if json.Unmarshal(data, &boot) != nil {
		return nil // only its digest counts
	}
	for _, s := range boot.Sources {
		u, err := url.Parse(s.Name)
		if s.Kind != peers.KindMirror || s.Blocks == 0 || s.Banned || err != nil || u.Scheme == "file" || u.User != nil {
			continue // a report has no passwords
		}
		if bootargs.CheckMirror(s.Name) == nil && len(mirrors) < maxBootMirrors {
			mirrors = append(mirrors, s.Name)
		}
	}
	return mirrors
}

const maxBootMirrors = 16

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
