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

func TestFetchIsByteForByteWhatWasSigned(t *testing.T) {
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

func TestFetchRefusesWhatIsNotTheNewestOfTheOwner(t *testing.T) {
	art := fx.path("artifacts")
	add := func(repo, file string) []string {
		return []string{
			fx.bin("phase-publish"), "add", "--store", fx.path("store"), "--repo", fx.path(repo), "--artifacts", art,
			"--online-key", fx.path("keys/online"), fx.path(file),
		}
	}
	fetch := func(l *lan, cache string, mirror string) (string, int) {
		args := []string{
			"fetch", "--root", fx.path("repo/root.json"), "--channel", "stable", "--arch", "x86_64", "--mode", "internet",
			"--mirror", mirror, "--timeout", "20s", "--out", filepath.Join(l.dir, "out"),
		}
		if cache != "" {
			args = append(args, "--cache", cache)
		}
		out, err := l.host().command(fx.bin("phase-boot"), args...).CombinedOutput()
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			return string(out), exit.ExitCode()
		}
		if err != nil {
			t.Fatal(err)
		}
		return string(out), 0
	}
	serve := func(l *lan, repo string, more ...string) string {
		h := l.host()
		return h.serve(fx.bin("phase-publish"), append([]string{
			"serve", "--store", fx.path("store"), "--repo", fx.path(repo),
			"--online-key", fx.path("keys/online"), "--ipns-key", fx.path("keys/ipns"), "--identity", filepath.Join(t.TempDir(), "peer.key"),
			"--http", h.addr + ":8080", "--listen", "/ip4/" + h.addr + "/tcp/4001", "--mdns=false", "--dht", "off",
		}, more...)...).HTTP[0]
	}
	nothingIn := func(t *testing.T, l *lan) {
		t.Helper()
		entries, err := os.ReadDir(filepath.Join(l.dir, "out"))
		if err == nil && len(entries) > 0 {
			t.Errorf("%v stands in the output folder of a refused release", entries)
		}
	}

	t.Run("signed by a stranger", func(t *testing.T) {
		if err := runAll(initRepo(fx, "strange", "stranger", "stranger"), signRelease(fx, "strange", "stranger", "9999", "strange.json"),
			add("strange", "strange.json")); err != nil {
			t.Fatal(err)
		}
		l := newLAN(t)
		out, code := fetch(l, "", serve(l, "strange"))
		if code != 3 || !strings.Contains(out, "signed by") {
			t.Errorf("exit %d: %s", code, out)
		}
		nothingIn(t, l)
	})
	t.Run("expired", func(t *testing.T) {
		if err := runAll(initRepo(fx, "stale", "root", "release"), signRelease(fx, "stale", "release", "expired", "stale.json", "--expires", "5s"),
			add("stale", "stale.json"), []string{"cp", fx.path("stale/root.json"), fx.path("stale-root.json")}); err != nil {
			t.Fatal(err)
		}
		l := newLAN(t)
		mirror := serve(l, "stale")
		time.Sleep(6 * time.Second) // the release's own life, which the test measures
		out, err := l.host().command(fx.bin("phase-boot"), "fetch", "--root", fx.path("stale-root.json"), "--mirror", mirror,
			"--timeout", "20s", "--out", filepath.Join(l.dir, "out")).CombinedOutput()
		exit := new(exec.ExitError)
		if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(string(out), "expired") {
			t.Errorf("%v: %s", err, out)
		}
		nothingIn(t, l)
	})
	t.Run("older than what the machine has seen", func(t *testing.T) {
		old := fx.path("older")
		if err := runAll([]string{"cp", "-a", fx.path("repo"), old}, []string{"cp", "-a", fx.path("repo"), fx.path("newer")},
			signRelease(fx, "newer", "release", "2026.12", "newer.json"), add("newer", "newer.json")); err != nil {
			t.Fatal(err)
		}
		l := newLAN(t)
		cache := filepath.Join(l.dir, "cache")
		if out, code := fetch(l, cache, serve(l, "newer")); code != 0 {
			t.Fatalf("the honest twin: exit %d: %s", code, out)
		}
		if err := os.RemoveAll(filepath.Join(l.dir, "out")); err != nil {
			t.Fatal(err)
		}
		out, code := fetch(l, cache, serve(l, "older"))
		if code != 3 || !strings.Contains(out, "older than") {
			t.Errorf("exit %d: %s", code, out)
		}
		nothingIn(t, l)
	})
}
