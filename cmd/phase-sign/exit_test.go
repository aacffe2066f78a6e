package main

import (
	"crypto/ed25519"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/signer"
	"github.com/phaseboot/phaseboot/signer/key"
)

// verbs are the command lines of all commands, with a placeholder for each argument.
var verbs = map[string]string{
	"key generate": "key generate --no-passphrase --out {out}",
	"init":         "init --repo {new} --root-key {rootkey} --release-key {public} --online-key online.pub --ipns-key ipns.pub --channel stable --arch {arch}",
	"release":      "release --repo {repo} --channel {channel} --arch {arch} --release 3 --kernel {artifact} --initramfs initrd --key {key} --out {out}",
	"promote":      "promote --repo {repo} --from stable --to edge --arch {arch} --key {key} --out {out} {manifest}",
	"rollback":     "rollback --repo {repo} --channel {channel} --arch {arch} --key {key} --out {out}",
	"rotate":       "rotate --repo {repo} --key {rootkey} --out {new}",
	"cid":          "cid {artifact}",
	"add":          "add --repo {repo} --key {key} {manifest}",
	"show":         "show --repo {repo} {manifest}",
	"verify":       "verify --root {root} --repo {repo} {manifest}",
	"history":      "history --repo {repo} --channel {channel} --arch {arch}",
	"channels":     "channels --repo {repo}",
}

var good = map[string]string{
	"out": "out.json", "new": "new", "rootkey": "root", "public": "release.pub", "arch": "x86_64", "repo": "repo", "channel": "stable",
	"artifact": "bzImage", "key": "release", "manifest": "R2.json", "root": "repo/root.json",
}

// classes are wrong values for the placeholders, and the exit code of every command that has the
// placeholder; but lists commands with another exit code.
var classes = []struct {
	place, value string
	code         int
	but          map[string]int
}{
	{"repo", "nowhere", 4, nil},
	{"repo", "text", 2, nil}, // a file
	{"repo", "truncated", 5, nil},
	{"repo", "garbled", 5, nil},
	{"repo", "forged", 3, map[string]int{"show": 0, "add": 0}}, // the first signer finds no signatures
	{"repo", "expired", 3, map[string]int{"history": 0, "channels": 0, "rotate": 0}},
	{"repo", "foreign", 3, map[string]int{"release": 0, "rollback": 4, "rotate": 0, "history": 0, "channels": 0}}, // same keys, another ID
	{"rootkey", "release", 3, map[string]int{"init": 0}},
	{"rootkey", "nowhere", 4, nil},
	{"rootkey", "text", 5, nil},
	{"public", "nowhere", 4, nil},
	{"public", "repo", 2, nil},
	{"public", "text", 5, nil},
	{"arch", "amd64", 2, nil},
	{"channel", "nightly", 4, nil},
	{"channel", "No!", 2, nil},
	{"key", "nowhere", 4, nil},
	{"key", "repo", 2, nil},
	{"key", "release.pub", 2, nil},
	{"key", "empty", 5, nil},
	{"key", "text", 5, nil},
	{"key", "cutkey", 5, nil},
	{"key", "locked", 1, nil}, // wrong passphrase
	{"key", "ssh-agent:SHA256:missing", 4, nil},
	{"key", "unlisted", 3, nil},
	{"key", "/dev/zero", 2, nil},
	{"artifact", "nowhere", 4, nil},
	{"artifact", "repo", 2, nil},
	{"artifact", "empty", 5, nil},
	{"artifact", "cut", 5, map[string]int{"cid": 0}},
	{"artifact", "text", 2, map[string]int{"cid": 0}},
	{"artifact", "/dev/zero", 2, nil},
	{"manifest", "nowhere", 4, nil},
	{"manifest", "repo", 2, nil},
	{"manifest", "empty", 5, nil},
	{"manifest", "text", 5, nil},
	{"manifest", "package", 5, nil},
	{"manifest", "release.pub", 5, nil},
	{"manifest", "repo/root.json", 2, map[string]int{"add": 3, "show": 0, "verify": 0}}, // whose key is another one
	{"manifest", "truncated/R2.json", 5, nil},
	{"manifest", "forged/R2.json", 3, nil},
	{"manifest", "expired/R2.json", 3, nil},
	{"manifest", "foreign/R2.json", 3, nil},
	{"manifest", "/dev/zero", 2, nil},
	{"root", "nowhere", 4, nil},
	{"root", "repo", 2, nil},
	{"root", "text", 5, nil},
	{"root", "R2.json", 2, nil},
	{"root", "repo/1.targets.json", 2, nil},
	{"root", "package", 5, nil},
	{"root", "forged/root.json", 3, nil},
	{"root", "foreign/root.json", 3, nil},
	{"root", "expired/root.json", 3, nil},
	{"out", "nowhere/out.json", 4, nil},
	{"out", "repo", 2, nil},
	{"out", "text", 2, map[string]int{"key generate": 1}}, // it never replaces anything
	{"new", "repo", 1, map[string]int{"rotate": 0}},       // init never replaces anything
	{"new", "text", 2, nil},
}

// Every wrong value, in every command that has the placeholder, ends with the exit code of the
// README's table.
func TestEveryErrorHasTheExitCodeOfItsClass(t *testing.T) {
	base := t.TempDir()
	setUp(t, base)
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
		for _, c := range classes {
			if !strings.Contains(verbs[verb], "{"+c.place+"}") {
				continue
			}
			want, ok := c.but[verb]
			if !ok {
				want = c.code
			}
			cell(c.place+" "+strings.ReplaceAll(c.value, "/", "_"), fill(verb, c.place, c.value), want)
		}
	}
	t.Logf("%d cells", cells)
}

var placeholder = regexp.MustCompile(`\{(\w+)\}`)

// fill returns a command line with one placeholder set to a value.
func fill(verb, place, value string) []string {
	line := placeholder.ReplaceAllStringFunc(verbs[verb], func(p string) string {
		if name := strings.Trim(p, "{}"); name != place {
			return good[name]
		}
		return value
	})
	return strings.Fields(line)
}

func wantExit(t *testing.T, dir string, args []string, want int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "phase-sign", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PHASE_KEY_PASSPHRASE=wrong", "SSH_AUTH_SOCK=")
	out, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("phase-sign %s: exit code %d, want %d\n%s", strings.Join(args, " "), got, want, out)
	}
	if want != 0 && (!strings.HasPrefix(lastLine(out), "phase-sign: ") || strings.Contains(string(out), "panic")) {
		t.Errorf("phase-sign %s: prints %s", strings.Join(args, " "), out)
	}
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// setUp makes a repository with two releases, and damaged copies of it.
func setUp(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command("sh", "-eu", "-c", exitFixture)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := expired(t, dir); err != nil {
		t.Fatal(err)
	}
}

// expired makes a repository whose metadata are expired.
func expired(t *testing.T, dir string) error {
	t.Helper()
	keys := map[string]key.Key{}
	for _, name := range []string{"root", "release", "online", "ipns"} {
		k, err := key.Load(t.Context(), filepath.Join(dir, name), nil)
		if err != nil {
			return err
		}
		keys[name] = k
	}
	const day = 24 * time.Hour
	then := time.Now().Add(-100 * day)
	repo := filepath.Join(dir, "expired")
	if _, err := signer.Init(t.Context(), signer.InitSpec{
		Dir: repo, Root: []key.Key{keys["root"]}, RootThreshold: 1, Release: []ed25519.PublicKey{keys["release"].Public()}, ReleaseThreshold: 1,
		Online: keys["online"].Public(), IPNS: keys["ipns"].Public(), Channels: []string{"stable", "edge"}, Archs: []string{"x86_64"},
		Now: then, RootLifetime: 50 * day, TargetsLifetime: 50 * day,
	}); err != nil {
		return err
	}
	for _, name := range []string{"1.stable-x86_64.json", "2.stable-x86_64.json", "R2.json"} {
		if _, err := signer.Release(t.Context(), signer.ReleaseSpec{
			ManifestSpec: signer.ManifestSpec{
				Repo: repo, Channel: "stable", Arch: "x86_64", Lifetime: 40 * day,
				Keys: []key.Key{keys["release"]}, Out: filepath.Join(repo, name), Now: then,
			},
			Version: name, Kernel: filepath.Join(dir, "bzImage"), Initramfs: filepath.Join(dir, "initrd"), Cmdline: name, Chunker: cas.DefaultChunker,
		}); err != nil {
			return err
		}
	}
	return nil
}

const exitFixture = `
for k in root release online ipns unlisted; do phase-sign key generate --no-passphrase --out $k; done
PHASE_KEY_PASSPHRASE=right phase-sign key generate --out locked
head -c 60 release > cutkey
: > empty
echo words > text
echo '{"name": "package"}' > package
head -c 2048 /dev/zero > bzImage
put() { printf "$2" | dd of=bzImage bs=1 seek="$1" conv=notrunc 2> /dev/null; }
put 497 '\001'
put 500 '\100\000\000\000'
put 510 '\125\252'
put 514 'HdrS\017\002'
put 529 '\001'
put 566 '\077\000'
head -c 1000 bzImage > cut
printf initrd | gzip > initrd
repo() { # folder, then flags of init
	folder=$1
	shift
	phase-sign init --repo $folder --root-key root --release-key release.pub --online-key online.pub --ipns-key ipns.pub \
		--channel stable --channel edge --arch x86_64 "$@"
}
two() { # releases 1 and 2 of a repository
	phase-sign release --repo $1 --channel stable --arch x86_64 --release 1 --kernel bzImage --initramfs initrd --key release --out $1/1.stable-x86_64.json
	phase-sign release --repo $1 --channel stable --arch x86_64 --release 2 --cmdline quiet --kernel bzImage --initramfs initrd --key release --out $1/2.stable-x86_64.json
	cp $1/2.stable-x86_64.json $1/R2.json
}
repo repo
two repo
mv repo/R2.json R2.json
repo foreign
phase-sign release --repo foreign --channel stable --arch x86_64 --release 2 --kernel bzImage --initramfs initrd --key release --out foreign/R2.json
for damaged in truncated garbled forged; do cp -r repo $damaged; done
cp R2.json truncated/R2.json
for f in truncated/*.json; do head -c 300 $f > f; cp f $f; done
for f in garbled/*.json; do echo '{"signed": {"_type": 7}, "signatures": []}' > $f; done
cp R2.json forged/R2.json
for f in forged/*.json; do sed 's/"expires": "20/"expires": "21/' $f > f; cp f $f; done
`
