package bootargs

import (
	"cmp"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Rights to the cache partition, the least first.
var Rights = []string{"off", "ro", "rw"}

// misuse is an error that the person who typed it mends. It is an fs.ErrInvalid.
type misuse struct{ msg string }

func (m misuse) Error() string        { return m.msg }
func (m misuse) Is(target error) bool { return target == fs.ErrInvalid }

func misusef(format string, args ...any) error { return misuse{fmt.Sprintf(format, args...)} }

// Check returns an error for the first word of a command line that the machine would pass
// over or refuse: a phase.* word, or one for the initramfs of another system. The mode and the channel are only names here: the caller knows
// which exist. The error wraps fs.ErrInvalid.
func Check(cmdline string) (Arguments, error) {
	var a Arguments
	for _, word := range SplitWords(cmdline) {
		if err := a.take(word); err != nil {
			return a, misuse{err.Error()}
		}
		if isRelease(word) {
			return a, misusef("phase.release: the machine sets it; leave it out")
		}
	}
	return a, cmp.Or(CheckCache(a.Cache), checkEach(a.Mirrors, CheckMirror), checkEach(a.Peers, checkPeer), checkEach(a.Bootstrap, checkPeer))
}

func checkEach(values []string, check func(string) error) error {
	for _, v := range values {
		if err := check(v); err != nil {
			return err
		}
	}
	return nil
}

// CheckCache refuses a value of phase.cache= that is none of Rights; "" says that the mode
// decides.
func CheckCache(s string) error {
	if s != "" && !slices.Contains(Rights, s) {
		return misusef("phase.cache=%.20q: unknown; use rw, ro or off", s)
	}
	return nil
}

// CheckMirror refuses what is not the address of a mirror: http or https, with or without a
// user and password, or file:///FOLDER.
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
		return misusef("mirror %.200q: not a web address, nor a folder; write it like https://example.org/mirror or file:///srv/mirror", redactAll(s))
	}
	return nil
}

// ParsePeer reads the multiaddr of a peer, which ends in /p2p/ID.
func ParsePeer(s string) (peer.AddrInfo, error) {
	a, err := multiaddr.NewMultiaddr(s)
	if err != nil {
		return peer.AddrInfo{}, misusef("address %.200q: not a multiaddr; write it like /ip4/192.0.2.1/tcp/4001/p2p/12D3…", s)
	}
	info, err := peer.AddrInfoFromP2pAddr(a)
	if err != nil {
		return peer.AddrInfo{}, misusef("peer %.200q: no peer ID; write it like /ip4/192.0.2.1/tcp/4001/p2p/12D3…", s)
	}
	return *info, nil
}

func checkPeer(s string) error {
	_, err := ParsePeer(s)
	return err
}
