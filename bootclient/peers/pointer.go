package peers

import "github.com/ipfs/go-cid"

// A Pointer names a metadata directory. An IPNS record signed it; it proves nothing about
// the metadata.
type Pointer struct {
	Directory cid.Cid
	Seq       uint64
	From      *Source // nil when the DHT gave it
	Name      string  // IPNS name of the record
	Record    []byte  // the signed record, as it is served to other machines
}

// Announcer names the source of the pointer.
func (ptr Pointer) Announcer() string {
	if ptr.From == nil {
		return "DHT"
	}
	return ptr.From.String()
}
