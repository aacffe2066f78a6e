package plasm

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// released writes the job of a release to a folder as the boot client does, and returns the release and
// the folder.
func released(t *testing.T) (manifest.Release, string) {
	t.Helper()
	dir := t.TempDir()
	module := hand{}.bytes()
	job, err := NewJob(t.Context(), "x.wasm", module)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "job"), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "job", "x.wasm"), module)
	return manifest.Release{
		Channel: "stable", Arch: "x86_64", Version: "1.2", Number: 7, Job: "job/x.wasm",
		Artifacts: []manifest.Artifact{{
			Role: "job/x.wasm", Length: int64(len(module)), SHA256: job.SHA256, CID: job.CID, Chunker: cas.DefaultChunker,
		}},
	}, dir
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyTheSignedJobIsLoaded(t *testing.T) {
	tests := []struct {
		name string
		edit func(t *testing.T, rel *manifest.Release, file string)
		want error // nil if the job loads
	}{
		{"the signed bytes", func(*testing.T, *manifest.Release, string) {}, nil},
		{"a byte changed", func(t *testing.T, _ *manifest.Release, file string) {
			data := hand{}.bytes()
			data[len(data)-1] ^= 1
			put(t, file, data)
		}, cas.ErrCorrupt},
		{"a byte more", func(t *testing.T, _ *manifest.Release, file string) {
			put(t, file, append(hand{}.bytes(), 0))
		}, cas.ErrCorrupt},
		{"a byte less", func(t *testing.T, _ *manifest.Release, file string) {
			data := hand{}.bytes()
			put(t, file, data[:len(data)-1])
		}, cas.ErrCorrupt},
		{"empty", func(t *testing.T, _ *manifest.Release, file string) { put(t, file, nil) }, cas.ErrCorrupt},
		{"gone", func(t *testing.T, _ *manifest.Release, file string) { os.Remove(file) }, fs.ErrNotExist},
		{"a link out of the folder", func(t *testing.T, _ *manifest.Release, file string) {
			elsewhere := filepath.Join(t.TempDir(), "x.wasm")
			put(t, elsewhere, hand{}.bytes())
			os.Remove(file)
			if err := os.Symlink(elsewhere, file); err != nil {
				t.Fatal(err)
			}
		}, errAny},
		{"a pipe", func(t *testing.T, _ *manifest.Release, path string) {
			if err := errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, file.ErrKind},
		{"another CID was signed", func(_ *testing.T, rel *manifest.Release, _ string) {
			rel.Artifacts[0].CID = cas.Sum(0x55, []byte("other"))
		}, cas.ErrCorrupt},
		{"another sha256 was signed", func(_ *testing.T, rel *manifest.Release, _ string) {
			rel.Artifacts[0].SHA256 = rel.Artifacts[0].SHA256[1:] + "0"
		}, cas.ErrCorrupt},
		{"an unknown chunker", func(_ *testing.T, rel *manifest.Release, _ string) {
			rel.Artifacts[0].Chunker = "scissors"
		}, errAny},
		{"a job that is no artifact", func(_ *testing.T, rel *manifest.Release, _ string) {
			rel.Job = "job/y.wasm"
		}, manifest.ErrMalformed},
		{"a kernel as job", func(_ *testing.T, rel *manifest.Release, _ string) {
			rel.Job, rel.Artifacts[0].Role = "kernel", "kernel"
		}, manifest.ErrMalformed},
		{"a path out of the folder", func(_ *testing.T, rel *manifest.Release, _ string) {
			rel.Job, rel.Artifacts[0].Role = "job/../../x.wasm", "job/../../x.wasm"
		}, manifest.ErrMalformed},
		{"too large a length", func(_ *testing.T, rel *manifest.Release, _ string) {
			rel.Artifacts[0].Length = maxModule + 1
		}, manifest.ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rel, dir := released(t)
			tt.edit(t, &rel, filepath.Join(dir, "job", "x.wasm"))
			job, err := LoadJob(t.Context(), rel, dir)
			switch {
			case tt.want == nil && (err != nil || job.Name != "x.wasm"):
				t.Errorf("got %+v, %v", job.Name, err)
			case tt.want == errAny && err == nil:
				t.Error("loaded")
			case tt.want != nil && tt.want != errAny && !errors.Is(err, tt.want):
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

var errAny = errors.New("any error")

func TestAReleaseSurvivesJSON(t *testing.T) {
	rel, dir := released(t)
	data, err := json.Marshal(rel)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseRelease(data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LoadJob(t.Context(), again, dir); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]string{
		"empty": "", "garbled": "{", "unknown fields": `{"a":1}`, "a list": "[]", "cut": string(data[:len(data)/2]),
		"no version": `{"channel":"stable"}`, "a bad CID": `{"channel":"c","release":"1","artifacts":[{"cid":{"/":"x"}}]}`,
	} {
		if _, err := ParseRelease([]byte(bad)); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%s: got %v, want manifest.ErrMalformed", name, err)
		}
	}
}

// FuzzParseRelease: an accepted release has a version and a channel, and no other file runs as its job.
func FuzzParseRelease(f *testing.F) {
	f.Add([]byte(`{"channel":"stable","arch":"x86_64","release":"1","role_version":3,"job":"job/x.wasm","artifacts":[]}`))
	f.Add([]byte(`{"channel":"c","release":"1","artifacts":[{"cid":{"/":"x"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rel, err := ParseRelease(data)
		if err != nil {
			if !errors.Is(err, manifest.ErrMalformed) {
				t.Fatalf("refused without manifest.ErrMalformed: %v", err)
			}
			return
		}
		if rel.Version == "" || rel.Channel == "" {
			t.Errorf("accepted without a version or a channel: %+v", rel)
		}
		if rel.Job == "" {
			return
		}
		if job, err := LoadJob(t.Context(), rel, t.TempDir()); err == nil {
			t.Errorf("job %q was loaded from an empty folder", job.Name)
		}
	})
}
