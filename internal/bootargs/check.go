package bootargs

import (
	"cmp"
	"net/url"
	"path"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/phaseboot/phaseboot/internal/onion"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// Rights to the cache partition, the least first.
var Rights = []string{"off", "ro", "rw"}

// Check returns an error for the first argument of a command line that the machine would ignore or
// refuse: a phase.* argument, or an argument for the initramfs of another system. It does not check
// whether the mode and the channel exist. The error wraps fs.ErrInvalid.
func Check(cmdline string) (Arguments, error) {
	var a Arguments
	for _, word := range SplitWords(cmdline) {
		if err := a.take(word); err != nil {
			return a, refusal.Invalid("%v", err)
		}
		if isRelease(word) {
			return a, refusal.Invalid("phase.release: the machine sets it; leave it out")
		}
	}
	a.dropPlain()
	return a, cmp.Or(CheckCache(a.Cache), CheckSources(a.Mirrors, a.Peers, a.Bootstrap))
}

// CheckSources returns an error that wraps fs.ErrInvalid for the first value that is not the address
// of a mirror or of a peer.
func CheckSources(mirrors, peers, bootstrap []string) error {
	return cmp.Or(checkEach(mirrors, CheckMirror), checkEach(peers, checkPeer), checkEach(bootstrap, checkPeer))
}

func checkEach(values []string, check func(string) error) error {
	for _, v := range values {
		if err := check(v); err != nil {
			return err
		}
	}
	return nil
}

// CheckCache refuses a value of phase.cache= that is not one of Rights. "" is accepted: the mode
// decides.
func CheckCache(s string) error {
	if s != "" && !slices.Contains(Rights, s) {
		return refusal.Invalid("phase.cache=%.20q: unknown; use rw, ro or off", s)
	}
	return nil
}

// CheckMirror refuses a value that is not the address of a mirror: an http or https URL, which may have
// a user and password, or file:///FOLDER.
func CheckMirror(s string) error {
	u, err := url.Parse(s)
	ok := err == nil && u.RawQuery == "" && u.Fragment == "" && u.Opaque == ""
	switch {
	case ok && u.Scheme == "file":
		ok = u.Host == "" && u.User == nil && path.IsAbs(u.Path)
	case ok:
		ok = (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != ""
	}
	if !ok {
		return refusal.Invalid("mirror %.200q: not a web address or folder; write it like https://example.org/mirror or file:///srv/mirror", redactAll(s))
	}
	return nil
}

// ParsePeer parses the multiaddr of a peer, which ends in /p2p/ID.
func ParsePeer(s string) (peer.AddrInfo, error) {
	a, err := multiaddr.NewMultiaddr(s)
	if err != nil {
		return peer.AddrInfo{}, refusal.Invalid("address %.200q: not a multiaddr; write it like /ip4/192.0.2.1/tcp/4001/p2p/12D3…", s)
	}
	info, err := peer.AddrInfoFromP2pAddr(a)
	if err != nil {
		return peer.AddrInfo{}, refusal.Invalid("peer %.200q: no peer ID; write it like /ip4/192.0.2.1/tcp/4001/p2p/12D3…", s)
	}
	return *info, nil
}

func checkPeer(s string) error {
	_, err := ParsePeer(s)
	return err
}

// CheckOnion refuses an onion service among mirrors unless proxy, nil for none, is a SOCKS5 proxy: only
// Tor can resolve its name. remedy says what to do.
func CheckOnion(mirrors []string, proxy *url.URL, remedy string) error {
	if proxy != nil && (proxy.Scheme == "socks5" || proxy.Scheme == "socks5h") {
		return nil
	}
	for _, m := range mirrors {
		if u, err := url.Parse(m); err == nil && onion.IsName(u.Hostname()) {
			return refusal.Invalid("mirror %.200q: an onion service can only be reached through Tor; %s", redactAll(m), remedy)
		}
	}
	return nil
}
