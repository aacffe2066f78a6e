package arch

import (
	"fmt"
	"slices"
	"strings"
)

const module = "github.com/phaseboot/phaseboot"

// A rule says which of our packages a package may import. Both are paths below the
// module; one that ends in /... stands for everything below it too. Test files are
// free.
type rule struct {
	pkg    string
	may    []string
	reason string
}

// rules are read top down; the first row that fits a package is its rule.
var rules = []rule{
	{"cas", []string{"internal/car"}, "bytes and hashes know nothing of trust, network or disk"},
	{"cas/...", []string{"cas/...", "internal/car", "internal/atomicfile", "internal/file"}, "bytes and hashes know nothing of trust or network"},
	{"manifest/...", []string{"manifest/...", "cas/...", "internal/atomicfile", "internal/file", "internal/refusal"}, "trust is decided from bytes alone"},

	{
		"signer/key",
		[]string{"manifest", "cas", "internal/atomicfile", "internal/ed25519pem", "internal/file", "internal/refusal"},
		"a publisher opens its keys with it, so it contains nothing that makes or signs a release",
	},
	{
		"signer/...",
		[]string{"signer/...", "manifest/...", "cas/...", "internal/atomicfile", "internal/file", "internal/bootfile", "internal/ipnsname", "internal/refusal"},
		"keys stay where the ceremony is: nothing that serves or boots is near them",
	},
	{
		"publisher/repo",
		[]string{"manifest/...", "cas/...", "internal/ipnsname", "internal/p2p", "internal/atomicfile", "internal/file", "internal/refusal"},
		"the repository is signed without looking at the store",
	},
	{
		"publisher/store",
		[]string{"publisher/repo", "manifest/...", "cas/...", "internal/atomicfile", "internal/file", "internal/refusal"},
		"care of the store needs no network",
	},
	{
		"publisher/ingest",
		[]string{"publisher/repo", "publisher/store", "manifest/...", "cas/..."},
		"adding a release needs no network",
	},
	{
		"publisher/mirror",
		[]string{"publisher/repo", "publisher/store", "manifest/...", "cas/...", "internal/p2p", "internal/atomicfile", "internal/file"},
		"a mirror is made of the store and the repository, without a daemon",
	},
	{
		"publisher/...",
		[]string{"publisher/...", "manifest/...", "cas/...", "internal/p2p/...", "internal/gateway", "internal/bitswap", "internal/limit", "internal/atomicfile", "internal/file", "internal/ed25519pem", "internal/ipnsname"},
		"a publisher has no release key and shares no code path with the machine that must distrust it",
	},
	{"bootclient/timing", []string{"internal/gateway"}, "a leaf: a table of times"},
	{"bootclient/report", []string{"bootclient/timing", "internal/bootargs"}, "it records what the other rooms do, and knows none of them"},
	{
		"bootclient/cache",
		[]string{"bootclient/report", "bootclient/timing", "cas/...", "internal/atomicfile", "internal/file", "internal/bootargs", "internal/p2p"},
		"the disk of a machine: it decides no trust and finds no source",
	},
	{
		"bootclient/...",
		[]string{"bootclient/...", "modes", "manifest/...", "cas/...", "internal/p2p", "internal/gateway", "internal/limit", "internal/atomicfile", "internal/file", "internal/bootfile", "internal/bootargs", "internal/kmod", "internal/ed25519pem", "internal/refusal"},
		"what boots cannot sign or publish",
	},
	{"modes", nil, "boot policies are data that both the image and the boot read"},
	{
		"imagebuild/...",
		[]string{"imagebuild/...", "modes", "manifest/...", "cas/...", "internal/atomicfile", "internal/file", "internal/bootargs", "internal/bootfile", "internal/kmod", "internal/refusal"},
		"an image is made of packages and one root.json, without keys or network of ours",
	},
	{"plasm/...", []string{"plasm/...", "manifest/...", "cas/...", "internal/file", "internal/ed25519pem", "internal/refusal"}, "a job's host has neither keys of ours nor a network"},

	{"internal/gateway", []string{"cas", "internal/car", "internal/limit", "internal/file"}, "it moves blocks; what they mean is not its business"},
	{"internal/bitswap", []string{"cas", "internal/limit"}, "it moves blocks; what they mean is not its business"},
	{"internal/p2p/...", []string{"internal/p2p/...", "internal/gateway", "internal/bitswap", "cas"}, "it moves blocks; what they mean is not its business"},
	{"internal/limit", nil, "a leaf"},
	{"internal/car", nil, "a leaf: the store on disk and the gateway frame blocks alike"},
	{"internal/bootfile/...", []string{"internal/bootfile"}, "a leaf: signer and machine judge a kernel by the same rules, and share nothing else"},
	{"internal/atomicfile", []string{"internal/file"}, "a leaf"},
	{"internal/bootargs", []string{"internal/refusal"}, "a leaf: the machine and the image builder read one grammar"},
	{"internal/kmod", nil, "a leaf: the machine loads modules by the names that the image builder writes"},
	{"internal/file/...", []string{"internal/refusal"}, "a leaf"},
	{"internal/refusal", nil, "a leaf"},
	{"internal/ed25519pem", nil, "a leaf: signer, publisher, machine and plasm read one form of key"},
	{"internal/ipnsname", nil, "a leaf: a signer names the key that a publisher uses, without a network"},
	{"internal/scripttest", nil, "a leaf"},
	{"internal/netns", nil, "a leaf"},
	{"internal/vault/...", []string{"internal/vault/..."}, "a KMS plugin is a program of its own"},
	{"internal/arch", nil, "a leaf"},
	{"internal/cli", []string{"manifest", "cas", "internal/atomicfile", "internal/file"}, "the frame of every command, and no command's logic"},
	{"bench/store", []string{"cas/..."}, "it measures the store alone"},
	{"bench/net", []string{"internal/ipnsname", "internal/p2p", "internal/gateway", "cas/..."}, "it runs the commands, and hostile peers of its own"},
	{"bench/siege", []string{"publisher/...", "signer/...", "manifest", "cas", "internal/p2p", "internal/gateway"}, "it runs a whole publisher"},
	{"internal/e2e/...", []string{"..."}, "the whole system at once"},
	{"docs", nil, "documents; their tests run the commands that they show"},

	{
		"cmd/...",
		[]string{"publisher/...", "bootclient/...", "imagebuild/...", "modes", "signer/...", "plasm/...", "manifest/...", "cas/...", "internal/..."},
		"flags and wiring; a command never imports another",
	},
}

// A ban is an import from outside the module that a package must not have itself. An import that
// ends in /... stands for everything below it too.
type ban struct {
	pkg    string
	never  []string
	reason string
}

// goTUF verifies metadata signatures. Only its package metadata has types as well.
const goTUF = "github.com/theupdateframework/go-tuf/v2"

var bans = []ban{
	{"signer/...", []string{goTUF + "/..."}, "only manifest decides about signatures, thresholds, versions and dates"},
	{"bootclient/...", []string{goTUF + "/..."}, "only manifest decides about signatures, thresholds, versions and dates"},
	{"imagebuild/...", []string{goTUF + "/..."}, "only manifest decides about signatures, thresholds, versions and dates"},
	{"plasm/...", []string{goTUF + "/..."}, "only manifest decides about signatures, thresholds, versions and dates"},
	{"cmd/...", []string{goTUF + "/..."}, "only manifest decides about signatures, thresholds, versions and dates"},
	{"internal/...", []string{goTUF + "/..."}, "only manifest decides about signatures, thresholds, versions and dates"},
	{"publisher/...", []string{goTUF + "/metadata/trustedmetadata", goTUF + "/metadata/updater"}, "it builds snapshots and timestamps from go-tuf's types, and verifies with manifest"},

	{"cas/...", []string{"net", "net/http", "os/exec"}, "cas names and checks bytes; sources bring them"},
	{"manifest/...", []string{"net", "net/http", "os/exec"}, "no network where trust is decided"},
	{"signer/...", []string{"net/http"}, "a ceremony works on a machine without network"},
	{"plasm/...", []string{"net", "net/http", "os/exec"}, "a job's host grants what it names, and names none of these"},
	{"bootclient/...", []string{"github.com/spf13/cobra"}, "it lives in an initramfs"},
	{"internal/atomicfile", []string{"net", "net/http", "os/exec"}, "a leaf"},
	{"internal/file", []string{"net", "net/http", "os/exec"}, "a leaf"},
}

// fits reports whether a path below the module is pkg, or below it for "pkg/...".
func fits(pattern, path string) bool {
	if pattern == "..." {
		return true
	}
	base, tree := strings.CutSuffix(pattern, "/...")
	return path == base || tree && strings.HasPrefix(path, base+"/")
}

// breaches lists what is wrong with a package's imports, in words.
func breaches(path string, imports []string) []string {
	own, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return nil
	}
	i := slices.IndexFunc(rules, func(r rule) bool { return fits(r.pkg, own) })
	if i < 0 {
		return []string{fmt.Sprintf("%s: no row in the table of rules; add one with its reason", own)}
	}
	var found []string
	for _, imp := range imports {
		if rest, ours := strings.CutPrefix(imp, module+"/"); ours && !slices.ContainsFunc(rules[i].may, func(m string) bool { return fits(m, rest) }) {
			found = append(found, fmt.Sprintf("%s imports %s: %s", own, rest, rules[i].reason))
		}
		for _, b := range bans {
			if fits(b.pkg, own) && slices.ContainsFunc(b.never, func(n string) bool { return fits(n, imp) }) {
				found = append(found, fmt.Sprintf("%s imports %s: %s", own, imp, b.reason))
			}
		}
	}
	return found
}

type verifier struct {
	call   string
	in     []string // files
	reason string
}

// verifiers are the calls that verify a signature, and the files that may have them. Everywhere
// else a package asks manifest.
var verifiers = []verifier{
	{"ed25519.Verify(", []string{"manifest/authority.go"}, "the signatures of metadata"},
	{"ed25519.Verify(", []string{"signer/key/agent.go", "signer/key/kms.go", "internal/vault/key.go", "internal/vault/plugin.go"}, "a signature that was just made, before it is used"},
	{"ed25519.Verify(", []string{"plasm/receipt.go"}, "receipts of jobs"},
	{".VerifyDelegate(", nil, "go-tuf's check of a threshold"},
}

// verifies lists the calls in a Go file that verify a signature where only manifest may.
func verifies(path, content string) []string {
	if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
		return nil
	}
	var found []string
	for _, v := range verifiers {
		allowed := slices.ContainsFunc(verifiers, func(o verifier) bool { return o.call == v.call && slices.Contains(o.in, path) })
		if !allowed && strings.Contains(content, v.call) {
			found = append(found, fmt.Sprintf("%s calls %s…): only manifest verifies metadata; for another signature add the file and its reason", path, v.call))
		}
	}
	return found
}

// A text must not appear in the tree. Words are written in pieces so that this file
// keeps its own rule.
type text struct {
	pieces []string
	in     string // suffix of the files that it is about, "" for all
	reason string
}

func (t text) String() string { return strings.Join(t.pieces, "") }

var texts = []text{
	{pieces: []string{"deb.", "debian.org"}, reason: "mirrors come from the host's own apt"},
	{pieces: []string{"security.", "debian.org"}, reason: "mirrors come from the host's own apt"},
	{pieces: []string{"ftp.", "debian.org"}, reason: "mirrors come from the host's own apt"},
	{pieces: []string{"proxy.", "golang.org"}, reason: "the Go command knows its proxy"},
	{pieces: []string{"sum.", "golang.org"}, reason: "the Go command knows its checksum database"},
	{pieces: []string{"registry.", "npmjs.org"}, reason: "nothing here comes from there"},
	{pieces: []string{"pypi.", "org"}, reason: "nothing here comes from there"},
	{pieces: []string{"docker.", "io/"}, reason: "nothing here comes from there"},
	{pieces: []string{"ghcr.", "io/"}, reason: "nothing here comes from there"},
	{pieces: []string{"t.", "Skip"}, in: "_test.go", reason: "a test that is skipped proves nothing"},
	{pieces: []string{"TO", "DO"}, in: ".go", reason: "finish it, or say in docs/RATIONALE.md why not"},
	{pieces: []string{"FIX", "ME"}, in: ".go", reason: "finish it, or say in docs/RATIONALE.md why not"},
}

// faults lists the texts that a file must not contain, in words.
func faults(path, content string) []string {
	var found []string
	for _, t := range texts {
		if strings.HasSuffix(path, t.in) && strings.Contains(content, t.String()) {
			found = append(found, fmt.Sprintf("%s contains %q: %s", path, t, t.reason))
		}
	}
	return found
}
