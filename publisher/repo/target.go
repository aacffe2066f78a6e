package repo

import (
	"fmt"

	"github.com/phaseboot/phaseboot/manifest"
)

// Targets lists the files that the manifests of the given releases sign, those that the pointer
// names, and the settings of machines. The caller has verified the releases, and with them the settings.
func (p *Pointer) Targets(releases []manifest.Release) ([]manifest.Target, error) {
	list, err := p.configTargets()
	if err != nil {
		return nil, err
	}
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

// configTargets lists the settings of machines that the snapshot names. It checks no signature.
func (p *Pointer) configTargets() ([]manifest.Target, error) {
	version := p.Published.roleVersion(manifest.ConfigRole)
	if version == 0 {
		return nil, nil
	}
	name := manifest.FileName(manifest.ConfigRole, version)
	d, err := manifest.Open(p.Files[name])
	if err != nil {
		return nil, fmt.Errorf("metadata folder: %s: %w", name, err)
	}
	return d.Targets(), nil
}
