package manifest

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multibase"
	mh "github.com/multiformats/go-multihash"
)

func valid() Release {
	return sample("stable", "x86_64", "2026.10", 7, today, today.Add(30*day))
}

func TestEncodeAndDecodeAreInverse(t *testing.T) {
	for name, change := range map[string]func(*Release){
		"as it is":             func(*Release) {},
		"kernel and initramfs": func(r *Release) { r.Job, r.Artifacts = "", []Artifact{r.Artifacts[1], r.Artifacts[3]} },
		"largest numbers":      func(r *Release) { r.Number, r.MinRAM, r.Artifacts[0].Length = maxInteger, maxRAM, maxArtifact },
		"longest command line": func(r *Release) { r.Cmdline = strings.Repeat("a ", maxCmdline/2) },
		"no command line":      func(r *Release) { r.Cmdline = "" },
		"characters that JSON escapes": func(r *Release) {
			r.Cmdline = `root="LABEL=<a>&b" quoted=\\x`
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := valid()
			change(&want)
			role, err := Encode(want)
			if err != nil {
				t.Fatal(err)
			}
			data := sign(t, KindRole, role, "release-a")
			if diff := cmp.Diff(want, *mustOpen(t, data).Release(), compareCIDs); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEncodeRefusesWhatMachinesRefuse(t *testing.T) {
	artifact := func(change func(*Artifact)) func(*Release) {
		return func(r *Release) { change(&r.Artifacts[4]) }
	}
	named := func(role string) func(*Release) {
		return artifact(func(a *Artifact) { a.Role = role })
	}
	multihash := func(code uint64, length int) func(*Release) {
		return artifact(func(a *Artifact) {
			h, err := mh.Sum([]byte("content that is long enough"), code, length)
			if err != nil {
				panic(err)
			}
			a.CID = cid.NewCidV1(cid.Raw, h)
		})
	}
	for _, row := range []struct {
		name   string
		change func(*Release)
		says   string
	}{
		{"no kernel", func(r *Release) { r.Artifacts = append(r.Artifacts[:3:3], r.Artifacts[4]) }, "no kernel"},
		{"no initramfs", func(r *Release) { r.Artifacts = append(r.Artifacts[:1:1], r.Artifacts[2:]...) }, "no initramfs"},
		{"the same role twice", named(RoleKernel), "named twice"},
		{"an unknown role", named("firmware"), `artifact "firmware": only kernel, initramfs`},
		{"a role with ..", named("../kernel"), "only kernel"},
		{"a device tree with no name", named("dtb/"), "only kernel"},
		{"a device tree in a folder", named("dtb/a/b"), "only kernel"},
		{"a hidden device tree", named("dtb/..b"), "only kernel"},
		{"a job that is no module", named("job/hello.sh"), "only kernel"},
		{"a role in another case", named("Rootfs"), "only kernel"},
		{"a role with a NUL", named("dtb/a\x00b"), "only kernel"},
		{"no bytes", artifact(func(a *Artifact) { a.Length = 0 }), "length: 0 is not within"},
		{"too many bytes", artifact(func(a *Artifact) { a.Length = maxArtifact + 1 }), "length"},
		{"a short sha256", artifact(func(a *Artifact) { a.SHA256 = "00ff" }), "is not 64 lower-case hex digits"},
		{"no CID", artifact(func(a *Artifact) { a.CID = cid.Undef }), "no CID"},
		{"an identity CID", multihash(mh.IDENTITY, -1), "only CIDv1"},
		{"a sha1 CID", multihash(mh.SHA1, -1), "only CIDv1"},
		{"a truncated CID", multihash(mh.SHA2_256, 20), "only CIDv1"},
		{"no chunker", artifact(func(a *Artifact) { a.Chunker = "" }), "is not the name of a chunker"},
		{"a chunker with a space", artifact(func(a *Artifact) { a.Chunker = "size 1" }), "is not the name of a chunker"},
		{"a job that is not there", func(r *Release) { r.Job = "job/other.wasm" }, "not one of its artifacts"},
		{"a kernel as job", func(r *Release) { r.Job = RoleKernel }, "not one of its artifacts"},
		{"no version", func(r *Release) { r.Version = "" }, "use letters, digits"},
		{"a version with a space", func(r *Release) { r.Version = "1 init=/bin/sh" }, "use letters, digits"},
		{"a version of 65 bytes", func(r *Release) { r.Version = strings.Repeat("1", 65) }, "use letters, digits"},
		{"role version 0", func(r *Release) { r.Number = 0 }, "version: 0 is not within"},
		{"negative memory", func(r *Release) { r.MinRAM = -1 }, "min_ram: -1"},
		{"signed after its end", func(r *Release) { r.SignedAt = r.Expires.Add(day) }, "is later than signed.expires"},
		{"a channel with a slash", func(r *Release) { r.Channel = "a/b" }, `channel "a/b"`},
		{"an architecture with a dash", func(r *Release) { r.Arch = "x86-64" }, `architecture "x86-64"`},
		{"a command line of two lines", func(r *Release) { r.Cmdline = "quiet\ninit=/bin/sh" }, "only printable ASCII"},
		{"a command line with a tab", func(r *Release) { r.Cmdline = "a\tb" }, "only printable ASCII"},
		{"a command line beyond ASCII", func(r *Release) { r.Cmdline = "a\u202eb" }, "only printable ASCII"},
		{"a command line that ends the kernel's part", func(r *Release) { r.Cmdline = "quiet -- single" }, `"--" is not allowed`},
		{"a command line with another release", func(r *Release) { r.Cmdline = "phase.release=1" }, "is added by the boot client"},
		{"a command line too long", func(r *Release) { r.Cmdline = strings.Repeat("a", maxCmdline+1) }, "1501 bytes; at most 1500"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := valid()
			row.change(&r)
			_, err := Encode(r)
			refused(t, err, ErrMalformed, row.says)
		})
	}
}

// A manifest that Encode never writes is refused after Lint.
func TestOpenRefusesWhatEncodeWouldNotWrite(t *testing.T) {
	for _, row := range []struct{ name, old, new, says string }{
		{"a role that is not the path's", `"role": "rootfs"`, `"role": "kernel"`, "its role is given as"},
		{"a CID in another base", `"cid": "bafkr4igsyshxid5l45pg4vdfkv3hhqwlihhflbahmkvlzzxe2g6kkp5iwe"`, "", "must be written bafkr4"},
		{"a CID that is none", `"cid": "bafkr4igsyshxid5l45`, `"cid": "bafkr4igsyshxid5`, "CID"},
		{"a need for what is not known", `"min_ram": 512`, `"min_ram": 512, "critical": ["min_ram", "enclave"]`, `needs a reader that knows "enclave"; update this program`},
	} {
		t.Run(row.name, func(t *testing.T) {
			golden := string(read(t, "repository", kinds[KindRole]))
			if row.new == "" {
				c, err := cid.Decode(strings.Trim(strings.TrimPrefix(row.old, `"cid": `), `"`))
				if err != nil {
					t.Fatal(err)
				}
				text, err := c.StringOfBase(multibase.Base16)
				if err != nil {
					t.Fatal(err)
				}
				row.new = `"cid": "` + text + `"`
			}
			data := strings.Replace(golden, row.old, row.new, 1)
			if err := Lint(KindRole, []byte(data)); err != nil || data == golden {
				t.Fatalf("not changed as meant: %v", err)
			}
			_, err := Open([]byte(data))
			refused(t, err, ErrMalformed, row.says)
		})
	}
}

func TestRoleNamesAreUnambiguous(t *testing.T) {
	for _, row := range []struct{ channel, arch, want string }{
		{"stable", "x86_64", "stable-x86_64"},
		{"a-b", "c", "a-b-c"},
		{"0", "0", "0-0"},
		{"a", "b-c", ""},
		{"", "x", ""},
		{"x", "", ""},
		{"-a", "b", ""},
		{"A", "b", ""},
		{"a/b", "c", ""},
		{"..", "x", ""},
		{"a b", "c", ""},
		{"a\n", "c", ""},
		{strings.Repeat("a", 33), "c", ""},
	} {
		got, err := RoleName(row.channel, row.arch)
		if got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("RoleName(%q, %q) = %q, %v", row.channel, row.arch, got, err)
		}
		if err != nil {
			continue
		}
		if channel, arch, ok := SplitRole(got); !ok || channel != row.channel || arch != row.arch {
			t.Errorf("SplitRole(%q) = %q, %q, %t", got, channel, arch, ok)
		}
	}
	if _, _, ok := SplitRole("targets"); ok {
		t.Error("targets is no channel")
	}
}

func TestReleaseIsPlainJSON(t *testing.T) {
	want := valid()
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Release
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareCIDs); diff != "" {
		t.Error(diff)
	}
}
