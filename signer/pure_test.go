package signer

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

// These tables need no key file, no repository and no tool.

func testKey(n byte) ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize)).Public().(ed25519.PublicKey)
}

func testKeys(numbers ...byte) []ed25519.PublicKey {
	var list []ed25519.PublicKey
	for _, n := range numbers {
		list = append(list, testKey(n))
	}
	return list
}

func testID(n byte) string { return manifest.KeyID(testKey(n)) }

func TestKeysAndThresholdsOfARole(t *testing.T) {
	held := publisherKeys{online: testKeys(8), ipns: testKeys(9)}
	for _, c := range []struct {
		name      string
		keys      []ed25519.PublicKey
		threshold int
		says      string // "" when they are allowed
	}{
		{"one of one", testKeys(1), 1, ""},
		{"two of three", testKeys(1, 2, 3), 2, ""},
		{"threshold 0", testKeys(1), 0, "root threshold 0"},
		{"negative threshold", testKeys(1), -1, "root threshold -1"},
		{"threshold above the number of keys", testKeys(1, 2), 3, "from 1 to 2"},
		{"no keys", nil, 1, "none; give at least one"},
		{"one key twice", testKeys(1, 2, 1), 1, "root key 3: is given twice"},
		{"the online key", testKeys(1, 8), 1, "online key: is also a root key"},
		{"the IPNS key", testKeys(9), 1, "IPNS key: is also a root key"},
	} {
		t.Run(c.name, func(t *testing.T) { refusedAsUsage(t, checkOwners("root", c.keys, c.threshold, held), c.says) })
	}
	refusedAsUsage(t, publisherKeys{testKeys(1), testKeys(2)}.check(), "")
	refusedAsUsage(t, publisherKeys{testKeys(1), testKeys(2, 1)}.check(), "IPNS key: is also the online key")
}

// refusedAsUsage checks that err is a usage error with a part of its text, or nil for "".
func refusedAsUsage(t *testing.T, err error, says string) {
	t.Helper()
	if says == "" && err != nil || says != "" && (!errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), says)) {
		t.Errorf("got %v, want %q", err, says)
	}
}

func TestKeysAreRemovedByIDAndAdded(t *testing.T) {
	one, two := testID(1), testID(2)
	for _, c := range []struct {
		name   string
		add    []ed25519.PublicKey
		remove []string
		want   []ed25519.PublicKey
		says   string
	}{
		{"nothing", nil, nil, testKeys(1, 2), ""},
		{"one added", testKeys(3), nil, testKeys(1, 2, 3), ""},
		{"one removed by its whole ID", nil, []string{one}, testKeys(2), ""},
		{"one removed by eight digits", nil, []string{two[:8]}, testKeys(1), ""},
		{"one replaced", testKeys(3), []string{one}, testKeys(2, 3), ""},
		{"seven digits", nil, []string{one[:7]}, nil, "is not listed; there are " + one[:8]},
		{"an unknown ID", nil, []string{"0000000000"}, nil, "is not listed"},
		{"removed twice", nil, []string{one, one}, nil, "is not listed"},
		{"a listed key added", testKeys(2), nil, nil, "is listed already"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := testKeys(1, 2)
			got, err := change("root", before, c.add, c.remove)
			refusedAsUsage(t, err, c.says)
			if err == nil && !slices.EqualFunc(got, c.want, func(a, b ed25519.PublicKey) bool { return a.Equal(b) }) {
				t.Errorf("got %x", got)
			}
			if !before[0].Equal(testKey(1)) {
				t.Error("the old list was changed")
			}
		})
	}
}

func TestIPNSNamesAreAddedAndRemoved(t *testing.T) {
	const first = "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8"
	for _, c := range []struct {
		name string
		spec RotateSpec
		want int // names
		says string
	}{
		{"nothing", RotateSpec{}, 1, ""},
		{"a new name", RotateSpec{IPNS: testKey(1)}, 2, ""},
		{"a new name for the old one", RotateSpec{IPNS: testKey(1), RemoveIPNS: []string{first}}, 1, ""},
		{"the last name removed", RotateSpec{RemoveIPNS: []string{first}}, 0, "IPNS names: the last one would be removed"},
		{"an unknown name removed", RotateSpec{RemoveIPNS: []string{"k51x"}}, 0, `"k51x": is not listed`},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := manifest.Discovery{IPNS: []string{first}}
			err := c.spec.planNames(&d)
			refusedAsUsage(t, err, c.says)
			if err == nil && len(d.IPNS) != c.want {
				t.Errorf("names %q", d.IPNS)
			}
		})
	}
}

func TestChangesOfAReleaseInWords(t *testing.T) {
	base := manifest.Release{
		Channel: "stable", Arch: "x86_64", Version: "1", Cmdline: "quiet", MinRAM: 256, Job: "job/a.wasm",
		Artifacts: []manifest.Artifact{{Role: "kernel", Length: 1000, SHA256: "aa"}, {Role: "rootfs", Length: 2000, SHA256: "bb"}},
	}
	for _, c := range []struct {
		name   string
		change func(*manifest.Release)
		want   []string
	}{
		{"nothing", func(*manifest.Release) {}, []string{"kernel: the same", "rootfs: the same"}},
		{"the version", func(r *manifest.Release) { r.Version = "2" }, []string{"release: 1 → 2", "kernel: the same", "rootfs: the same"}},
		{"the channel", func(r *manifest.Release) { r.Channel = "edge" }, []string{"channel: stable → edge", "kernel: the same", "rootfs: the same"}},
		{"the command line", func(r *manifest.Release) { r.Cmdline = "" }, []string{`cmdline: "quiet" → ""`, "kernel: the same", "rootfs: the same"}},
		{"memory and job", func(r *manifest.Release) { r.MinRAM, r.Job = 512, "" }, []string{"memory: 256 MiB → 512 MiB", `job to run: "job/a.wasm" → ""`, "kernel: the same", "rootfs: the same"}},
		{"another kernel", func(r *manifest.Release) { r.Artifacts[0].SHA256, r.Artifacts[0].Length = "cc", 3000 }, []string{"kernel: other content, 1,000 → 3,000 bytes", "rootfs: the same"}},
		{"a file removed", func(r *manifest.Release) { r.Artifacts = r.Artifacts[:1] }, []string{"kernel: the same", "rootfs: gone"}},
		{"a file added", func(r *manifest.Release) {
			r.Artifacts = append(r.Artifacts, manifest.Artifact{Role: "dtb/a.dtb", Length: 7, SHA256: "dd"})
		}, []string{"kernel: the same", "rootfs: the same", "dtb/a.dtb: new, 7 bytes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := base
			to.Artifacts = slices.Clone(base.Artifacts)
			c.change(&to)
			if got := changes(base, to); !slices.Equal(got, c.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestContentIsTheSameWhateverItsNameAndDates(t *testing.T) {
	base := manifest.Release{Version: "1", Cmdline: "quiet", Artifacts: []manifest.Artifact{{Role: "kernel", Length: 1, SHA256: "aa"}}}
	for name, c := range map[string]struct {
		change func(*manifest.Release)
		same   bool
	}{
		"nothing":      {func(*manifest.Release) {}, true},
		"another name": {func(r *manifest.Release) { r.Version = "2" }, true},
		"other dates":  {func(r *manifest.Release) { r.Expires = noon }, true},
		"another line": {func(r *manifest.Release) { r.Cmdline = "" }, false},
		"memory":       {func(r *manifest.Release) { r.MinRAM = 1 }, false},
		"a job":        {func(r *manifest.Release) { r.Job = "job/a.wasm" }, false},
		"other bytes": {func(r *manifest.Release) {
			r.Artifacts = []manifest.Artifact{{Role: "kernel", Length: 1, SHA256: "bb"}}
		}, false},
		"one file less": {func(r *manifest.Release) { r.Artifacts = nil }, false},
	} {
		to := base
		c.change(&to)
		if sameContent(base, to) != c.same {
			t.Errorf("%s: same content %t", name, !c.same)
		}
	}
}

func TestChangesOfRolesInWords(t *testing.T) {
	yes, no := true, false
	role := func(name string, threshold int, terminating *bool, paths []string, keys ...string) manifest.RoleKeys {
		return manifest.RoleKeys{Name: name, Threshold: threshold, Keys: keys, Paths: paths, Terminating: terminating}
	}
	base := []manifest.RoleKeys{role("a", 1, &yes, []string{"a/*"}, "11111111", "22222222")}
	for _, c := range []struct {
		name string
		to   []manifest.RoleKeys
		want []string
	}{
		{"nothing", base, nil},
		{"a key replaced", []manifest.RoleKeys{role("a", 1, &yes, []string{"a/*"}, "11111111", "33333333")}, []string{"a: key 33333333…: added", "a: key 22222222…: removed"}},
		{"a threshold", []manifest.RoleKeys{role("a", 2, &yes, []string{"a/*"}, "11111111", "22222222")}, []string{"a: threshold 1 → 2"}},
		{"a path", []manifest.RoleKeys{role("a", 1, &yes, []string{"*"}, "11111111", "22222222")}, []string{`a: path "*": added`, `a: path "a/*": removed`}},
		{"not terminating", []manifest.RoleKeys{role("a", 1, &no, []string{"a/*"}, "11111111", "22222222")}, []string{"a: terminating true → false"}},
		{"a new role", append(slices.Clone(base), role("b", 1, nil, nil, "44444444")), []string{"b: new, 1 of 44444444…"}},
		{"a role removed", nil, []string{"a: gone"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := roleChanges(base, c.to); !slices.Equal(got, c.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestASummarySaysWhetherAFileIsValid(t *testing.T) {
	for _, c := range []struct {
		name     string
		sum      Summary
		complete bool
		says     string
	}{
		{"keys unknown", Summary{Signatures: manifest.Signatures{Unlisted: []string{"11111111aa"}}}, false, "keys      11111111…; not checked"},
		{"no signature", Summary{Signatures: manifest.Signatures{Threshold: 2}}, false, "keys      0 of 2 needed: none; NOT VALID YET"},
		{"one of two", Summary{Signatures: manifest.Signatures{Threshold: 2, Good: []string{"11111111aa"}}}, false, "keys      1 of 2 needed: 11111111…; NOT VALID YET"},
		{"two of two", Summary{Signatures: manifest.Signatures{Threshold: 2, Good: []string{"11111111aa", "22222222bb"}}}, true, "keys      2 of 2 needed: 11111111…, 22222222…\n"},
		{"changed", Summary{Signatures: manifest.Signatures{Threshold: 1, Good: []string{"11111111aa"}, Bad: []string{"22222222bb"}}}, false, "ALTERED   after these keys signed it: 22222222…"},
		{"another key too", Summary{Signatures: manifest.Signatures{Threshold: 1, Good: []string{"11111111aa"}, Unlisted: []string{"22222222bb"}}}, true, "unlisted  22222222… signed it too; these keys do not count"},
		{"the old root's keys are missing", Summary{
			Version: 2, Signatures: manifest.Signatures{Threshold: 1, Good: []string{"11111111aa"}}, Before: &Former{Threshold: 2, missing: 2},
		}, false, "and of    root version 1, 0 of 2 needed: none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.sum.Complete() != c.complete {
				t.Errorf("complete: %t", c.sum.Complete())
			}
			if words := c.sum.Words(noon); !strings.Contains(words, c.says) {
				t.Errorf("no %q in:\n%s", c.says, words)
			}
		})
	}
}

func TestAnExpiryDateInWords(t *testing.T) {
	for after, want := range map[time.Duration]string{-time.Second: "EXPIRED", 0: "EXPIRED", time.Second: "expires"} {
		if got := expiryVerb(noon.Add(after), noon); got != want {
			t.Errorf("%s after now: %s", after, got)
		}
	}
	if words := HistoryWords(nil, noon) + ChannelWords(nil, noon); words != "no release yet\nno channel\n" {
		t.Errorf("nothing in words: %q", words)
	}
	p := Past{Number: 3, Version: "1.0", SignedAt: noon, Expires: noon.Add(time.Hour), Good: []string{"a"}, Threshold: 2, SameAs: 1}
	if words := HistoryWords([]Past{p}, noon); !strings.HasSuffix(words, fmt.Sprintf("expires %s, keys 1 of 2, same content as 1\n", stamp(p.Expires))) {
		t.Errorf("got %q", words)
	}
}
