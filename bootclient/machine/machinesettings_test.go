package machine

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/manifest"
)

func sealedTo(t *testing.T, secret string, to age.Recipient) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(secret)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// The target of machine A has its hostname, SSH key and secret; machine B cannot open that of A, and a machine without a
// key opens none. Both say so.
func TestATargetGetsItsSettings(t *testing.T) {
	dir := t.TempDir()
	a, err := ageKey(filepath.Join(dir, "a"), true)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ageKey(filepath.Join(dir, "b"), true)
	if err != nil {
		t.Fatal(err)
	}
	s := manifest.Settings{
		Hostname: "node1", SSHKeys: []string{"ssh-ed25519 AAAA admin"}, Network: map[string]string{"50-lan.network": "[Match]\n"},
		Credentials: map[string][]byte{"motd": []byte("hello")}, Secrets: map[string][]byte{"token": sealedTo(t, "only A", a.Recipient())},
	}
	for _, row := range []struct {
		identity *age.X25519Identity
		token    string
		says     string
	}{{a, "only A", ""}, {b, "", "not sealed to this machine, whose key is age1"}, {nil, "", "keeps no age key"}} {
		rep := report.New(time.Now(), nil)
		files := (&boot{report: rep, age: row.identity}).openSettings(s)
		refused := rep.Refused()
		if (row.says == "") != (len(refused) == 0) || row.says != "" && (refused[0].What != "secret token" || !strings.Contains(refused[0].Why, row.says)) {
			t.Errorf("refused: %q, want %q", refused, row.says)
		}
		handed, run, root := t.TempDir(), t.TempDir(), t.TempDir()
		for _, f := range files {
			path := filepath.Join(handed, f.name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, f.data, os.FileMode(f.perm)); err != nil {
				t.Fatal(err)
			}
		}
		var host string
		words, err := placeSettingsIn(handed, run, root, func(name []byte) error { host = string(name); return nil })
		if err != nil || !strings.HasPrefix(words, "host name node1, SSH keys, network, ") {
			t.Errorf("%q, %v", words, err)
		}
		for path, want := range map[string]string{
			filepath.Join(root, "etc/hostname"): "node1\n", filepath.Join(root, "root/.ssh/authorized_keys"): "ssh-ed25519 AAAA admin\n",
			filepath.Join(run, networkdDir, "50-lan.network"): "[Match]\n", filepath.Join(run, "credentials/@initrd/motd"): "hello", filepath.Join(run, "credstore/motd"): "hello",
			filepath.Join(run, "credstore/token"): row.token,
		} {
			if got, _ := os.ReadFile(path); string(got) != want {
				t.Errorf("%s: %q, want %q", path, got, want)
			}
		}
		if host != "node1" {
			t.Errorf("host name %q", host)
		}
	}
}

func TestNoSettingsWereHandedOver(t *testing.T) {
	root := t.TempDir()
	words, err := placeSettingsIn(t.TempDir(), t.TempDir(), root, func([]byte) error { t.Error("a host name"); return nil })
	if entries, _ := os.ReadDir(root); err != nil || words != "none were handed over" || len(entries) > 0 {
		t.Errorf("%q, %v, %v", words, err, entries)
	}
	if files, out := settingsFiles(manifest.Settings{Groups: []string{"lab"}}, nil, true); files != nil || len(out) > 0 {
		t.Errorf("%v, %v", files, out)
	}
}

func TestAPrivateModeGivesNoNames(t *testing.T) {
	files, out := settingsFiles(manifest.Settings{Hostname: "node1", Network: map[string]string{"50-lan.network": "[Match]\n"}, SSHKeys: []string{"ssh-ed25519 AAAA admin"}}, nil, true)
	if len(files) != 1 || files[0].name != settingsSSHKeys || len(out) != 1 || !strings.Contains(out["host name and network"].Error(), "the mode is private") {
		t.Errorf("%+v, %q", files, out)
	}
}

// A part of the settings that has no place in the root filesystem does not take the others along.
func TestSettingsThatHaveNoPlace(t *testing.T) {
	handed, run, root := t.TempDir(), t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(handed, settingsCredentials), 0o755))
	write(t, filepath.Join(handed, settingsHostname), "node1\n")
	write(t, filepath.Join(handed, settingsCredentials, "token"), "x")
	must(t, os.Symlink("/elsewhere", filepath.Join(root, "etc")))
	words, err := placeSettingsIn(handed, run, root, func([]byte) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "host name: ") || words != "host name node1, 1 credential" {
		t.Errorf("%q, %v", words, err)
	}
	if data, err := os.ReadFile(filepath.Join(run, "credstore/token")); err != nil || string(data) != "x" {
		t.Errorf("the credential: %q, %v", data, err)
	}
}

func TestTheAgeKeyIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), ageFile)
	if key, err := ageKey(path, false); key != nil || err != nil {
		t.Errorf("a cache that may not be written: %v, %v", key, err)
	}
	first, err := ageKey(path, true)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ageKey(path, false)
	if err != nil || again.String() != first.String() {
		t.Errorf("another key: %v", err)
	}
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if key, err := ageKey(path, false); key != nil || err == nil {
		t.Errorf("damaged and not writable: %v", err)
	}
	if key, err := ageKey(path, true); key == nil || err != nil || key.String() == first.String() {
		t.Errorf("damaged: %v", err)
	}
}

func TestWordsOfSettings(t *testing.T) {
	for _, row := range []struct {
		signed string
		words  []string
		want   string
	}{
		{"console=ttyS0", []string{"quiet", "loglevel=4"}, "console=ttyS0 quiet loglevel=4"},
		{"quiet loglevel=7", []string{"quiet", "loglevel=4", "hugepages=8"}, "quiet loglevel=7 hugepages=8"},
		{"", []string{"quiet"}, "quiet"},
		{"a", nil, "a"},
	} {
		if got := withSettings(row.signed, row.words); got != row.want {
			t.Errorf("%q with %q: %q, want %q", row.signed, row.words, got, row.want)
		}
	}
}

func TestSelectorsOfAMachine(t *testing.T) {
	got := selectors("AB 12", "4c4c4544-0042-3510-8052-b4c04f4a3732", []card{{mac: "52:54:00:12:34:57"}, {mac: "52:54:00:12:34:56"}, {mac: "00:00:00:00:00:00"}})
	want := []string{"serial-ab_2012", "uuid-4c4c4544-0042-3510-8052-b4c04f4a3732", "mac-525400123456", "mac-525400123457"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := selectors("", "", nil); got != nil {
		t.Errorf("nothing is known: %q", got)
	}
}
