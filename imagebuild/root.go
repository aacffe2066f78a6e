package imagebuild

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// Channels lists the channels of an architecture in the newest targets.json of a repository,
// if that is signed by root. Otherwise, and without targets.json, it returns nil: the
// channels are not known.
func Channels(ctx context.Context, repo string, root []byte, arch string) ([]string, error) {
	r, err := manifest.ParseRoot(root)
	if err != nil {
		return nil, err
	}
	dir := manifest.DirFetcher(repo)
	newest, err := dir.Newest("targets")
	if err != nil || newest == 0 {
		return nil, err
	}
	targets, err := dir.Metadata(ctx, manifest.FileName("targets", newest), manifest.KindTargets.Max())
	if err != nil || r.CheckSigned(manifest.KindTargets, targets) != nil {
		return nil, err // signed by an older or newer root
	}
	delegations, err := manifest.ReadDelegations(targets)
	names := []string{}
	for _, d := range delegations {
		if d.Arch == arch {
			names = append(names, d.Channel)
		}
	}
	return names, err
}

// RootKeys is the part of a root that phase-image verify shows: the keys of each role.
type RootKeys struct {
	Version int64               `json:"version"`
	Expires string              `json:"expires"`
	Roles   map[string]RoleKeys `json:"roles"`
}

// RoleKeys is the keys of one role and the number of them that must sign.
type RoleKeys struct {
	KeyIDs    []string `json:"keyids"`
	Threshold int      `json:"threshold"`
}

// describeRoot checks a root and returns its keys.
func describeRoot(root []byte) (RootKeys, error) {
	if _, err := manifest.ParseRoot(root); err != nil {
		return RootKeys{}, err
	}
	var file struct {
		Signed RootKeys `json:"signed"`
	}
	if err := json.Unmarshal(root, &file); err != nil {
		return RootKeys{}, fmt.Errorf("root.json: %w: %w", err, cas.ErrCorrupt)
	}
	return file.Signed, nil
}
