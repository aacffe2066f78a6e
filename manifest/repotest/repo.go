// Package repotest makes repositories for tests of programs that read one: with one key, which is made from a fixed
// seed and signs everything. Their releases have the digests of files, and no CIDs of use. Start at New.
package repotest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// expires is the date of all metadata.
var expires = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

func key() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
}

func public() []ed25519.PublicKey { return []ed25519.PublicKey{key().Public().(ed25519.PublicKey)} }

// New writes root.json, 1.root.json and 1.targets.json, with the channel stable for x86_64.
func New(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := Rotate(dir, 1); err != nil {
		return err
	}
	targets, err := manifest.NewTargets(1, expires, manifest.Delegation{Channel: "stable", Arch: "x86_64", Keys: public(), Threshold: 1})
	if err != nil {
		return err
	}
	_, err = write(dir, "1.targets.json", manifest.KindTargets, targets)
	return err
}

// Rotate writes a root of a version, and as root.json.
func Rotate(dir string, version int64) error {
	root, err := manifest.NewRoot(manifest.RootSpec{Version: version, Root: public(), Threshold: 1, Online: public(), Expires: expires.AddDate(0, 0, -int(version))})
	if err != nil {
		return err
	}
	data, err := write(dir, fmt.Sprintf("%d.root.json", version), manifest.KindRoot, root)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "root.json"), data, 0o644)
}

// Publish writes a release of channel stable with files, by role, as the newest one. Each number is that of its
// role, snapshot and timestamp.
func Publish(dir string, number int64, version string, signedAt time.Time, files map[string]string) error {
	r := manifest.Release{Channel: "stable", Arch: "x86_64", Version: version, Number: number, SignedAt: signedAt, Expires: expires}
	for role, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		r.Artifacts = append(r.Artifacts, manifest.Artifact{
			Role: role, Length: int64(len(data)), SHA256: fmt.Sprintf("%x", sha256.Sum256(data)), CID: cas.Sum(cid.Raw, nil), Chunker: "size-262144",
		})
	}
	slices.SortFunc(r.Artifacts, func(a, b manifest.Artifact) int { return strings.Compare(a.Role, b.Role) })
	role, err := manifest.Encode(r)
	if err != nil {
		return err
	}
	roleData, err := write(dir, manifest.FileName("stable-x86_64", number), manifest.KindRole, role)
	if err != nil {
		return err
	}
	targets, err := os.ReadFile(filepath.Join(dir, "1.targets.json"))
	if err != nil {
		return err
	}
	snapshot, err := manifest.NewSnapshot(nil, expires, manifest.File{Role: "targets", Version: 1, Data: targets}, manifest.File{Role: "stable-x86_64", Version: number, Data: roleData})
	if err != nil {
		return err
	}
	snapshot.Signed.Version = number
	snapshotData, err := write(dir, manifest.FileName("snapshot", number), manifest.KindSnapshot, snapshot)
	if err != nil {
		return err
	}
	timestamp, err := manifest.NewTimestamp(nil, manifest.File{Role: "snapshot", Version: number, Data: snapshotData}, signedAt, expires)
	if err != nil {
		return err
	}
	timestamp.Signed.Version = number
	_, err = write(dir, "timestamp.json", manifest.KindTimestamp, timestamp)
	return err
}

// write signs metadata and writes the file.
func write[T metadata.Roles](dir, name string, kind manifest.Kind, m *metadata.Metadata[T]) ([]byte, error) {
	signer, err := signature.LoadED25519Signer(key())
	if err != nil {
		return nil, err
	}
	if _, err := manifest.Sign(m, signer); err != nil {
		return nil, err
	}
	data, err := manifest.Bytes(kind, m)
	if err != nil {
		return nil, err
	}
	return data, os.WriteFile(filepath.Join(dir, name), data, 0o644)
}
