package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/scripttest"
	"github.com/phaseboot/phaseboot/publisher/reports"
	"github.com/phaseboot/phaseboot/signer"
	"github.com/phaseboot/phaseboot/signer/key"
)

func TestMain(m *testing.M) {
	scripttest.Main(m, map[string]func() int{
		"phase-publish": func() int { return cli.Main(newCommand()) },
		"make-release":  makeRelease,
		"make-reports":  makeReports,
	})
}

func TestScripts(t *testing.T) { scripttest.Run(t, "testdata/script") }

// makeRelease prepares the working folder of a script: keys (locked.key has the
// passphrase "right"), a repository, artifacts, and the manifests v1.json, v2.json and
// foreign.json, the last of another repository. The files of v2 are in artifacts2.
func makeRelease() int {
	if err := prepare(context.Background(), "."); err != nil {
		fmt.Fprintln(os.Stderr, "make-release:", err)
		return 1
	}
	return 0
}

// makeReports makes store/reports.db with the boot reports of two machines. The first one has booted twice.
func makeReports() int {
	ctx := context.Background()
	db, err := reports.Open(ctx, "store/reports.db", reports.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, "make-reports:", err)
		return 1
	}
	defer db.Close()
	for i, report := range []string{
		`{"result":"failed","error":"no source is reachable","mode":"local","duration_ms":60000}`,
		`{"result":"ok","mode":"local","duration_ms":8200,"release":{"channel":"stable","release":"v1","role_version":1}}`,
		`{"result":"ok","mode":"internet","duration_ms":9100,"tries":{"starts":2,"limit":3,"failed":{"release":"v3"}},"release":{"channel":"beta","release":"v2","role_version":2}}`,
	} {
		seed := [ed25519.SeedSize]byte{byte(i / 2)}
		document, err := bootreport.Sign(ctx, bootreport.Document{
			Arch: "x86_64", Hostname: fmt.Sprintf("node%d", i/2), Groups: []string{"lab"}, Recipient: "age1" + strings.Repeat("q", 58), BootID: fmt.Sprintf("%032x", i+1), Report: json.RawMessage(report), SentAt: time.Now(),
		}, ed25519.NewKeyFromSeed(seed[:]))
		if err == nil {
			err = db.Add(ctx, document, "192.0.2.1:4000")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "make-reports:", err)
			return 1
		}
	}
	return 0
}

func prepare(ctx context.Context, dir string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	keys := map[string]key.Key{}
	for _, name := range []string{"root", "release", "online", "ipns", "unlisted"} {
		k, err := key.Generate(ctx, at(name+".key"), nil)
		if err != nil {
			return err
		}
		keys[name] = k
	}
	right := func(context.Context, string, key.Ask) ([]byte, error) { return []byte("right"), nil }
	if _, err := key.Generate(ctx, at("locked.key"), right); err != nil {
		return err
	}
	for i, folder := range []string{"artifacts", "artifacts2"} {
		if err := writeArtifacts(at(folder), byte(i)); err != nil {
			return err
		}
	}
	for _, r := range []struct {
		repo, key, out, version, folder string
		number                          int
	}{
		{"repo", "release", "v1.json", "v1", "artifacts", 0},
		{"foreign", "unlisted", "foreign.json", "v1", "artifacts", 0},
		{"repo", "release", "v2.json", "v2", "artifacts2", 1},
	} {
		if err := initRepo(ctx, at(r.repo), keys, keys[r.key]); err != nil {
			return err
		}
		if err := sign(ctx, at(r.repo), r.number, keys[r.key], r.version, at(r.folder), at(r.out)); err != nil {
			return err
		}
	}
	return nil
}

func initRepo(ctx context.Context, dir string, keys map[string]key.Key, release key.Key) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	_, err := signer.Init(ctx, signer.InitSpec{
		Dir: dir, Root: []key.Key{keys["root"]}, RootThreshold: 1,
		Release: []ed25519.PublicKey{release.Public()}, ReleaseThreshold: 1,
		Online: keys["online"].Public(), IPNS: keys["ipns"].Public(), Channels: []string{"stable"}, Archs: []string{"x86_64"},
		Now: time.Now(), RootLifetime: 24 * time.Hour, TargetsLifetime: 24 * time.Hour,
	})
	return err
}

// sign makes a manifest whose version is after number.
func sign(ctx context.Context, repo string, number int, by key.Key, version, folder, out string) error {
	if number > 0 { // the file that phase-publish add would have written
		old := filepath.Join(repo, fmt.Sprintf("%d.stable-x86_64.json", number))
		if err := os.Link(filepath.Join(filepath.Dir(repo), fmt.Sprintf("v%d.json", number)), old); err != nil {
			return err
		}
		defer os.Remove(old)
	}
	_, err := signer.Release(ctx, signer.ReleaseSpec{
		ManifestSpec: signer.ManifestSpec{
			Repo: repo, Channel: "stable", Arch: "x86_64", Lifetime: 12 * time.Hour, Keys: []key.Key{by}, Out: out, Now: time.Now(),
		},
		Version: version, Cmdline: "console=ttyS0",
		Kernel: filepath.Join(folder, "kernel"), Initramfs: filepath.Join(folder, "initramfs"), Rootfs: filepath.Join(folder, "rootfs"),
		Job: filepath.Join(folder, "job/hello.wasm"), Chunker: cas.DefaultChunker, Unchecked: true,
	})
	return err
}

// writeArtifacts makes the same files for the same seed. The rootfs is larger than the
// buffers of sockets.
func writeArtifacts(dir string, seed byte) error {
	if err := os.MkdirAll(filepath.Join(dir, "job"), 0o755); err != nil {
		return err
	}
	for role, size := range map[string]int{"kernel": 300_000, "initramfs": 200_000, "rootfs": 24 << 20, "job/hello.wasm": 100} {
		data := make([]byte, size)
		src := rand.NewChaCha8([32]byte{seed, byte(size), byte(size >> 8)})
		if _, err := src.Read(data); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, role), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
