package repo

import (
	"fmt"

	"github.com/phaseboot/phaseboot/manifest"
)

// Targets lists the files that the manifests of the given releases sign, those that the pointer
// names. The caller has verified the releases.
func (p *Pointer) Targets(releases []manifest.Release) ([]manifest.Target, error) {
	var list []manifest.Target
	for _, r := range releases {
		name, err := manifest.RoleName(r.Channel, r.Arch)
		if err != nil {
			return nil, err
		}
		name = manifest.FileName(name, r.Number)
		d, err := manifest.Open(p.Files[name])
		if err != nil {
			return nil, fmt.Errorf("metadata folder: %s: %w", name, err)
		}
		list = append(list, d.Targets()...)
	}
	return list, nil
}
