package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/internal/ed25519pem"
	"github.com/phaseboot/phaseboot/manifest"
)

// bootMachines is the test command boot-machines REPO ONLINE.key MANIFEST [GROUP …]: it publishes the manifest
// for channel stable, lets machines verify it, and prints "machine N VERSION CMDLINE" for each of 1,000, sorted.
func bootMachines(args []string) error {
	ctx := context.Background()
	repo, role := args[0], manifest.KindRole
	files := memory{}
	root, err := os.ReadFile(filepath.Join(repo, "root.json"))
	if err != nil {
		return err
	}
	targets, err := os.ReadFile(filepath.Join(repo, "1.targets.json"))
	if err != nil {
		return err
	}
	release, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	signed, err := manifest.Open(release)
	if err != nil || signed.Kind() != role {
		return fmt.Errorf("%s: %w", args[2], err)
	}
	if err := files.publish(root, targets, release, args[1], signed.Version()); err != nil {
		return err
	}
	p := manifest.Policy{Root: root, Channel: "stable", Arch: "x86_64", Now: time.Now()}
	if len(args) > 3 {
		p.Machine.Groups = args[3:]
	}
	var (
		lines []string
		v     *manifest.Verified
	)
	for i := range 1000 {
		p.Machine.ID = fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, "machine ", i)))
		if i%20 == 0 { // the others choose among the same releases, in less time
			if v, err = manifest.Verify(ctx, files, p); err != nil {
				return err
			}
		}
		r, err := v.Newest().For(p.Machine, p.Now)
		if err != nil {
			return err
		}
		if i%20 == 0 && r.Version != v.Release().Version {
			return fmt.Errorf("machine %d: %q, and Verify chose %q", i, r.Version, v.Release().Version)
		}
		lines = append(lines, fmt.Sprintf("machine %d %s %s\n", i, r.Version, r.Cmdline))
	}
	slices.Sort(lines)
	fmt.Print(strings.Join(lines, ""))
	return nil
}

// memory is a metadata directory.
type memory map[string][]byte

func (m memory) Metadata(_ context.Context, name string, _ int64) ([]byte, error) {
	if data, ok := m[name]; ok {
		return data, nil
	}
	return nil, fmt.Errorf("%s: %w", name, os.ErrNotExist)
}

// publish signs a snapshot and a timestamp with the online key.
func (m memory) publish(root, targets, release []byte, key string, version int64) error {
	data, err := os.ReadFile(key)
	if err != nil {
		return err
	}
	private, err := ed25519pem.Parse(data)
	if err != nil {
		return err
	}
	signer, err := signature.LoadED25519Signer(private)
	if err != nil {
		return err
	}
	document, err := manifest.Open(root)
	if err != nil {
		return err
	}
	expires := time.Now().Add(time.Hour)
	m["1.root.json"], m["1.targets.json"], m[manifest.FileName("stable-x86_64", version)] = root, targets, release
	snapshot, err := manifest.NewSnapshot(nil, expires, manifest.File{Role: "targets", Version: 1, Data: targets}, manifest.File{Role: "stable-x86_64", Version: version, Data: release})
	if err == nil {
		err = seal(m, "1.snapshot.json", manifest.KindSnapshot, snapshot, document.Repository(), signer)
	}
	if err != nil {
		return err
	}
	timestamp, err := manifest.NewTimestamp(nil, manifest.File{Role: "snapshot", Version: 1, Data: m["1.snapshot.json"]}, time.Now(), expires)
	if err != nil {
		return err
	}
	return seal(m, "timestamp.json", manifest.KindTimestamp, timestamp, document.Repository(), signer)
}

func seal[T metadata.Roles](m memory, name string, kind manifest.Kind, file *metadata.Metadata[T], repository string, signer signature.Signer) (err error) {
	manifest.SetRepository(file, repository)
	if _, err = manifest.Sign(file, signer); err == nil {
		m[name], err = manifest.Bytes(kind, file)
	}
	return err
}
