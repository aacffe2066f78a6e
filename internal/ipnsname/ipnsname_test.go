package ipnsname

import (
	"crypto/ed25519"
	"testing"

	"github.com/ipfs/boxo/ipns"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

func TestANameIsTheOneOfBoxoAndContainsTheKey(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	name, err := Of(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := crypto.UnmarshalEd25519PublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if want := ipns.NameFromPeer(id).String(); name != want || name[:5] != "k51qz" {
		t.Errorf("got %s, boxo says %s", name, want)
	}
	if again, err := Key(name); err != nil || !again.Equal(key) {
		t.Errorf("key of the name: %x, %v", again, err)
	}
}
