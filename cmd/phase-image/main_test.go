package main

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/looptest"
	"github.com/phaseboot/phaseboot/internal/scripttest"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/manifest/repotest"
	"github.com/phaseboot/phaseboot/signer/key"
)

func TestMain(m *testing.M) {
	scripttest.Main(m, map[string]func() int{"phase-image": func() int { return cli.Main(newCommand()) }})
}

// TestScripts gives every script a root.json signed with fixed keys, a static program for
// /init, and the user's build cache.
func TestScripts(t *testing.T) {
	cache, err := imagebuild.DefaultCache()
	if err != nil {
		t.Fatal(err)
	}
	root, expired := rootJSON(t, 2100), rootJSON(t, 2020)
	program := staticProgram(t, cache)
	stick, small := loopDevice(t, 400<<20), loopDevice(t, 100<<20)
	params := scripttest.Params("testdata/script", func(e *testscript.Env) error {
		e.Setenv("STICK", stick)
		e.Setenv("SMALL", small)
		e.Setenv("PHASE_BUILD_CACHE", cache)
		e.Setenv("INIT", program)
		repo, other := filepath.Join(e.WorkDir, "repo"), filepath.Join(e.WorkDir, "other.init")
		e.Setenv("OTHER", other)
		for _, name := range []string{"ann", "bob", "eve"} { // rebuilders
			if _, err := key.Generate(t.Context(), filepath.Join(e.WorkDir, name), nil); err != nil {
				return err
			}
			if err := os.Rename(filepath.Join(e.WorkDir, name), filepath.Join(e.WorkDir, name+".key")); err != nil {
				return err
			}
		}
		return errors.Join(
			os.Mkdir(repo, 0o755),
			os.WriteFile(filepath.Join(repo, "root.json"), root, 0o644),
			os.WriteFile(filepath.Join(repo, "1.targets.json"), targetsJSON(t), 0o644),
			os.WriteFile(filepath.Join(e.WorkDir, "name"), []byte(filepath.Base(stick)+"\n"), 0o644),
			os.WriteFile(other, append(readFile(t, program), 0), 0o755),
			os.WriteFile(filepath.Join(e.WorkDir, "root.json"), root, 0o644),
			os.WriteFile(filepath.Join(e.WorkDir, "expired.json"), expired, 0o644),
		)
	})
	params.Cmds["repository"], params.Cmds["publish"] = repository, publish
	params.Condition = func(name string) (bool, error) { return looptest.Available(), nil } // root
	testscript.Run(t, params)
}

// repository DIR makes a repository with channel stable.
func repository(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(repotest.New(ts.MkAbs(args[0])))
}

// publish DIR NUMBER VERSION ARTIFACTS signs a release whose boot set is in the folder ARTIFACTS.
func publish(ts *testscript.TestScript, _ bool, args []string) {
	number, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	kernel, initramfs := ts.MkAbs(args[3]+"/boot/kernel"), ts.MkAbs(args[3]+"/boot/initramfs")
	files := map[string]string{"kernel": kernel, "initramfs": initramfs, manifest.RoleBootKernel: kernel, manifest.RoleBootInitramfs: initramfs}
	ts.Check(repotest.Publish(ts.MkAbs(args[0]), number, args[2], time.Now(), files))
}

// loopDevice attaches an empty file as a loop device. It returns "" for an ordinary user.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	if !looptest.Available() {
		return ""
	}
	file := filepath.Join(t.TempDir(), "stick")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
		t.Fatal(err)
	}
	return looptest.Attach(t, file, 0).Path
}

// rootJSON returns a root.json that expires at the beginning of a year.
func rootJSON(t *testing.T, until int) []byte {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	keys := []ed25519.PublicKey{private.Public().(ed25519.PublicKey)}
	root, err := manifest.NewRoot(manifest.RootSpec{Root: keys, Threshold: 1, Online: keys, Expires: time.Date(until, 1, 1, 0, 0, 0, 0, time.UTC)})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.LoadSigner(private, crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Sign(root, signer); err != nil {
		t.Fatal(err)
	}
	data, err := manifest.Bytes(manifest.KindRoot, root)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// targetsJSON returns a targets.json with one channel, stable, signed by the key of rootJSON.
func targetsJSON(t *testing.T) []byte {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	keys := []ed25519.PublicKey{private.Public().(ed25519.PublicKey)}
	targets, err := manifest.NewTargets(1, time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), manifest.Delegation{Channel: "stable", Arch: "x86_64", Keys: keys, Threshold: 1})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.LoadSigner(private, crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Sign(targets, signer); err != nil {
		t.Fatal(err)
	}
	data, err := manifest.Bytes(manifest.KindTargets, targets)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// staticProgram returns the path of Debian's static busybox.
func staticProgram(t *testing.T, cache string) string {
	t.Helper()
	b, err := imagebuild.New(imagebuild.Options{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	path, err := b.Busybox(t.Context(), "x86_64")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Text from an image must not contain control characters when it is printed.
func TestTextOfAnImageIsQuotedForTheTerminal(t *testing.T) {
	const evil = "\x1b[2J\u202e\x07\r\n"
	words := contentsText(&imagebuild.Contents{
		System:  imagebuild.System{Arch: evil, Kernel: evil + strings.Repeat("k", 1<<20), Loader: "0"},
		Others:  []imagebuild.System{{Arch: evil, Kernel: evil, Loader: "1"}},
		Channel: evil, BuildTime: evil, Default: evil,
		Root:    &imagebuild.RootKeys{Expires: evil, Roles: map[string]imagebuild.RoleKeys{evil: {KeyIDs: []string{evil}}}},
		Entries: []imagebuild.BootEntry{{Mode: evil, Boots: "x" + evil, Title: evil, Cmdline: evil}},
	})
	if i := strings.IndexFunc(words, func(r rune) bool { return (r < ' ' && r != '\n') || r > '~' }); i >= 0 {
		t.Errorf("%q", words[i:])
	}
	if len(words) > 4096 {
		t.Errorf("%d bytes", len(words))
	}
}

// The set that starts first is one that a rebuild does not compare.
func TestARebuildSaysThatRenewedBootSetsWereNotCompared(t *testing.T) {
	c := &imagebuild.Contents{Image: "stick.img", Renewed: make([]imagebuild.BootSet, 1)}
	if text := rebuiltText(&imagebuild.Rebuilt{Contents: c, Equal: true}, ""); strings.Contains(text, "every byte") || !strings.Contains(text, "1 renewed ones") {
		t.Error(text)
	}
}
