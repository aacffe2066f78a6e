package imagebuild

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// checkRoot parses root.json as the machine will, so that an image which would refuse
// everything is never made.
func checkRoot(root []byte, channel, arch string) error {
	if len(root) == 0 {
		return fmt.Errorf("root.json: the file is empty: %w", cas.ErrCorrupt)
	}
	if _, err := manifest.RoleName(channel, arch); err != nil {
		return optionsf("%v", err)
	}
	_, err := manifest.ParseRoot(root)
	return err
}

// Channels lists the channels of an architecture in the repository that root.json lies in,
// by the targets.json that root signed. Without a repository
// it is nil: then nobody knows.
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
	if err != nil || r.Owns(manifest.KindTargets, targets) != nil {
		return nil, err // of a root before or after this one
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

// RootKeys is what verify shows of a root: who must sign what.
type RootKeys struct {
	Version int64               `json:"version"`
	Expires string              `json:"expires"`
	Roles   map[string]RoleKeys `json:"roles"`
}

// RoleKeys are the keys of one role, and how many of them must sign.
type RoleKeys struct {
	KeyIDs    []string `json:"keyids"`
	Threshold int      `json:"threshold"`
}

// describeRoot checks a root and returns its keys for a person to compare.
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
