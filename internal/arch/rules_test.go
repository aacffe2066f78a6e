package arch

import (
	"fmt"
	"slices"
	"strings"
)

const module = "github.com/phaseboot/phaseboot"

// A rule lists the packages of this module that a package may import. Paths are relative to the
// module; a path that ends in /... includes all packages below it. Test files may import anything.
type rule struct {
	pkg    string
	may    []string
	reason string
}

// The first row that matches a package is its rule.
var rules = []rule{
	{"cas", []string{"internal/car"}, "cas names and checks bytes; the disk, the network and trust are elsewhere"},
	{"cas/...", []string{"cas/...", "internal/car", "internal/atomicfile", "internal/file"}, "cas stores and checks bytes; it must not use the network or decide trust"},
	{"manifest/...", []string{"manifest/...", "cas/...", "internal/atomicfile", "internal/file", "internal/refusal"}, "manifest decides trust from bytes alone"},

	{
		"signer/key",
		[]string{"manifest", "cas", "internal/atomicfile", "internal/authenticode", "internal/ed25519pem", "internal/file", "internal/refusal"},
		"a publisher opens its keys with it, so it contains nothing that makes or signs a release",
	},
	{
		"signer/...",
		[]string{"signer/...", "manifest/...", "cas/...", "internal/atomicfile", "internal/authenticode", "internal/file", "internal/bootfile", "internal/ipnsname", "internal/refusal"},
		"release keys are used only in a ceremony, without code that serves or boots",
	},
	{
		"publisher/repo",
		[]string{"manifest/...", "cas/...", "internal/ipnsname", "internal/p2p", "internal/atomicfile", "internal/file", "internal/refusal"},
		"the repository is signed without looking at the store",
	},
	{
		"publisher/bucket",
		[]string{"cas/...", "internal/car", "internal/file"},
		"it keeps blocks and objects, and knows neither a release nor a repository",
	},
	{
		"publisher/store",
		[]string{"publisher/bucket", "publisher/repo", "manifest/...", "cas/...", "internal/atomicfile", "internal/file", "internal/refusal"},
		"care of the store needs no network but that of an object store",
	},
	{
		"publisher/ingest",
		[]string{"publisher/bucket", "publisher/repo", "publisher/store", "manifest/...", "cas/..."},
		"adding a release needs no network but that of an object store",
	},
	{
		"publisher/mirror",
		[]string{"publisher/bucket", "publisher/repo", "publisher/store", "manifest/...", "cas/...", "internal/p2p", "internal/atomicfile", "internal/file"},
		"a mirror is made of the store and the repository, without a daemon",
	},
	{
		"publisher/reports",
		[]string{"manifest", "cas", "internal/bootreport", "internal/limit", "internal/file", "internal/refusal"},
		"it keeps what machines say, and knows neither the store nor a release",
	},
	{
		"publisher/admin",
		[]string{"publisher/reports", "publisher/repo", "manifest", "cas", "internal/bootreport", "internal/gateway", "internal/p2p", "internal/limit", "internal/file", "internal/refusal"},
		"it shows what a publisher knows, and serves no release; a receipt is verified by a function of its caller",
	},
	{
		"publisher/...",
		[]string{"publisher/...", "manifest/...", "cas/...", "internal/bootreport", "internal/p2p/...", "internal/gateway", "internal/bitswap", "internal/limit", "internal/atomicfile", "internal/file", "internal/ed25519pem", "internal/ipnsname"},
		"a publisher holds no release key, and shares no code with the machine that verifies what it sends",
	},
	{"bootclient/timing", []string{"internal/gateway"}, "a leaf: a table of times"},
	{"bootclient/report", []string{"bootclient/timing", "internal/bootargs", "internal/p2p", "internal/refusal"}, "it records what the other packages do, and knows none of them"},
	{
		"bootclient/cache",
		[]string{"bootclient/report", "bootclient/timing", "cas/...", "internal/atomicfile", "internal/file", "internal/p2p", "internal/refusal"},
		"the disk of a machine: it decides no trust and finds no source",
	},
	{
		"bootclient/peers",
		[]string{"bootclient/cache", "bootclient/report", "bootclient/timing", "modes", "manifest", "cas/...", "internal/p2p", "internal/gateway", "internal/bootargs", "internal/refusal"},
		"it finds sources and judges each, and knows neither what is searched nor what is fetched",
	},
	{
		"bootclient/resolve",
		[]string{"bootclient/peers", "bootclient/cache", "bootclient/report", "bootclient/timing", "manifest", "cas", "internal/p2p", "internal/gateway"},
		"it chooses the release that manifest verified, and reads no artifact",
	},
	{
		"bootclient/fetch",
		[]string{"bootclient/peers", "bootclient/cache", "bootclient/report", "bootclient/timing", "manifest", "cas", "internal/gateway", "internal/file"},
		"it brings a release that was verified, and searches none",
	},
	{
		"bootclient/share",
		[]string{"bootclient/peers", "bootclient/cache", "bootclient/report", "bootclient/timing", "manifest", "cas/...", "internal/p2p", "internal/gateway", "internal/limit"},
		"it serves blocks that others verified",
	},
	{
		"bootclient/network",
		[]string{"internal/bootargs", "internal/atomicfile", "internal/refusal"},
		"it makes addresses and routes, and knows nothing of releases",
	},
	{
		"bootclient/seed",
		[]string{"bootclient/share", "bootclient/resolve", "bootclient/peers", "bootclient/cache", "bootclient/report", "bootclient/timing", "manifest", "cas/...", "internal/p2p", "internal/gateway", "internal/limit", "internal/file"},
		"it serves a cache and fetches nothing",
	},
	{
		"bootclient/outbox",
		[]string{"bootclient/timing", "cas", "internal/bootreport", "internal/bootargs", "internal/gateway", "internal/p2p", "internal/atomicfile", "internal/file"},
		"it sends documents that are signed already, and decides nothing",
	},
	{
		"bootclient/watch",
		[]string{"bootclient", "bootclient/report", "bootclient/timing", "manifest", "internal/atomicfile", "internal/file", "internal/window"},
		"it decides when a machine looks for the next release, and starts none",
	},
	{"bootclient/machine/display", []string{"bootclient/report"}, "a leaf: it says what to print, without a terminal"},
	{"bootclient/machine/kexecload", []string{"internal/bootfile"}, "a leaf: it loads files that were verified, and knows no release"},
	{"bootclient/machine/menu", nil, "a leaf: keys and lines, without a terminal"},
	{
		"bootclient/...",
		[]string{"bootclient/...", "modes", "manifest/...", "cas/...", "internal/p2p", "internal/gateway", "internal/limit", "internal/atomicfile", "internal/file", "internal/bootfile", "internal/bootargs", "internal/bootreport", "internal/bootset", "internal/gpt", "internal/kmod", "internal/ed25519pem", "internal/refusal", "internal/window"},
		"a booting machine has no code that signs or publishes",
	},
	{"modes", []string{"internal/bootargs", "internal/file"}, "boot modes are data that both the image builder and the boot client read"},
	{
		"imagebuild/...",
		[]string{"imagebuild/...", "modes", "manifest/...", "cas/...", "internal/atomicfile", "internal/authenticode", "internal/file", "internal/bootargs", "internal/bootfile", "internal/bootset", "internal/envelope", "internal/fat32", "internal/gpt", "internal/kmod", "internal/refusal"},
		"an image is built from packages and one root.json, without keys and without our network code",
	},
	{"plasm/api", []string{"plasm", "cas"}, "a leaf: types that daemon and client share"},
	{
		"plasm/client",
		[]string{"plasm/api", "plasm/order", "plasm/receipt", "plasm", "manifest", "cas", "internal/p2p", "internal/refusal"},
		"it sends jobs and checks receipts, and runs none",
	},
	{"plasm/queue", []string{"cas", "internal/atomicfile", "internal/file", "internal/refusal"}, "it keeps records, and knows neither the network nor how a job runs"},
	{
		"plasm/daemon",
		[]string{"plasm/...", "manifest", "cas", "internal/p2p", "internal/limit", "internal/file", "internal/refusal"},
		"it takes jobs, and knows neither where a release was fetched nor how a module is",
	},
	{"plasm/...", []string{"plasm/...", "manifest/...", "cas/...", "internal/envelope", "internal/file", "internal/ed25519pem", "internal/atomicfile", "internal/refusal"}, "the host of a job has no keys and no network"},

	{"internal/gateway", []string{"cas", "internal/car", "internal/limit", "internal/file", "internal/onion"}, "it transfers blocks and does not interpret them"},
	{"internal/bitswap", []string{"cas", "internal/limit"}, "it transfers blocks and does not interpret them"},
	{"internal/p2p/...", []string{"internal/p2p/...", "internal/gateway", "internal/bitswap", "cas"}, "it transfers blocks and does not interpret them"},
	{"internal/limit", nil, "a leaf"},
	{"internal/car", nil, "a leaf: the store on disk and the gateway frame blocks alike"},
	{"internal/bootfile/...", []string{"internal/bootfile"}, "a leaf: signer and machine check a kernel by the same rules"},
	{"internal/authenticode", []string{"cas", "internal/refusal"}, "a leaf: a UKI and the kernel of a release are signed for Secure Boot alike"},
	{"internal/atomicfile", []string{"internal/file", "internal/refusal"}, "a leaf"},
	{"internal/bootargs", []string{"internal/onion", "internal/refusal", "internal/window"}, "a leaf: the machine and the image builder parse the kernel command line in the same way"},
	{"internal/bootset", []string{"internal/fat32"}, "machine and image builder write and judge boot sets by the same rules; neither decides trust there"},
	{"internal/fat32", nil, "a leaf: it changes a filesystem, and knows neither images nor machines"},
	{"internal/gpt", nil, "a leaf: it changes a partition table, and knows neither images nor machines"},
	{"internal/kmod", nil, "a leaf: the machine loads modules by the names that the image builder writes"},
	{"internal/file/...", []string{"internal/refusal"}, "a leaf"},
	{"internal/bootreport", []string{"manifest", "internal/envelope", "internal/refusal"}, "a leaf: machine and publisher have one form of a boot report"},
	{"internal/envelope", []string{"manifest", "internal/refusal"}, "it signs and reads what others define, and knows no trusted key"},
	{"internal/onion", nil, "a leaf: the mirrors that a person names and redirects are judged alike"},
	{"internal/refusal", nil, "a leaf"},
	{"internal/window", []string{"internal/refusal"}, "a leaf: times of the week, without a clock"},
	{"internal/ed25519pem", nil, "a leaf: signer, publisher, machine and plasm read one form of key"},
	{"internal/ipnsname", nil, "a leaf: a signer names the key that a publisher uses, without a network"},
	{"internal/systemd", nil, "a leaf: the daemons speak with their service manager alike"},
	{"internal/scripttest", nil, "a leaf"},
	{"internal/s3test", nil, "a leaf: it runs an S3 server for tests"},
	{"internal/looptest", nil, "a leaf"},
	{"internal/netns", nil, "a leaf"},
	{"internal/browser", nil, "a leaf: tests and screenshots use it, and no program"},
	{"internal/vault/...", []string{"internal/vault/..."}, "a KMS plugin is a program of its own"},
	{"internal/arch", nil, "a leaf"},
	{"internal/cli", []string{"manifest", "cas", "internal/atomicfile", "internal/file"}, "the framework of all commands, without the logic of any"},
	{"bench/store", []string{"cas/..."}, "it measures only the store"},
	{"bench/objects", []string{"publisher/bucket", "cas", "internal/s3test"}, "it measures only the store in an object store"},
	{"bench/plasm", []string{"plasm/...", "manifest", "cas"}, "it measures only jobs"},
	{"bench/net", []string{"internal/ipnsname", "internal/p2p", "internal/gateway", "cas/..."}, "it runs the commands, and hostile peers of its own"},
	{"bench/boot", nil, "it runs the commands"},
	{"bench/siege", []string{"publisher/...", "signer/...", "manifest", "cas", "internal/p2p", "internal/gateway"}, "it attacks a running publisher"},
	{"internal/e2e/...", []string{"..."}, "it tests the whole system"},
	{"docs", nil, "the tests of the documents run the commands that they show"},

	{
		"cmd/...",
		[]string{"publisher/...", "bootclient/...", "imagebuild/...", "modes", "signer/...", "plasm/...", "manifest/...", "cas/...", "internal/..."},
		"commands have flags and wiring; a command never imports another",
	},
}

// A ban lists packages outside the module that a package must not import itself. An import that
// ends in /... stands for everything below it too.
type ban struct {
	pkg    string
	never  []string
	reason string
}

const (
	// goTUF verifies metadata signatures.
	goTUF    = "github.com/theupdateframework/go-tuf/v2"
	oneJudge = "only manifest decides about signatures, thresholds, versions and dates"
)

var bans = []ban{
	{"signer/...", []string{goTUF + "/..."}, oneJudge},
	{"bootclient/...", []string{goTUF + "/..."}, oneJudge},
	{"imagebuild/...", []string{goTUF + "/..."}, oneJudge},
	{"plasm/...", []string{goTUF + "/..."}, oneJudge},
	{"cmd/...", []string{goTUF + "/..."}, oneJudge},
	{"internal/...", []string{goTUF + "/..."}, oneJudge},
	{"publisher/...", []string{goTUF + "/metadata/trustedmetadata", goTUF + "/metadata/updater"}, "it builds snapshots and timestamps from go-tuf's types, and verifies with manifest"},

	{"cas/...", []string{"net", "net/http", "os/exec"}, "cas stores and checks bytes; it must not use the network or run programs"},
	{"manifest/...", []string{"net", "net/http", "os/exec"}, "manifest decides trust; it must not use the network or run programs"},
	{"signer/...", []string{"net/http"}, "a signing ceremony must work on a machine without network"},
	{"plasm", []string{"net", "net/http", "os/exec"}, "the host of a job grants it no network and no programs"},
	{"plasm/receipt", []string{"net", "net/http", "os/exec"}, "documents are made and read without a network"},
	{"plasm/order", []string{"net", "net/http", "os/exec"}, "documents are made and read without a network"},
	{"plasm/queue", []string{"net", "net/http", "os/exec"}, "it keeps records"},
	{"bootclient/...", []string{"github.com/spf13/cobra"}, "the initramfs must stay small"},
	{"internal/atomicfile", []string{"net", "net/http", "os/exec"}, "a leaf"},
	{"internal/file", []string{"net", "net/http", "os/exec"}, "a leaf"},
}

// fits reports whether a path matches a pattern: "pkg", or "pkg/..." for all below it too.
func fits(pattern, path string) bool {
	if pattern == "..." {
		return true
	}
	base, tree := strings.CutSuffix(pattern, "/...")
	return path == base || tree && strings.HasPrefix(path, base+"/")
}

// violations returns a message for each import of a package that breaks a rule or a ban.
func violations(path string, imports []string) []string {
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

// A verifier is a file that may verify a signature or a hash of metadata.
type verifier struct{ path, call, reason string }

// verifierCalls are the calls that verify. Outside verifiers a package calls manifest.
var verifierCalls = []string{"ed25519.Verify(", ".VerifyDelegate(", ".VerifyLengthHashes("}

var verifiers = []verifier{
	{"manifest/authority.go", "ed25519.Verify(", "signatures of metadata"},
	{"manifest/check.go", ".VerifyLengthHashes(", "hashes in timestamp and snapshot"},
	{"manifest/workflow_top.go", ".VerifyLengthHashes(", "hashes in timestamp and snapshot"},
	{"internal/envelope/envelope.go", "ed25519.Verify(", "statements of rebuilders, orders and receipts of jobs"},
	{"signer/key/agent.go", "ed25519.Verify(", "a new signature, before it is used"},
	{"signer/key/kms.go", "ed25519.Verify(", "a new signature, before it is used"},
	{"internal/vault/key.go", "ed25519.Verify(", "a new signature, before it is used"},
	{"internal/vault/plugin.go", "ed25519.Verify(", "a method of sigstore's protocol"},
}

// verifies lists the calls in a Go file that only other files may have.
func verifies(path, content string) []string {
	if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
		return nil
	}
	var found []string
	for _, call := range verifierCalls {
		allowed := slices.ContainsFunc(verifiers, func(v verifier) bool { return v.path == path && v.call == call })
		if !allowed && strings.Contains(content, call) {
			found = append(found, fmt.Sprintf("%s calls %s…): only manifest verifies metadata; for another signature add a row with its reason", path, call))
		}
	}
	return found
}

// A text is a string that no file may contain. It is written in pieces so that this file does not
// contain it.
type text struct {
	pieces []string
	in     string // suffix of the names of the files, "" for all
	reason string
}

func (t text) String() string { return strings.Join(t.pieces, "") }

var texts = []text{
	{pieces: []string{"deb.", "debian.org"}, reason: "use the mirrors of the host's apt"},
	{pieces: []string{"security.", "debian.org"}, reason: "use the mirrors of the host's apt"},
	{pieces: []string{"ftp.", "debian.org"}, reason: "use the mirrors of the host's apt"},
	{pieces: []string{"proxy.", "golang.org"}, reason: "the go command has its own setting"},
	{pieces: []string{"sum.", "golang.org"}, reason: "the go command has its own setting"},
	{pieces: []string{"registry.", "npmjs.org"}, reason: "nothing may be downloaded from there"},
	{pieces: []string{"pypi.", "org"}, reason: "nothing may be downloaded from there"},
	{pieces: []string{"docker.", "io/"}, reason: "nothing may be downloaded from there"},
	{pieces: []string{"ghcr.", "io/"}, reason: "nothing may be downloaded from there"},
	{pieces: []string{"t.", "Skip"}, in: "_test.go", reason: "a skipped test proves nothing"},
	{pieces: []string{"TO", "DO"}, in: ".go", reason: "finish it, or explain in docs/RATIONALE.md why not"},
	{pieces: []string{"FIX", "ME"}, in: ".go", reason: "finish it, or explain in docs/RATIONALE.md why not"},
}

// forbidden returns a message for each forbidden text in a file.
func forbidden(path, content string) []string {
	var found []string
	for _, t := range texts {
		if strings.HasSuffix(path, t.in) && strings.Contains(content, t.String()) {
			found = append(found, fmt.Sprintf("%s contains %q: %s", path, t, t.reason))
		}
	}
	return found
}
