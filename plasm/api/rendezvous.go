package api

import (
	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// Rendezvous returns the CID by which clients find the daemons of a repository in its DHT: each daemon
// announces that it provides it. repository is the ID of the repository, as Release.Repository.
func Rendezvous(repository string) cid.Cid {
	return cas.Sum(cid.Raw, []byte(Prefix+" "+repository))
}
