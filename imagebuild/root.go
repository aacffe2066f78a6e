package imagebuild

import (
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

// rootKeys is what verify shows of a root: who must sign what.
type rootKeys struct {
	Version int64               `json:"version"`
	Expires string              `json:"expires"`
	Roles   map[string]roleKeys `json:"roles"`
}

type roleKeys struct {
	KeyIDs    []string `json:"keyids"`
	Threshold int      `json:"threshold"`
}

// describeRoot checks a root and returns its keys for a person to compare.
func describeRoot(root []byte) (rootKeys, error) {
	if _, err := manifest.ParseRoot(root); err != nil {
		return rootKeys{}, err
	}
	var file struct {
		Signed rootKeys `json:"signed"`
	}
	if err := json.Unmarshal(root, &file); err != nil {
		return rootKeys{}, fmt.Errorf("root.json: %w: %w", err, cas.ErrCorrupt)
	}
	return file.Signed, nil
}
