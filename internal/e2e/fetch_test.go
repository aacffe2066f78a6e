package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFetchedFilesAreTheSignedFiles(t *testing.T) {
	t.Parallel()
	for _, way := range []struct {
		name    string
		publish func(l *lan) (arguments []string)
	}{
		{"from mDNS", func(l *lan) []string {
			l.host().publish("--dht", "off")
			return []string{"--mode", "local"}
		}},
		{"from the DHT", func(l *lan) []string {
			node := l.host()
			b := node.serve(fx.bin("phase-publish"), "bootstrap", "--root", fx.path("repo/root.json"),
				"--identity", filepath.Join(t.TempDir(), "peer.key"), "--listen", "/ip4/"+node.addr+"/tcp/4001")
			l.host().publish("--mdns=false", "--bootstrap", b.tcp(t))
			return []string{"--mode", "internet", "--bootstrap", b.tcp(t)}
		}},
		{"from a mirror", func(l *lan) []string {
			r := l.host().publish("--mdns=false", "--dht", "off")
			return []string{"--mode", "private", "--mirror", r.HTTP[0]}
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			l := newLAN(t)
			arguments := way.publish(l)
			out := filepath.Join(l.dir, "out")
			stdout, err := l.host().command(fx.bin("phase-boot"), append([]string{
				"fetch", "--root", fx.path("repo/root.json"),
				"--channel", "stable", "--arch", "x86_64", "--out", out,
			}, arguments...)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, stdout)
			}
			for _, name := range []string{"kernel", "initramfs", "rootfs", "job/hello.wasm"} {
				if !bytes.Equal(readFile(t, filepath.Join(out, name)), readFile(t, fx.path("artifacts", name))) {
					t.Errorf("%s differs from what was signed", name)
				}
			}
			if got := string(readFile(t, filepath.Join(out, "cmdline"))); !strings.Contains(got, "console=ttyS0,115200") {
				t.Errorf("cmdline is %q", got)
			}
			var report struct {
				Sources []struct {
					Bytes int64 `json:"bytes"`
				} `json:"sources"`
			}
			decode(t, readFile(t, filepath.Join(out, "report.json")), &report)
			if len(report.Sources) == 0 {
				t.Error("the report names no source")
			}
		})
	}
}

func TestFetchRefusesAReleaseOfAnotherRepository(t *testing.T) {
	t.Parallel()
	if err := runAll(initRepo(fx, "other-repo", "other", "other"), signRelease(fx, "other-repo", "other", "9999", "other.json"),
		addRelease(fx, "other-store", "other-repo", "other.json")); err != nil {
		t.Fatal(err)
	}
	l := newLAN(t)
	l.fetch("repo/root.json", l.mirror("other-store", "other-repo")).wantRefused(3, "made for repository")
}

func TestFetchRefusesAnExpiredRelease(t *testing.T) {
	t.Parallel()
	small := fx.path("small") // a small release, which is fetched before it expires
	for _, role := range []string{"kernel", "initramfs"} {
		if err := errors.Join(os.MkdirAll(small, 0o755), os.WriteFile(filepath.Join(small, role), []byte("a small "+role), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := runAll(initRepo(fx, "stale", "root", "release"), []string{
		fx.bin("phase-sign"), "release", "--unchecked", "--repo", fx.path("stale"), "--channel", "stable", "--arch", "x86_64", "--release", "soon", "--expires", "1m",
		"--kernel", small + "/kernel", "--initramfs", small + "/initramfs", "--key", fx.path("keys/release"), "--out", fx.path("stale.json"),
	}, []string{
		fx.bin("phase-publish"), "add", "--store", fx.path("stale-store"), "--repo", fx.path("stale"), "--artifacts", small,
		"--online-key", fx.path("keys/online"), fx.path("stale.json"),
	}); err != nil {
		t.Fatal(err)
	}
	var shown struct {
		Expires time.Time `json:"expires"`
	}
	decode(t, must(t, fx.bin("phase-sign"), "show", "--json", fx.path("stale.json")), &shown)
	l := newLAN(t)
	mirror := l.mirror("stale-store", "stale")
	if fresh := l.fetch("stale/root.json", mirror); fresh.code != 0 {
		t.Fatalf("before the expiry: exit %d: %s", fresh.code, fresh.output)
	}
	time.Sleep(time.Until(shown.Expires) + time.Second) // --expires 1m is the minimum
	l.fetch("stale/root.json", mirror).wantRefused(3, "expired")
}

func TestFetchRefusesARollback(t *testing.T) {
	t.Parallel()
	if err := runAll([]string{"cp", "-a", fx.path("repo"), fx.path("newer")}, []string{"cp", "-a", fx.path("store"), fx.path("newer-store")},
		signRelease(fx, "newer", "release", "2026.12", "newer.json"), addRelease(fx, "newer-store", "newer", "newer.json")); err != nil {
		t.Fatal(err)
	}
	l := newLAN(t)
	cache := filepath.Join(l.dir, "cache")
	if seen := l.fetch("repo/root.json", l.mirror("newer-store", "newer"), "--cache", cache); seen.code != 0 {
		t.Fatalf("the newer release: exit %d: %s", seen.code, seen.output)
	}
	if err := os.RemoveAll(filepath.Join(cache, "blocks")); err != nil { // otherwise the cached release would be used
		t.Fatal(err)
	}
	l.fetch("repo/root.json", l.mirror("store", "repo"), "--cache", cache).wantRefused(3, "older than")
}

// mirror serves a repository of the fixtures over plain HTTP only and returns its URL.
func (l *lan) mirror(store, repo string) string {
	l.t.Helper()
	h := l.host()
	return h.serve(fx.bin("phase-publish"), "serve", "--store", fx.path(store), "--repo", fx.path(repo),
		"--online-key", fx.path("keys/online"), "--ipns-key", fx.path("keys/ipns"), "--identity", filepath.Join(l.t.TempDir(), "peer.key"),
		"--http", h.addr+":8080", "--listen", "/ip4/"+h.addr+"/tcp/4001", "--mdns=false", "--dht", "off").HTTP[0]
}

// A fetchResult is the result of one run of phase-boot fetch.
type fetchResult struct {
	t      *testing.T
	out    string // output folder
	output string // stdout and stderr
	code   int
}

// fetch runs phase-boot fetch on a new host.
func (l *lan) fetch(root, mirror string, more ...string) fetchResult {
	l.t.Helper()
	f := fetchResult{t: l.t, out: filepath.Join(l.t.TempDir(), "out")}
	args := []string{
		"fetch", "--root", fx.path(root), "--channel", "stable", "--arch", "x86_64", "--mode", "internet",
		"--mirror", mirror, "--timeout", "60s", "--out", f.out,
	}
	output, err := l.host().command(fx.bin("phase-boot"), append(args, more...)...).CombinedOutput()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		f.code = exit.ExitCode()
	} else if err != nil {
		l.t.Fatal(err)
	}
	f.output = string(output)
	return f
}

func (f fetchResult) wantRefused(code int, words string) {
	f.t.Helper()
	if f.code != code || !strings.Contains(f.output, words) {
		f.t.Errorf("exit %d, want %d and the text %q:\n%s", f.code, code, words, f.output)
	}
	if entries, err := os.ReadDir(f.out); err == nil && len(entries) > 0 {
		f.t.Errorf("%v: in the output folder of a refused release", entries)
	}
}
