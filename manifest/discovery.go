package manifest

import (
	"net/url"
	"regexp"
	"strings"

	"github.com/ipfs/go-cid"
)

// Discovery lists the places where the metadata directory of a repository is found. It is the
// field x-phaseboot of root.json:
//
//	{"repository": "…", "discovery": [{"ipns": "k51…"}, {"https": "https://…"}],
//	 "dht": {"prefix": "/phaseboot/…", "bootstrap": ["/ip4/…/p2p/…"]}}
//
// Entries of unknown kinds are ignored. A place never widens trust.
type Discovery struct {
	IPNS      []string // IPNS names, CIDs of libp2p keys
	HTTPS     []string // web mirrors, https:// or http://; integrity does not depend on TLS
	DHTPrefix string   // protocol prefix of the private DHT, "" for none
	Bootstrap []string // multiaddrs with /p2p/ID
}

const maxHints = 32

var (
	prefixGrammar    = regexp.MustCompile(`^(/[A-Za-z0-9._-]+){1,8}$`)
	bootstrapGrammar = regexp.MustCompile(`^/[!-~]{1,255}$`)
)

// discovery checks the field x-phaseboot of a root.
func (l *linter) discovery(path string, x object) {
	if v, ok := x["discovery"]; ok {
		l.hints(join(path, "discovery"), v)
	}
	v, ok := x["dht"]
	if !ok {
		return
	}
	path = join(path, "dht")
	dht := l.object(path, v)
	l.known(path, dht, "prefix", "bootstrap")
	if v, ok := dht["prefix"]; ok {
		s := l.match(join(path, "prefix"), v, prefixGrammar, "a protocol prefix like /phaseboot/NAME")
		if len(s) > 128 {
			l.fail(join(path, "prefix"), "%d bytes; at most 128", len(s))
		}
	}
	v, ok = dht["bootstrap"]
	if !ok {
		return
	}
	path = join(path, "bootstrap")
	list := l.list(path, v)
	if len(list) > maxHints {
		l.fail(path, "%d entries; at most %d", len(list), maxHints)
	}
	for i, v := range list {
		s := l.match(index(path, i), v, bootstrapGrammar, "a multiaddr")
		if !strings.Contains(s, "/p2p/") {
			l.fail(index(path, i), "%.80q has no /p2p/ID", s)
		}
	}
}

// hints checks the list of discovery entries. Entries of unknown kinds pass.
func (l *linter) hints(path string, v any) {
	list := l.list(path, v)
	if len(list) > maxHints {
		l.fail(path, "%d entries; at most %d", len(list), maxHints)
	}
	for i, v := range list {
		p := index(path, i)
		entry := l.object(p, v)
		l.known(p, entry, "ipns", "https")
		name, isIPNS := entry["ipns"]
		addr, isHTTPS := entry["https"]
		if isIPNS && isHTTPS {
			l.fail(p, "one entry is of two kinds")
		}
		if isIPNS {
			if s := l.text(join(p, "ipns"), name); !validIPNS(s) {
				l.fail(join(p, "ipns"), "%.80q is not an IPNS name like k51…", s)
			}
		}
		if isHTTPS {
			if s := l.text(join(p, "https"), addr); !validMirror(s) {
				if strings.Contains(s, "@") { // it may contain a password: do not print it
					s = "…@…"
				}
				l.fail(join(p, "https"), "%.80q is not a web address like https://host/path, without a user", s)
			}
		}
	}
}

// validIPNS reports whether s is a CIDv1 of a libp2p key.
func validIPNS(s string) bool {
	if len(s) > 128 {
		return false
	}
	c, err := cid.Decode(s)
	return err == nil && c.Version() == 1 && c.Type() == cid.Libp2pKey
}

func validMirror(s string) bool {
	u, err := url.Parse(s)
	return err == nil && len(s) <= 1024 && (u.Scheme == "https" || u.Scheme == "http") &&
		u.Hostname() != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
}

// fields is the field x-phaseboot of a root.
func (d Discovery) fields() object {
	hints, dht := []object{}, object{}
	for _, name := range d.IPNS {
		hints = append(hints, object{"ipns": name})
	}
	for _, addr := range d.HTTPS {
		hints = append(hints, object{"https": addr})
	}
	if d.DHTPrefix != "" {
		dht["prefix"] = d.DHTPrefix
	}
	if len(d.Bootstrap) > 0 {
		dht["bootstrap"] = d.Bootstrap
	}
	fields := object{"discovery": hints}
	if len(dht) > 0 {
		fields["dht"] = dht
	}
	return fields
}

// Discovery is where a root says that the repository is found, empty for other kinds.
func (d *Document) Discovery() (found Discovery) {
	if d.kind != KindRoot {
		return found // Lint does not check the fields there
	}
	hints, _ := d.extension()["discovery"].([]any)
	for _, v := range hints {
		hint := v.(object)
		if name, ok := hint["ipns"].(string); ok {
			found.IPNS = append(found.IPNS, name)
		}
		if addr, ok := hint["https"].(string); ok {
			found.HTTPS = append(found.HTTPS, addr)
		}
	}
	dht, _ := d.extension()["dht"].(object)
	found.DHTPrefix, _ = dht["prefix"].(string)
	found.Bootstrap = texts(dht["bootstrap"])
	return found
}
