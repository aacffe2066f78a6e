package plasm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// A Job is a module in memory, with the hashes of these bytes.
type Job struct {
	Name   string // its only argument
	Module []byte
	CID    cid.Cid // root of the module as a file
	SHA256 string  // 64 lower-case hex digits
}

// NewJob returns a job that is not part of a release. Its CID is that of the default chunker.
func NewJob(ctx context.Context, name string, module []byte) (Job, error) {
	return newJob(ctx, name, module, cas.DefaultChunker)
}

func newJob(ctx context.Context, name string, module []byte, chunker string) (Job, error) {
	file, err := cas.FileCID(ctx, bytes.NewReader(module), chunker)
	if err != nil {
		return Job{}, fmt.Errorf("job %q: %w", name, err)
	}
	digest := sha256.Sum256(module)
	return Job{Name: name, Module: module, CID: file.CID, SHA256: hex.EncodeToString(digest[:])}, nil
}

// ParseRelease reads a release that the boot client has verified and handed over. It only refuses data
// that are not a release (manifest.ErrMalformed).
func ParseRelease(data []byte) (manifest.Release, error) {
	var rel manifest.Release
	if err := json.Unmarshal(data, &rel); err != nil {
		return rel, fmt.Errorf("release: %v: %w", err, manifest.ErrMalformed)
	}
	if rel.Version == "" || rel.Channel == "" {
		return rel, fmt.Errorf("release: no version or no channel: %w", manifest.ErrMalformed)
	}
	return rel, nil
}

// LoadJob reads the job of a release from a folder, where it has its role as name (job/NAME.wasm). If
// length, sha256 or CID differ from the signed entry, the error wraps cas.ErrCorrupt. The release must
// name a job.
func LoadJob(ctx context.Context, rel manifest.Release, dir string) (Job, error) {
	art, ok := rel.Artifact(rel.Job)
	if !ok {
		return Job{}, fmt.Errorf("release %q: its job %q is not among its artifacts: %w", rel.Version, rel.Job, manifest.ErrMalformed)
	}
	name, isJob := strings.CutPrefix(art.Role, "job/")
	if !isJob || name == "" || name != filepath.Base(name) || !filepath.IsLocal(art.Role) {
		return Job{}, fmt.Errorf("release %q: %q is not the role of a job: %w", rel.Version, art.Role, manifest.ErrMalformed)
	}
	if art.Length < 1 || art.Length > maxModule {
		return Job{}, fmt.Errorf("job %q: %d bytes, the limit is %d: %w", name, art.Length, maxModule, manifest.ErrMalformed)
	}
	module, err := readIn(dir, art.Role, art.Length)
	if err != nil {
		return Job{}, fmt.Errorf("job %q: %w", name, err)
	}
	return signedJob(ctx, name, module, art)
}

// signedJob returns the job if the module matches its signed entry.
func signedJob(ctx context.Context, name string, module []byte, art manifest.Artifact) (Job, error) {
	if got := int64(len(module)); got != art.Length {
		differs := "shorter"
		if got > art.Length {
			differs = "longer"
		}
		return Job{}, fmt.Errorf("job %q: %s than the %d bytes that were signed: %w; boot again to fetch it again", name, differs, art.Length, cas.ErrCorrupt)
	}
	job, err := newJob(ctx, name, module, art.Chunker)
	if err != nil {
		return Job{}, err
	}
	if job.SHA256 != art.SHA256 {
		return Job{}, fmt.Errorf("job %q: sha256 %s, signed is %.64q: %w; boot again to fetch it again", name, job.SHA256, art.SHA256, cas.ErrCorrupt)
	}
	if !job.CID.Equals(art.CID) {
		return Job{}, fmt.Errorf("job %q: CID %s, signed is %s: %w; boot again to fetch it again", name, job.CID, art.CID, cas.ErrCorrupt)
	}
	return job, nil
}

// readIn reads at most length+1 bytes of a file inside dir. It follows no link out of dir.
func readIn(dir, name string, length int64) ([]byte, error) {
	f, err := file.OpenInRoot(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no %s in %s: %w; fetch the release again", name, dir, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, length+1)
	n, err := io.ReadFull(f, data)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return data[:n], err
}
