package receipt

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/manifest/repotest"
	"github.com/phaseboot/phaseboot/plasm"
)

// published makes a repository with release 1.2 as version 3, whose job is that of f, and returns its folder.
func published(t *testing.T, f Facts) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	files := map[string]string{}
	for role, data := range map[string]string{"kernel": "k", "initramfs": "i", "job/hello.wasm": string(f.Job.Module)} {
		files[role] = filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(files[role], []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(repotest.New(dir), repotest.Rotate(dir, 2), repotest.Publish(dir, 3, "1.2", time.Unix(1e9, 0), files)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// plainFacts are of the job of release 1.2.
func plainFacts(t *testing.T) Facts {
	f := exampleFacts(t)
	f.Submitter, f.Release, f.Spec.Grants = nil, &manifest.Release{Channel: "stable", Arch: "x86_64", Version: "1.2", Number: 3}, plasm.Grants{}
	return f
}

func TestTheReleaseOfAReceiptIsFoundByARoot(t *testing.T) {
	f := plainFacts(t)
	dir := published(t, f)
	root, err := os.ReadFile(filepath.Join(dir, "1.root.json")) // older than the newest
	if err != nil {
		t.Fatal(err)
	}
	rel, err := sign(t, f).FindRelease(t.Context(), root, dir)
	if err != nil || rel.Version != "1.2" {
		t.Fatalf("%+v, %v", rel, err)
	}
	if c, err := sign(t, f).CheckRelease(rel); err != nil || c != (Chain{"1.2", "job/hello.wasm", ""}) {
		t.Errorf("%+v, %v", c, err)
	}
}

// A machine outside of a roll-out runs an earlier release of the manifest that the receipt names.
func TestTheReleaseOfAReceiptMayBeAnEarlierOneOfItsManifest(t *testing.T) {
	f := plainFacts(t)
	dir := published(t, f)
	root, err := os.ReadFile(filepath.Join(dir, "1.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	rel, err := sign(t, f).FindRelease(t.Context(), root, dir)
	if err != nil {
		t.Fatal(err)
	}
	newest := rel
	newest.Version, newest.Artifacts, newest.Earlier = "1.3", nil, []manifest.Release{rel}
	if c, err := sign(t, f).CheckRelease(newest); err != nil || c != (Chain{"1.2", "job/hello.wasm", ""}) {
		t.Errorf("%+v, %v", c, err)
	}
	newest.Earlier[0].Version = "1.1"
	if _, err := sign(t, f).CheckRelease(newest); !errors.Is(err, manifest.ErrUntrusted) {
		t.Errorf("a release that the manifest does not carry: %v", err)
	}
}

func TestAttackAReleaseThatTheRootDoesNotLeadTo(t *testing.T) {
	f := plainFacts(t)
	dir := published(t, f)
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	foreign, err := os.ReadFile("../../testdata/repository/1.root.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sign(t, f).FindRelease(t.Context(), foreign, dir); !errors.Is(err, manifest.ErrUntrusted) {
		t.Errorf("the root of another repository: %v", err)
	}
	if _, err := sign(t, f).FindRelease(t.Context(), []byte("{}"), dir); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("no root: %v", err)
	}
	older := f
	older.Release = &manifest.Release{Channel: "stable", Arch: "x86_64", Version: "1.1", Number: 2}
	if _, err := sign(t, older).FindRelease(t.Context(), read("root.json"), dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no 2.stable-x86_64.json") {
		t.Errorf("a release that is not there: %v", err)
	}
	outside := f
	outside.Release = &manifest.Release{Channel: "../x", Arch: "x86_64", Version: "1.1", Number: 3}
	if _, err := sign(t, outside).FindRelease(t.Context(), read("root.json"), dir); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("a channel outside: %v", err)
	}
	forged := strings.Replace(string(read("3.stable-x86_64.json")), `"1.2"`, `"1.3"`, 1)
	if err := os.WriteFile(filepath.Join(dir, "3.stable-x86_64.json"), []byte(forged), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sign(t, f).FindRelease(t.Context(), read("root.json"), dir); !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("a forged release: %v", err)
	}
	if _, err := CheckManifest(t.Context(), read("root.json"), t.TempDir(), []byte(forged)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder without metadata: %v", err)
	}
}

func TestAReceiptIsComparedWithItsRelease(t *testing.T) {
	f := plainFacts(t)
	rel := *f.Release
	rel.Artifacts = []manifest.Artifact{
		{Role: "job/hello.wasm", SHA256: f.Job.SHA256, Length: int64(len(f.Job.Module)), CID: f.Job.CID},
		{Role: "rootfs", SHA256: emptySHA256, Length: 1},
	}
	rel.Submitters = []manifest.Submitter{{Name: "ci", Key: otherPublic()}}
	if _, err := sign(t, f).CheckRelease(rel); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		edit func(*Facts)
		want Chain
		says string
	}{
		{"a job of the release", func(*Facts) {}, Chain{"1.2", "job/hello.wasm", ""}, ""},
		{"ordered by a submitter", func(f *Facts) { f.Submitter = otherPublic() }, Chain{"1.2", "job/hello.wasm", "ci"}, ""},
		{"a module of a submitter", func(f *Facts) { f.Submitter, f.Job.SHA256 = otherPublic(), strings.Repeat("0", 64) }, Chain{"1.2", "", "ci"}, ""},
		{"a file", func(f *Facts) { f.Release = nil }, Chain{}, "it names no release"},
		{"another module", func(f *Facts) { f.Job.SHA256 = strings.Repeat("0", 64) }, Chain{}, "is no job of release 1.2"},
		{"an artifact that is no job", func(f *Facts) { f.Job.SHA256, f.Job.Module = emptySHA256, []byte{0} }, Chain{}, "is no job of release 1.2"},
		{"no submitter", func(f *Facts) { f.Submitter = testPublic() }, Chain{}, "which is no submitter of release 1.2"},
		{"another version", func(f *Facts) {
			f.Release = &manifest.Release{Channel: "stable", Arch: "x86_64", Version: "1.3", Number: 3}
		}, Chain{}, "the machine ran release 1.3 of stable-x86_64, version 3"},
		{"another role version", func(f *Facts) {
			f.Release = &manifest.Release{Channel: "stable", Arch: "x86_64", Version: "1.2", Number: 4}
		}, Chain{}, "version 4"},
		{"another channel", func(f *Facts) {
			f.Release = &manifest.Release{Channel: "beta", Arch: "x86_64", Version: "1.2", Number: 3}
		}, Chain{}, "beta-x86_64"},
		{"another repository", func(f *Facts) {
			f.Release = &manifest.Release{Channel: "stable", Arch: "x86_64", Version: "1.2", Number: 3, Repository: "ab"}
		}, Chain{}, "in repository ab"},
	} {
		f := plainFacts(t)
		c.edit(&f)
		got, err := sign(t, f).CheckRelease(rel)
		if refused := err != nil; refused != (c.says != "") || refused && (!errors.Is(err, manifest.ErrUntrusted) || !strings.Contains(err.Error(), c.says)) || got != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

func TestOnlyARepeatableRunIsReplayed(t *testing.T) {
	input := []byte("input, and more that the job did not read")
	for _, c := range []struct {
		name string
		edit func(*Facts)
		is   error
		says string
	}{
		{"the same job", func(*Facts) {}, nil, ""},
		{"a trap", func(f *Facts) { f.Outcome.Reason, f.Outcome.ExitCode = plasm.ReasonTrap, plasm.NoExitCode }, nil, ""},
		{"with a clock", func(f *Facts) { f.Spec.Grants.Clock = true }, fs.ErrInvalid, "the clock or random numbers"},
		{"with random numbers", func(f *Facts) { f.Spec.Grants.Random = true }, fs.ErrInvalid, "the clock or random numbers"},
		{"with artifacts", func(f *Facts) { f.Spec.Grants.Artifacts = []string{"rootfs"} }, fs.ErrInvalid, "read artifacts"},
		{"too slow", func(f *Facts) { f.Outcome.Reason = plasm.ReasonTimeout }, fs.ErrInvalid, `ended by "timeout"`},
		{"cancelled", func(f *Facts) { f.Outcome.Reason = "cancelled" }, fs.ErrInvalid, `ended by "cancelled"`},
		{"another module", func(f *Facts) { f.Job.SHA256 = strings.Repeat("0", 64) }, cas.ErrCorrupt, "name the module that ran"},
		{"another input", func(f *Facts) { f.Outcome.InputSHA256 = emptySHA256 }, cas.ErrCorrupt, "name the input of the job"},
		{"a longer input", func(f *Facts) { f.Outcome.InputLength = 1000 }, cas.ErrCorrupt, "the 1000 bytes that the job read"},
	} {
		f := plainFacts(t)
		f.Spec.Limits.Timeout = 10 * time.Hour
		f.Outcome.InputSHA256, f.Outcome.InputLength = fmt.Sprintf("%x", sha256.Sum256([]byte("input"))), 5
		c.edit(&f)
		job, spec, err := sign(t, f).Replay(plasm.Job{Name: "other name", SHA256: plainFacts(t).Job.SHA256}, input)
		if !errors.Is(err, c.is) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil && (job.Name != "hello.wasm" || spec.Engine != plasm.EngineCompiler || spec.Limits.Timeout != 24*time.Hour || spec.Check() != nil) {
			t.Errorf("%s: %+v with %+v: %v", c.name, job, spec, spec.Check())
		}
	}
}

func TestAReplayWithAnotherResultDiffers(t *testing.T) {
	f := plainFacts(t)
	s := sign(t, f)
	if err := s.Differs(f.Outcome); err != nil {
		t.Fatal(err)
	}
	for says, edit := range map[string]func(*plasm.Outcome){
		"exit code 1, and the receipt has 0":     func(o *plasm.Outcome) { o.ExitCode = 1 },
		`it ended by "trap"`:                     func(o *plasm.Outcome) { o.Reason = plasm.ReasonTrap },
		"stdout: 13 bytes":                       func(o *plasm.Outcome) { o.Stdout.Length++ },
		"stdout: 12 bytes with sha256 " + "e3b0": func(o *plasm.Outcome) { o.Stdout.SHA256 = emptySHA256 },
		"stderr: 0 bytes":                        func(o *plasm.Outcome) { o.Stderr.Truncated = false },
	} {
		o := f.Outcome
		edit(&o)
		if err := s.Differs(o); !errors.Is(err, ErrDiffers) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
}
