package api

import "github.com/phaseboot/phaseboot/plasm"

// A Request asks the daemon of this machine for a job, without a signature. It names the module by Role
// or ModuleCID, or by neither if PartModule has its bytes.
type Request struct {
	Name      string     `json:"name"`
	Role      string     `json:"role,omitempty"` // of the module in the release
	ModuleCID string     `json:"module_cid,omitempty"`
	Spec      plasm.Spec `json:"spec"`
}
