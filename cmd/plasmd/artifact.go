package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// artifactFiles are the values of --artifact: ROLE=FILE.
type artifactFiles []string

// roles returns the roles that have a file.
func (a artifactFiles) roles() ([]string, error) {
	roles := []string{}
	for _, text := range a {
		role, path, _ := strings.Cut(text, "=")
		if role == "" || path == "" {
			return nil, cli.Usagef("--artifact %.80s: give ROLE=FILE", text)
		}
		roles = append(roles, role)
	}
	return roles, nil
}

// open opens an artifact: the file of --artifact, or that of the release in a folder, if it has the signed
// bytes.
func (a artifactFiles) open(role string, rel *manifest.Release, dir string) (*os.File, error) {
	for _, text := range a {
		if path, ok := strings.CutPrefix(text, role+"="); ok {
			return file.OpenInput(path)
		}
	}
	if rel == nil {
		return nil, cli.Usagef("no release; give --release, or --artifact %s=FILE", role)
	}
	art, ok := rel.Artifact(role)
	if !ok {
		return nil, fmt.Errorf("not in release %q: %w", rel.Version, fs.ErrNotExist)
	}
	opened, err := file.OpenInRoot(dir, role)
	if err != nil {
		return nil, err
	}
	digest := sha256.New()
	n, err := io.Copy(digest, opened)
	want, _ := hex.DecodeString(art.SHA256)
	if err == nil && (n != art.Length || !bytes.Equal(digest.Sum(nil), want)) {
		err = fmt.Errorf("%d bytes that are not the signed ones: %w; boot again to fetch it again", n, cas.ErrCorrupt)
	}
	if err != nil {
		opened.Close()
		return nil, err
	}
	return opened, nil
}
