package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"errors"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/publisher/ingest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/signer"
	"github.com/phaseboot/phaseboot/signer/key"
)

// verbs are the command lines of all commands, with a slot for each argument that can be wrong.
var verbs = map[string]string{
	"add":       "add --store {store} --repo {repo} --artifacts {artifacts} --online-key {key} --passphrase-file {phrase} {manifest}",
	"serve":     "serve --store {store} --repo {repo} --online-key {key} --ipns-key {ipns} --passphrase-file {phrase} --http {http} --netboot {netboot} --listen {listen} --dht off --mdns=false",
	"bootstrap": "bootstrap --root {root} --listen {listen}",
	"status":    "status --store {store} --repo {repo}",
	"fsck":      "fsck --store {store} --repo {repo}",
	"gc":        "gc --store {store} --repo {repo}",
	"stats":     "stats --store {store} --repo {repo}",
	"export":    "export --store {store} --repo {repo} --ipns-key {ipns} --passphrase-file {phrase} --netboot {netboot} --out {out}",
	"get":       "get --store {store} --repo {repo} --channel stable --out {out}",
}

var good = map[string]string{
	"store": "store", "repo": "repo", "artifacts": "artifacts2", "key": "online.key", "ipns": "ipns.key", "phrase": "right",
	"manifest": "v2.json", "root": "repo/root.json", "out": "out", "http": "127.0.0.1:0", "netboot": ".", "listen": "/ip4/127.0.0.1/tcp/0",
}

// classes are the errors of each slot, with the exit code of every command that has the slot,
// and the codes of the commands that differ.
var classes = []struct {
	slot, value string
	code        int
	but         map[string]int
}{
	{"store", "nowhere", 4, nil},
	{"store", "text", 2, nil}, // a file
	{"store", "empty", 4, map[string]int{"add": 0}},
	{"store", "artifacts", 4, nil},
	{"store", "shortpack", 5, map[string]int{"stats": 0, "add": 0}}, // stats only counts; add writes another release
	{"store", "nopack", 5, map[string]int{"stats": 0, "add": 0}},
	{"repo", "nowhere", 4, nil},
	{"repo", "text", 2, nil},
	{"repo", "empty", 4, nil},
	{"repo", "unreleased", 4, map[string]int{"add": 0, "status": 0, "fsck": 0, "stats": 0}},
	{"repo", "shorttimestamp", 5, map[string]int{"fsck": 0, "gc": 0, "stats": 0}},          // they only read manifests
	{"repo", "shortmanifest", 3, map[string]int{"fsck": 5, "gc": 5, "stats": 5, "get": 5}}, // not the one that the snapshot names
	{"repo", "shortroot", 5, nil},
	{"repo", "forged", 3, map[string]int{"fsck": 0, "gc": 0, "stats": 0}}, // another key signed the timestamp
	{"repo", "expired", 3, map[string]int{"serve": 0, "fsck": 0, "gc": 0, "stats": 0, "get": 0}},
	{"netboot", "nowhere", 4, nil},
	{"netboot", "text", 2, nil},
	{"key", "nowhere", 4, nil},
	{"key", "repo", 2, nil},
	{"key", "online.key.pub", 2, nil},
	{"key", "text", 5, nil},
	{"key", "void", 5, nil},
	{"key", "unlisted.key", 3, nil},
	{"key", "ssh-agent:SHA256:nobody", 4, nil},
	{"key", "exposed.key", 0, map[string]int{"serve": 1}},
	{"ipns", "nowhere", 4, nil},
	{"ipns", "repo", 2, nil},
	{"ipns", "text", 5, nil},
	{"ipns", "online.key", 2, nil}, // not the name in root.json
	{"manifest", "nowhere", 4, nil},
	{"manifest", "repo", 2, nil},
	{"manifest", "void", 5, nil},
	{"manifest", "text", 5, nil},
	{"manifest", "package", 5, nil},
	{"manifest", "online.key.pub", 5, nil},
	{"manifest", "repo/1.root.json", 2, nil},
	{"manifest", "repo/1.targets.json", 2, nil},
	{"manifest", "short.json", 5, nil},
	{"manifest", "foreign.json", 3, nil},
	{"manifest", "expired/1.stable-x86_64.json", 3, nil},
	{"artifacts", "nowhere", 4, nil},
	{"artifacts", "text", 2, nil},
	{"artifacts", "empty", 4, nil},
	{"artifacts", "changed", 5, nil},
	{"root", "nowhere", 4, nil},
	{"root", "repo", 2, nil},
	{"root", "text", 5, nil},
	{"root", "package", 5, nil},
	{"root", "v2.json", 2, nil},
	{"root", "repo/1.targets.json", 2, nil},
	{"root", "void", 5, nil},
	{"out", "text", 2, nil},
	{"out", "store/out", 2, map[string]int{"get": 0}},
	{"out", "artifacts", 2, map[string]int{"get": 0}}, // the same files as in the release
	{"out", "changed", 2, map[string]int{"get": 1}},   // get replaces nothing
	{"http", "nonsense", 2, nil},
	{"http", "{taken}", 1, nil},
	{"listen", "nonsense", 2, nil},
}

// Every class of error, in every slot of every command that has it, ends with the exit code
// of the README's table. A daemon that starts is stopped and must exit 0.
func TestEveryErrorHasTheExitCodeOfItsClass(t *testing.T) {
	base := t.TempDir()
	setUp(t, base)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { taken.Close() })
	cells := 0
	for _, verb := range slices.Sorted(maps.Keys(verbs)) {
		cell := func(name string, args []string, want int) {
			cells++
			t.Run(verb+"/"+name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				if out, err := exec.Command("cp", "-r", base+"/.", dir).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				wantExit(t, dir, args, want)
			})
		}
		cell("good", fill(verb, "", ""), 0)
		cell("unknown flag", append(fill(verb, "", ""), "--nonsense"), 2)
		cell("argument", append(fill(verb, "", ""), "more", "and more"), 2)
		for _, c := range classes {
			if !strings.Contains(verbs[verb], "{"+c.slot+"}") {
				continue
			}
			want, ok := c.but[verb]
			if !ok {
				want = c.code
			}
			value := strings.ReplaceAll(c.value, "{taken}", taken.Addr().String())
			cell(c.slot+" "+strings.ReplaceAll(c.value, "/", "_"), fill(verb, c.slot, value), want)
		}
	}
	t.Logf("%d cells", cells)
}

var placeholder = regexp.MustCompile(`\{(\w+)\}`)

// fill returns a command line with one slot set to a value.
func fill(verb, slot, value string) []string {
	line := placeholder.ReplaceAllStringFunc(verbs[verb], func(p string) string {
		if name := strings.Trim(p, "{}"); name != slot {
			return good[name]
		}
		return value
	})
	return strings.Fields(line)
}

func wantExit(t *testing.T, dir string, args []string, want int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "phase-publish", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), `{"peer":`) { // a daemon is ready
			check(t, cmd.Process.Signal(syscall.SIGTERM))
		}
	}
	var ended *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("phase-publish %s: exit code %d, want %d\n%s", strings.Join(args, " "), got, want, stderr.String())
	}
	said := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	if want != 0 && (!strings.HasPrefix(said[len(said)-1], "phase-publish: ") || strings.Contains(stderr.String(), "panic")) {
		t.Errorf("phase-publish %s: says %s", strings.Join(args, " "), stderr.String())
	}
}

// setUp makes a repository with release v1 in its store, and damaged copies of both.
func setUp(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	keys := map[string]key.Key{}
	for _, name := range []string{"root", "release", "online", "ipns", "unlisted", "exposed"} {
		k, err := key.Generate(t.Context(), at(name+".key"), nil)
		check(t, err)
		keys[name] = k
	}
	for i, folder := range []string{"artifacts", "artifacts2", "changed"} {
		check(t, os.MkdirAll(at(folder+"/job"), 0o755))
		for _, role := range []string{"kernel", "initramfs", "rootfs", "job/hello.wasm"} {
			check(t, os.WriteFile(at(folder+"/"+role), bytes.Repeat([]byte{byte(i), byte(len(role))}, 100_000), 0o644))
		}
	}
	now := time.Now()
	release := func(repo, signed, folder, out, version string, now time.Time) {
		t.Helper()
		_, err := signer.Release(t.Context(), signer.ReleaseSpec{
			ManifestSpec: signer.ManifestSpec{
				Repo: at(repo), Channel: "stable", Arch: "x86_64", Lifetime: 12 * time.Hour, Keys: []key.Key{keys[signed]}, Out: at(out), Now: now,
			},
			Version: version, Kernel: at(folder + "/kernel"), Initramfs: at(folder + "/initramfs"), Rootfs: at(folder + "/rootfs"), Job: at(folder + "/job/hello.wasm"),
			Chunker: cas.DefaultChunker, Unchecked: true,
		})
		check(t, err)
	}
	repository := func(name, owner string, now time.Time) {
		t.Helper()
		_, err := signer.Init(t.Context(), signer.InitSpec{
			Dir: at(name), Root: []key.Key{keys["root"]}, RootThreshold: 1,
			Release: []ed25519.PublicKey{keys[owner].Public()}, ReleaseThreshold: 1,
			Online: keys["online"].Public(), IPNS: keys["ipns"].Public(), Channels: []string{"stable"}, Archs: []string{"x86_64"},
			Now: now, RootLifetime: 24 * time.Hour, TargetsLifetime: 24 * time.Hour,
		})
		check(t, err)
	}
	publish := func(repoDir, storeDir, folder, file, online string, now time.Time) {
		t.Helper()
		data, err := os.ReadFile(at(file))
		check(t, err)
		_, err = ingest.Add(t.Context(), ingest.Options{
			Store: at(storeDir), Repo: at(repoDir), Artifacts: at(folder), Manifest: data, Now: func() time.Time { return now },
			Online: repo.OnlineKey{Signer: keys[online].Signer(), Public: keys[online].Public()},
		})
		check(t, err)
	}
	repository("repo", "release", now)
	check(t, os.CopyFS(at("unreleased"), os.DirFS(at("repo"))))
	release("repo", "release", "artifacts", "v1.json", "v1", now)
	publish("repo", "store", "artifacts", "v1.json", "online", now)
	release("repo", "release", "artifacts2", "v2.json", "v2", now)
	repository("foreign", "unlisted", now)
	release("foreign", "unlisted", "artifacts", "foreign.json", "v1", now)
	past := now.Add(-48 * time.Hour)
	repository("expired", "release", past)
	release("expired", "release", "artifacts", "old.json", "v1", past)
	publish("expired", "store", "artifacts", "old.json", "online", past)

	keys["online"] = keys["unlisted"] // signs the timestamp of a repository of the same shape
	repository("strange", "release", now)
	release("strange", "release", "artifacts", "strange.json", "v1", now)
	publish("strange", "store", "artifacts", "strange.json", "online", now)
	shell(t, dir, `
echo text > text; echo '{"name": "package"}' > package; : > void; echo right > right; chmod 600 right text void; chmod 644 exposed.key; mkdir empty
cp online.key exposed.key
head -c 900 v2.json > short.json
cp -r store shortpack; truncate -s 3000 shortpack/pack-00000001.car
cp -r store nopack; rm nopack/pack-00000001.car nopack/pack-00000001.idx
for kind in timestamp manifest root; do cp -r repo short$kind; done
truncate -s 300 shorttimestamp/timestamp.json; truncate -s 300 shortmanifest/1.stable-x86_64.json
rm -f shortroot/root.json; truncate -s 300 shortroot/1.root.json
cp -r repo forged; cp strange/timestamp.json strange/1.snapshot.json forged/
`)
}

func shell(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-eu", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
