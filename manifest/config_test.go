package manifest

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

const (
	sshKey      = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPnV0gPY1ZPNG3bxjXJJCFZjBaB6LQJ2vLDlxlF6Q3m ops"
	otherSSHKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8x0V3vXcHdnYlYV7p1qJz2vQe1fXn3nUOZCq9bD1aa lab"
	macA        = "mac-525400123456"
	uuidA       = "uuid-4c4c4544-0042-3510-8052-b4c04f4a3732"
)

// sampleSettings has a document for every kind of selector.
func sampleSettings() map[string]Settings {
	return map[string]Settings{
		SelectorDefault:  {Hostname: "any", SSHKeys: []string{sshKey}, Groups: []string{"all"}, Credentials: map[string][]byte{"motd": []byte("hello\n"), "token": []byte("open")}},
		"group-all":      {Cmdline: []string{"quiet"}},
		"group-lab":      {Hostname: "lab", Cmdline: []string{"loglevel=7", "hugepages=64"}, Network: map[string]string{"50-lan.network": "[Match]\nType=ether\n"}},
		"group-rack-7":   {SSHKeys: []string{otherSSHKey}},
		"serial-ab_2012": {Groups: []string{"rack-7"}},
		uuidA:            {Hostname: "by-uuid"},
		macA:             {Hostname: "node1.example", Groups: []string{"lab", "rack-7"}, Secrets: map[string][]byte{"token": []byte("age-encryption.org/v1\n…")}},
	}
}

// withConfig delegates the role config to a key in a new targets.json.
func (r *repo) withConfig(keys ...string) *repo {
	r.more = []Delegation{{ConfigRole, "", public(keys...), len(keys)}}
	r.newTargets()
	return r
}

// config signs the role config.
func (r *repo) config(list map[string]Settings, signers ...string) File {
	r.numbers[ConfigRole]++
	return r.configOf(r.configManifest(list), signers...)
}

func (r *repo) configManifest(list map[string]Settings) *metadata.Metadata[metadata.TargetsType] {
	role, err := EncodeConfig(Config{Repository: r.id, Number: r.numbers[ConfigRole], SignedAt: r.signedAt, Expires: r.expires["release"], Settings: list})
	r.ok(err)
	return role
}

func (r *repo) configOf(role *metadata.Metadata[metadata.TargetsType], signers ...string) File {
	role.Signatures = []metadata.Signature{}
	for _, n := range signers {
		s, err := signature.LoadSigner(key(n), crypto.Hash(0))
		r.ok(err)
		_, err = Sign(role, s)
		r.ok(err)
	}
	data, err := role.ToBytes(true) // without a lint, for what it refuses
	r.ok(err)
	return File{ConfigRole, role.Signed.Version, data}
}

// machineA is a machine for which sampleSettings has documents.
func machineA() Machine {
	return Machine{ID: "a", Groups: []string{"hint"}, Selectors: []string{"serial-ab_2012", uuidA, macA}}
}

func TestAMachineGetsItsSettings(t *testing.T) {
	r := newRepo(t).withConfig("settings")
	r.publish(r.config(sampleSettings(), "settings"))
	p := r.policy(t.TempDir())
	p.Machine = machineA()
	got := r.boot(r.files, p).Settings()
	want := MachineSettings{
		Number:    1,
		Selectors: []string{SelectorDefault, "group-lab", "group-rack-7", "serial-ab_2012", uuidA, macA},
		Settings: Settings{
			Hostname: "node1.example", Cmdline: []string{"loglevel=7", "hugepages=64"}, SSHKeys: []string{otherSSHKey},
			Network: map[string]string{"50-lan.network": "[Match]\nType=ether\n"}, Groups: []string{"hint", "lab", "rack-7"},
			Credentials: map[string][]byte{"motd": []byte("hello\n")}, Secrets: map[string][]byte{"token": []byte("age-encryption.org/v1\n…")},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	p.Machine = Machine{ID: "b", Selectors: []string{"mac-525400000001"}}
	got = r.boot(r.files, p).Settings()
	if got.Hostname != "any" || !slices.Equal(got.Groups, []string{"all"}) || !slices.Equal(got.Cmdline, []string{"quiet"}) || got.Secrets != nil || string(got.Credentials["token"]) != "open" {
		t.Errorf("a machine without a document of its own: %+v", got)
	}
}

// Groups of the settings choose the release: the role is verified before.
func TestGroupsOfSettingsChooseTheRelease(t *testing.T) {
	r := newRepo(t).withConfig("settings")
	release := rolled()
	release.Repository, release.SignedAt, release.Expires = r.id, r.signedAt, r.expires["release"]
	role, err := Encode(release)
	r.ok(err)
	r.publish(r.signed("stable", "x86_64", role, r.owners...), r.config(map[string]Settings{macA: {Groups: []string{"lab"}}}, "settings"))
	p := r.policy("")
	p.Machine = Machine{ID: "0", Selectors: []string{macA}}
	if v := r.boot(r.files, p); v.Release().Version != "2026.08+a" {
		t.Errorf("a machine that settings put into a held group takes %s", v.Release().Version)
	}
	p.Machine.Selectors = nil
	if v := r.boot(r.files, p); v.Release().Version != "2026.09" {
		t.Errorf("a machine without settings takes %s", v.Release().Version)
	}
}

// Without the role a machine boots as before, also if targets.json delegates it.
func TestNoSettings(t *testing.T) {
	for name, r := range map[string]*repo{"no delegation": newRepo(t), "no role yet": newRepo(t).withConfig("settings")} {
		r.publish(r.release("stable", "x86_64", "2026.11"))
		p := r.policy("")
		p.Machine = machineA()
		v := r.boot(r.files, p)
		if s := v.Settings(); s.Number != 0 || s.Selectors != nil || !reflect.DeepEqual(s.Settings, Settings{Groups: []string{"hint"}}) || v.Notes() != nil {
			t.Errorf("%s: %+v, %q", name, s, v.Notes())
		}
	}
}

func TestAttackSettings(t *testing.T) {
	one := map[string]Settings{macA: {Hostname: "one"}}
	change := func(r *repo, change func(map[string]*metadata.TargetFiles)) File {
		r.numbers[ConfigRole]++
		role := r.configManifest(one)
		change(role.Signed.Targets)
		return r.configOf(role, "settings")
	}
	move := func(path string) func(*repo) File {
		return func(r *repo) File {
			return change(r, func(list map[string]*metadata.TargetFiles) {
				list[path] = list["config/"+macA+".json"]
				delete(list, "config/"+macA+".json")
			})
		}
	}
	documentOf := func(selector, text string) func(*repo) File {
		return func(r *repo) File {
			return change(r, func(list map[string]*metadata.TargetFiles) {
				target, err := metadata.TargetFile().FromBytes("x", []byte(text), "sha256")
				r.ok(err)
				custom, err := json.Marshal(map[string]string{"document": text})
				r.ok(err)
				target.Custom = (*json.RawMessage)(&custom)
				list["config/"+selector+".json"] = target
			})
		}
	}
	document := func(text string) func(*repo) File { return documentOf(macA, text) }
	for name, row := range map[string]struct {
		file   func(*repo) File
		reason error
		says   string
	}{
		"signed by another key":      {func(r *repo) File { return r.config(one, "other") }, ErrSignature, "config.json version 1: signed by 0 of 1"},
		"signed by the release keys": {func(r *repo) File { return r.config(one, "release-a", "release-b") }, ErrSignature, "signed by 0 of 1"},
		"without a signature":        {func(r *repo) File { return r.config(one) }, ErrSignature, "signed by 0 of 1"},
		"of another repository": {func(r *repo) File {
			r.id = strings.Repeat("ab", 16)
			f := r.config(one, "settings")
			r.id = production
			return f
		}, ErrRepository, "made for repository"},
		"a path of a channel":       {move("stable/x86_64/kernel"), ErrPath, "not config/SELECTOR.json"},
		"a path above":              {move("config/../config/default.json"), ErrMalformed, "selector"},
		"a folder more":             {move("config/group/lab.json"), ErrMalformed, "selector"},
		"no suffix":                 {move("config/default"), ErrPath, "not config/SELECTOR.json"},
		"a MAC with colons":         {move("config/mac-52:54:00:12:34:56.json"), ErrMalformed, "selector"},
		"a MAC in upper case":       {move("config/mac-52540012345A.json"), ErrMalformed, "selector"},
		"an escape that is not one": {move("config/serial-a_2.json"), ErrMalformed, "selector"},
		"an escape of a plain byte": {move("config/serial-a_41.json"), ErrMalformed, "selector"},
		"a group that cannot be":    {move("config/group-Lab.json"), ErrMalformed, "selector"},
		"no selector":               {move("config/.json"), ErrMalformed, "selector"},
		"groups of a group":         {documentOf("group-lab", `{"format":"phaseboot/settings/v1","groups":["a"]}`), ErrMalformed, "cannot put its machines"},
		"another document": {func(r *repo) File {
			return change(r, func(l map[string]*metadata.TargetFiles) {
				for _, f := range l {
					custom := json.RawMessage(`{"document":"{}"}`)
					f.Custom = &custom
				}
			})
		}, ErrMalformed, "not the target file"},
		"not JSON":                      {document("hostname: one"), ErrMalformed, "not JSON"},
		"a key twice":                   {document(`{"format":"phaseboot/settings/v1","hostname":"a","hostname":"b"}`), ErrMalformed, "are the same"},
		"a key in another case":         {document(`{"format":"phaseboot/settings/v1","Hostname":"a"}`), ErrMalformed, "must be written"},
		"another format":                {document(`{"format":"phaseboot/settings/v2"}`), ErrMalformed, "update this program"},
		"no format":                     {document(`{"hostname":"a"}`), ErrMalformed, "is missing"},
		"null":                          {document(`{"format":"phaseboot/settings/v1","groups":null}`), ErrMalformed, "null"},
		"two lines":                     {document("{\"format\":\"phaseboot/settings/v1\",\n\"hostname\":\"a\"}"), ErrMalformed, "one line"},
		"a program on the command line": {document(`{"format":"phaseboot/settings/v1","cmdline":["init=/bin/sh"]}`), ErrMalformed, "may add"},
		"two words in one":              {document(`{"format":"phaseboot/settings/v1","cmdline":["quiet init=/bin/sh"]}`), ErrMalformed, "may add"},
		"a quote":                       {document(`{"format":"phaseboot/settings/v1","cmdline":["video=\"a b\""]}`), ErrMalformed, "may add"},
		"a hostname with a path":        {document(`{"format":"phaseboot/settings/v1","hostname":"../etc"}`), ErrMalformed, "hostname"},
		"an SSH key with a command":     {document(`{"format":"phaseboot/settings/v1","ssh_keys":["command=\"sh\" ` + sshKey + `"]}`), ErrMalformed, "SSH key"},
		"a credential with a path":      {document(`{"format":"phaseboot/settings/v1","credentials":{"../x":"YQ=="}}`), ErrMalformed, "credential"},
		"a credential not in base64":    {document(`{"format":"phaseboot/settings/v1","credentials":{"x":"%"}}`), ErrMalformed, "base64"},
		"a credential and a secret":     {document(`{"format":"phaseboot/settings/v1","credentials":{"x":"YQ=="},"secrets":{"x":"YQ=="}}`), ErrMalformed, "and a secret"},
		"a network file with a path":    {document(`{"format":"phaseboot/settings/v1","network":{"../x.network":""}}`), ErrMalformed, "network file"},
		"a network script":              {document(`{"format":"phaseboot/settings/v1","network":{"up.sh":""}}`), ErrMalformed, "network file"},
		"a group with a path":           {document(`{"format":"phaseboot/settings/v1","groups":["a/b"]}`), ErrMalformed, "group"},
		"more than 64 KiB":              {document(`{"format":"phaseboot/settings/v1","x":"` + strings.Repeat("a", MaxSettings) + `"}`), ErrMalformed, "within 1 and 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t).withConfig("settings")
			r.publish(row.file(r))
			_, err := Verify(context.Background(), r.files, r.policy(""))
			refused(t, err, row.reason, row.says)
		})
	}
}

// A state keeps the floor of the role config, as of any role.
func TestAttackRollbackOfSettings(t *testing.T) {
	r := newRepo(t).withConfig("settings")
	old := r.config(map[string]Settings{macA: {Hostname: "old"}}, "settings")
	r.publish(old)
	p := r.policy(t.TempDir())
	p.Machine = machineA()
	r.boot(r.files, p)
	r.publish(r.config(map[string]Settings{macA: {Hostname: "new"}}, "settings"))
	if v := r.boot(r.files, p); v.Settings().Hostname != "new" {
		t.Fatalf("settings: %+v", v.Settings())
	}
	kept := maps.Clone(r.files)
	// The online key names the old one again in a newer snapshot.
	r.publish(old)
	_, err := Verify(context.Background(), r.files, p)
	refused(t, err, ErrRollback, `"config.json" version 1, older than 2`)
	// Or none, where the state has lost its snapshot.
	delete(r.snap.Signed.Meta, "config.json")
	r.publish()
	_, err = Verify(context.Background(), r.files, p)
	refused(t, err, ErrRollback, `"config.json" is gone`)
	_, err = Verify(context.Background(), without(kept, "2.config.json"), r.policy(""))
	if err == nil || !strings.Contains(err.Error(), "2.config.json: not there, although the snapshot names it") {
		t.Errorf("a source without the role: %v", err)
	}
	v, err := LastGood(context.Background(), p)
	if err != nil || v.Settings().Hostname != "new" {
		t.Errorf("the last good release: %v", err)
	}
}

// The keys of the settings can sign no release, so the date that they sign does not bring a release forward.
func TestTheDateOfSettingsMovesNoTime(t *testing.T) {
	r := newRepo(t).withConfig("settings")
	p := r.policy(t.TempDir())
	p.Machine = machineA()
	signedAt := r.signedAt
	for range 3 {
		r.signedAt = today.Add(20 * day)
		f := r.config(map[string]Settings{macA: {Hostname: "node1"}}, "settings")
		r.signedAt = signedAt
		r.publish(f)
		if v := r.boot(r.files, p); v.now.After(today.Add(day)) || v.Settings().Number != f.Version {
			t.Errorf("settings %d: the time is %s", v.Settings().Number, v.now)
		}
	}
}

func TestExpiredSettings(t *testing.T) {
	r := newRepo(t).withConfig("settings")
	r.expires["release"] = today.Add(-day / 2)
	expired := r.config(map[string]Settings{macA: {Hostname: "old", Groups: []string{"lab"}}}, "settings")
	r.expires["release"] = today.Add(30 * day)
	r.publish(expired)
	p := r.policy("")
	p.Machine = machineA()
	v, err := Verify(context.Background(), r.files, p)
	if err != nil || v.Settings().Hostname != "" || !v.Settings().Expired || !slices.Equal(v.Settings().Groups, []string{"hint", "lab"}) || len(v.Notes()) != 1 || !strings.Contains(v.Notes()[0], "boots without settings") {
		t.Errorf("%+v, %v", v, err)
	}
	p.StaleSettings = true
	v, err = Verify(context.Background(), r.files, p)
	if err != nil || v.Settings().Hostname != "old" || !v.Settings().Expired || len(v.Notes()) != 1 || !strings.Contains(v.Notes()[0], "as the mode allows") {
		t.Errorf("%+v, %v", v, err)
	}
	// The last good release uses no dates of metadata, and the mode still decides about its settings.
	p = r.policy(t.TempDir())
	p.Machine = machineA()
	r.boot(r.files, p)
	for stale, want := range map[bool]string{false: "", true: "old"} {
		p.StaleSettings = stale
		if v, err := LastGood(t.Context(), p); err != nil || v.Settings().Hostname != want || !v.Settings().Expired || !slices.Contains(v.Settings().Groups, "lab") {
			t.Errorf("stale settings %v: %+v, %v", stale, v, err)
		}
	}
	if _, err := Channels(context.Background(), r.files, r.root, today); err != nil {
		t.Errorf("channels: %v", err)
	}
	_, err = CheckConfig(r.root, r.files["2.targets.json"], expired.Data, today)
	refused(t, err, ErrExpired, "sign the settings again")
}

// A channel's keys and paths cannot reach settings, and those of settings nothing else.
func TestAttackDelegationOfSettings(t *testing.T) {
	for says, change := range map[string]func(*metadata.DelegatedRole){
		`must be "config/*" alone`: func(d *metadata.DelegatedRole) { d.Paths = append(d.Paths, "stable/x86_64/*") },
		`must be true`:             func(d *metadata.DelegatedRole) { d.Terminating = false },
	} {
		targets, err := NewTargets(1, today.Add(day), Delegation{ConfigRole, "", public("settings"), 1})
		if err != nil {
			t.Fatal(err)
		}
		change(&targets.Signed.Delegations.Roles[0])
		_, err = Bytes(KindTargets, targets)
		refused(t, err, ErrMalformed, says)
	}
	if _, err := RoleName(ConfigRole, ""); !errors.Is(err, ErrMalformed) {
		t.Errorf("a channel with the name of the role: %v", err)
	}
}

// go-tuf verifies the role, and its target files are what it says.
func TestGoTUFReadsSettings(t *testing.T) {
	r := newRepo(t).withConfig("settings", "more")
	r.publish(r.config(sampleSettings(), "settings", "more"))
	v := r.boot(r.files, r.policy(""))
	tm, err := goTUF(context.Background(), r.files, r.root, v.roots, ConfigRole, v.now)
	r.ok(err)
	d, err := Open(r.files["1.config.json"])
	r.ok(err)
	if d.Kind() != KindConfig || d.Role() != ConfigRole || !reflect.DeepEqual(d.Config().Settings, sampleSettings()) || d.Unknown() != nil {
		t.Errorf("the document: %s %s, unknown %q, %+v", d.Kind(), d.Role(), d.Unknown(), d.Config())
	}
	targets := d.Targets()
	if len(targets) != len(sampleSettings()) {
		t.Fatalf("%d targets", len(targets))
	}
	for _, target := range targets {
		file := tm.Targets[ConfigRole].Signed.Targets[target.Path]
		if file == nil {
			t.Fatalf("go-tuf has no %s", target.Path)
		}
		if err := file.VerifyLengthHashes(target.Data); err != nil {
			t.Errorf("%s: %v", target.Path, err)
		}
		if role := tm.Targets[roleTargets].Signed.Delegations.GetRolesForTarget(target.Path); len(role) != 1 || role[0].Name != ConfigRole {
			t.Errorf("%s: go-tuf asks %v", target.Path, role)
		}
	}
}

func TestSelectors(t *testing.T) {
	for text, want := range map[string]string{
		"default": "default", "group-lab": "group-lab", "mac-52:54:00:12:34:56": macA, "mac-52-54-00-12-34-56": macA, macA: macA,
		"uuid-4C4C4544-0042-3510-8052-B4C04F4A3732": uuidA, "serial-AB 12": "serial-ab_2012", "serial-ab_2012": "serial-ab_2012", "serial-a.b-1": "serial-a.b-1",
		"serial-AB12": "serial-ab12", "serial-AB_x": "serial-ab_5fx", "serial-ab_5f20": "serial-ab_5f20", "serial-AB_20": "", "serial-AB_2F": "", "serial-AB_5F20": "",
		"serial-a/../b": "serial-a_2f.._2fb", "serial-ü": "serial-_c3_bc",
		"": "", "mac-": "", "mac-5254001234": "", "mac-000000000000": "", "mac-ffffffffffff": "", "uuid-x": "", "group-": "", "group-Lab": "", "serial-": "", "default-x": "", "config": "",
		"serial-" + strings.Repeat("x", 65): "",
	} {
		got, err := ParseSelector(text)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: got %q, %v; want %q", text, got, err, want)
		}
	}
}

// Both spellings that the refusal names are accepted, each for its machine.
func TestASerialNumberThatIsTheFormOfAnotherIsRefused(t *testing.T) {
	_, err := ParseSelector("serial-AB_2F20")
	if want := `selector "serial-AB_2F20": is two serial numbers; write serial-ab_5f2f20 for "AB_2F20", or serial-ab_2f20 for "AB/20"`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
	for form, serial := range map[string]string{"serial-ab_5f2f20": "AB_2F20", "serial-ab_2f20": "AB/20"} {
		if got, err := ParseSelector(form); err != nil || got != SerialSelector(serial) {
			t.Errorf("%s: %s, %v, and the machine is %s", form, got, err, SerialSelector(serial))
		}
	}
}

// Each value at its limit is accepted, and one more refused.
func TestLimitsOfSettings(t *testing.T) {
	for name, row := range map[string]struct {
		most int
		make func(n int) Settings
	}{
		"words":       {16, func(n int) (s Settings) { s.Cmdline = slices.Repeat([]string{"quiet"}, n); return s }},
		"SSH keys":    {64, func(n int) (s Settings) { s.SSHKeys = slices.Repeat([]string{sshKey}, n); return s }},
		"groups":      {64, func(n int) (s Settings) { s.Groups = slices.Repeat([]string{"a"}, n); return s }},
		"hostname":    {64, func(n int) (s Settings) { s.Hostname = strings.Repeat("a.", n/2) + strings.Repeat("a", n%2); return s }},
		"credentials": {64, func(n int) (s Settings) { s.Credentials = named(n, ""); return s }},
		"secrets":     {64, func(n int) (s Settings) { s.Secrets = named(n, ""); return s }},
		"network": {8, func(n int) (s Settings) {
			s.Network = map[string]string{}
			for name := range named(n, ".network") {
				s.Network[name] = ""
			}
			return s
		}},
	} {
		if name == "hostname" { // it may not end with a dot
			row.make = func(n int) (s Settings) {
				s.Hostname = "a" + strings.Repeat("-", 30) + "a." + strings.Repeat("a", n-33)
				return s
			}
		}
		if _, err := EncodeSettings(row.make(row.most)); err != nil {
			t.Errorf("%s: %d: %v", name, row.most, err)
		}
		if _, err := EncodeSettings(row.make(row.most + 1)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %d: %v", name, row.most+1, err)
		}
	}
}

func TestPreheatIsTheVersionOfARelease(t *testing.T) {
	for version, ok := range map[string]bool{"2.0": true, "2026.11~rc+1": true, "two words": false, "2.0\"": false, strings.Repeat("1", 65): false} {
		data, err := EncodeSettings(Settings{Preheat: version})
		if ok != (err == nil) || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", version, err)
			continue
		}
		if s, err := ParseSettings(data); ok && (err != nil || s.Preheat != version || s.IsZero()) {
			t.Errorf("%q: %+v, %v", version, s, err)
		}
	}
	if _, err := ParseSettings([]byte(`{"format":"phaseboot/settings/v1","preheat":2}`)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a number: %v", err)
	}
	general, own := Settings{Preheat: "2.0"}, Settings{Preheat: "3.0"}
	if got := general.Over(own).Preheat + " " + general.Over(Settings{Hostname: "a"}).Preheat; got != "3.0 2.0" {
		t.Errorf("merged: %s", got)
	}
}

func TestWordsThatSettingsMayAdd(t *testing.T) {
	for word, may := range map[string]bool{
		"quiet": true, "panic=1": true, "panic=3600": true, "hugepages=64": true,
		"panic": false, "panic=": false, "panic=0": false, "panic=3601": false, "panic=-1": false, "init=/bin/sh": false, "quiet quiet": false,
	} {
		if err := CheckWord(word); (err == nil) != may {
			t.Errorf("%q: %v", word, err)
		}
	}
	long := "console=" + strings.Repeat("a", 125)
	s := Settings{Cmdline: []string{long, long, long}} // 401 bytes
	if _, err := EncodeSettings(s); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "401 bytes of command line words; at most 400") {
		t.Error(err)
	}
	s.Cmdline[0] = long[:len(long)-1]
	if _, err := EncodeSettings(s); err != nil {
		t.Error(err)
	}
}

func named(n int, suffix string) map[string][]byte {
	list := map[string][]byte{}
	for i := range n {
		list[fmt.Sprintf("n%d%s", i, suffix)] = []byte("x")
	}
	return list
}

// What is accepted is written again as the same settings, and a machine can merge it with itself.
func FuzzParseSettings(f *testing.F) {
	for _, s := range sampleSettings() {
		data, err := EncodeSettings(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"format":"phaseboot/settings/v1","hostname":"a","more":{"x":[1]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSettings(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("not a refusal: %v", err)
			}
			return
		}
		out, err := EncodeSettings(s)
		if err != nil {
			if strings.Contains(err.Error(), "at most 65536") {
				return // escapes make it longer
			}
			t.Fatalf("accepted and not written: %v", err)
		}
		again, err := ParseSettings(out)
		if twice, _ := EncodeSettings(again); err != nil || !bytes.Equal(out, twice) {
			t.Errorf("%s, then %s, %v", out, twice, err)
		}
		if merged, _ := EncodeSettings(s.Over(s)); !bytes.Equal(out, merged) {
			t.Errorf("%s, over itself %s", out, merged)
		}
	})
}

func FuzzParseSelector(f *testing.F) {
	for _, s := range []string{"default", "serial-AB 12", macA, uuidA, "group-lab", "mac-52:54:00:12:34:56"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSelector(text)
		if err != nil {
			return
		}
		if again, err := ParseSelector(s); err != nil || again != s || strings.ContainsAny(s, "/% \\") || checkSelector(s) != nil {
			t.Errorf("%q is %q, then %q, %v", text, s, again, err)
		}
	})
}

// The vector is the settings that the golden repository could have next.
func TestGoldenSettings(t *testing.T) {
	r := newRepo(t).withConfig("settings")
	golden := files{"config.json": r.config(sampleSettings(), "settings").Data, "targets.json": r.files["2.targets.json"]}
	for name, data := range golden {
		path := filepath.Join(vectors, "settings", name)
		if *update {
			r.ok(os.MkdirAll(filepath.Dir(path), 0o755))
			r.ok(os.WriteFile(path, data, 0o644))
		}
		if want := read(t, "settings", name); !bytes.Equal(want, data) {
			t.Errorf("%s is not as it was:\n%s", name, data)
		}
	}
	c, err := CheckConfig(read(t, "repository", "1.root.json"), read(t, "settings", "targets.json"), read(t, "settings", "config.json"), today)
	if err != nil || !reflect.DeepEqual(c.Settings, sampleSettings()) {
		t.Errorf("%+v, %v", c, err)
	}
	_, err = CheckConfig(read(t, "repository", "1.root.json"), read(t, "repository", "1.targets.json"), read(t, "settings", "config.json"), today)
	refused(t, err, ErrPath, "has no role config")
}

// docs/RATIONALE.md names how many machines one role has room for.
func TestARoleHasRoomForManyMachines(t *testing.T) {
	const machines = 1500
	list := map[string]Settings{}
	for i := range machines {
		list[fmt.Sprintf("mac-5254%08x", i)] = Settings{Hostname: fmt.Sprintf("node%d.example.org", i), Groups: []string{"rack-7"}}
	}
	r := newRepo(t).withConfig("settings")
	f := r.config(list, "settings")
	t.Logf("%d machines: %d bytes", machines, len(f.Data))
	if err := Lint(KindConfig, f.Data); err != nil {
		t.Error(err)
	}
}
