package attest

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/internal/envelope"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// Types of a statement (in-toto Attestation Framework v1, SLSA v1). BuildType and the prefix of a builder's ID
// lead to the document that defines the parameters.
const (
	PayloadType   = envelope.InToto
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://slsa.dev/provenance/v1"
	BuildType     = "https://github.com/phaseboot/phaseboot/blob/main/docs/REPRODUCIBLE.md#rebuild-v1"
	builderPrefix = "https://github.com/phaseboot/phaseboot/blob/main/docs/REPRODUCIBLE.md#rebuilder-"
)

// A Statement says that a rebuild of an image gave the same bytes.
type Statement struct {
	Type          string       `json:"_type"`
	Subject       []Descriptor `json:"subject"`
	PredicateType string       `json:"predicateType"`
	Predicate     Provenance   `json:"predicate"`
}

// A Descriptor is a file with its digest (in-toto ResourceDescriptor).
type Descriptor struct {
	Name   string `json:"name,omitempty"`
	URI    string `json:"uri,omitempty"`
	Digest Digest `json:"digest"`
}

// A Digest is a SHA-256 in hex.
type Digest struct {
	SHA256 string `json:"sha256"`
}

// Provenance is the part of SLSA Provenance v1 that a rebuild fills.
type Provenance struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition is the input of the rebuild.
type BuildDefinition struct {
	BuildType            string       `json:"buildType"`
	ExternalParameters   Parameters   `json:"externalParameters"`
	ResolvedDependencies []Descriptor `json:"resolvedDependencies"`
}

// Parameters is what the image says about itself, beside the files that it was made of.
type Parameters struct {
	Kind        string   `json:"kind"`
	DiskSize    int64    `json:"disk_size,omitempty"` // bytes
	Archs       []string `json:"archs"`
	Role        string   `json:"role"`
	Channel     string   `json:"channel,omitempty"`
	Bootloader  string   `json:"bootloader,omitempty"`
	DefaultMode string   `json:"default_mode,omitempty"`
	BuildTime   string   `json:"build_time"` // seconds since 1970
}

// RunDetails names the rebuilder.
type RunDetails struct {
	Builder Builder `json:"builder"`
}

// A Builder is the owner of a key, and the version of phase-image.
type Builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

// New makes the statement of the owner of a key about an image that is equal to its rebuild, and whose packages
// Debian's lists or the rebuilder's own name. version is that of phase-image. The same rebuild gives the same bytes.
func New(r *imagebuild.Rebuilt, public ed25519.PublicKey, version string) (*Statement, error) {
	if err := r.Err(); err != nil {
		return nil, err
	}
	if !r.Listed {
		return nil, fmt.Errorf("image %s: equal to its rebuild, but not stated: %w", r.Image, cmp.Or(r.Unlisted, manifest.ErrUntrusted))
	}
	if len(r.Renewed) > 0 {
		return nil, refusal.Invalid("image %s: %d boot sets were written after the image, and a rebuild does not compare them; state the image itself", r.Image, len(r.Renewed))
	}
	s := &Statement{Type: StatementType, Subject: subjects(r.Contents, r.CacheDiffers), PredicateType: PredicateType}
	if len(s.Subject) == 0 {
		return nil, refusal.Invalid("image %s: nothing to state: only a part of it could be compared", r.Image)
	}
	s.Predicate.BuildDefinition = BuildDefinition{BuildType, parameters(r.Contents), dependencies(r.Contents)}
	s.Predicate.RunDetails.Builder = Builder{ID: builderPrefix + manifest.KeyID(public)}
	if version != "" {
		s.Predicate.RunDetails.Builder.Version = map[string]string{"phase-image": version}
	}
	return s, nil
}

// subjects are what a statement is about: the image, unless machines have written to its cache partition, and its
// EFI system partitions, which firmware boots from.
func subjects(c *imagebuild.Contents, used bool) (all []Descriptor) {
	name := filepath.Base(c.Image)
	if c.SHA256 != "" && !used {
		all = append(all, Descriptor{Name: name, Digest: Digest{c.SHA256}})
	}
	if c.BootSum != "" {
		all = append(all, Descriptor{Name: name + ": EFI system partition", Digest: Digest{c.BootSum}})
	}
	return all
}

func parameters(c *imagebuild.Contents) Parameters {
	p := Parameters{c.Kind, c.DiskSize, []string{c.Arch}, c.Role, c.Channel, c.Bootloader, c.Default, c.BuildTime}
	if c.Kind == imagebuild.KindDisk {
		if p.DiskSize = c.Size; c.Built > 0 {
			p.DiskSize = c.Built
		}
	}
	for _, s := range c.Others {
		p.Archs = append(p.Archs, s.Arch)
	}
	return p
}

// dependencies are the files of which the image was made: packages, phase-boot, root.json, and files that a person
// gave.
func dependencies(c *imagebuild.Contents) (all []Descriptor) {
	for _, s := range append([]imagebuild.System{c.System}, c.Others...) {
		for _, p := range s.Inputs {
			all = append(all, Descriptor{URI: packageURL(p), Digest: Digest{p.SHA256}})
		}
		all = append(all, Descriptor{Name: "phase-boot (" + s.Arch + ")", Digest: Digest{s.Init}})
		if s.KernelSum != "" {
			all = append(all, Descriptor{Name: "kernel (" + s.Arch + ")", Digest: Digest{s.KernelSum}})
		}
	}
	if c.RootSum != "" {
		all = append(all, Descriptor{Name: "root.json", Digest: Digest{c.RootSum}})
	}
	for _, m := range c.Modes {
		all = append(all, Descriptor{Name: "boot mode " + m.Name, Digest: Digest{m.SHA256}})
	}
	if c.TorrcSum != "" {
		all = append(all, Descriptor{Name: "torrc", Digest: Digest{c.TorrcSum}})
	}
	return all
}

// packageURL returns the package URL (purl) of a Debian package.
func packageURL(p imagebuild.Package) string {
	version := strings.NewReplacer("+", "%2B", ":", "%3A").Replace(p.Version)
	return "pkg:deb/debian/" + strings.ReplaceAll(p.Name, "+", "%2B") + "@" + version + "?arch=" + p.Arch
}

// Sign returns the statement in a DSSE envelope. The key must be that of New.
func Sign(ctx context.Context, s *Statement, signer signature.Signer, public ed25519.PublicKey) ([]byte, error) {
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	e, err := envelope.Sign(ctx, PayloadType, payload, signer, public)
	if err != nil {
		return nil, err
	}
	return append(e.Bytes(), '\n'), nil
}
