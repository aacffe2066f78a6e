package p2p

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/boxo/ipns"
	"github.com/ipfs/boxo/path"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/ipnsname"
)

func randomPeer(t *testing.T) peer.ID {
	t.Helper()
	_, pub, err := crypto.GenerateEd25519Key(rand.Reader)
	check(t, err)
	id, err := peer.IDFromPublicKey(pub)
	check(t, err)
	return id
}

func TestARecordHasTheSignedValue(t *testing.T) {
	key, name := ipnsKey(t)
	if !strings.HasPrefix(name, "k51") {
		t.Errorf("name %q", name)
	}
	folder := cas.Sum(0x70, []byte("folder"))
	rec, err := NewRecord(key, folder, 42, time.Now().Add(time.Hour), time.Minute)
	check(t, err)
	if bytes.Contains(rec, []byte("/ipfs/"+folder.String()+"/")) {
		t.Error("the value has a trailing slash")
	}
	got, seq, err := CheckRecord(name, rec)
	if err != nil || !got.Equals(folder) || seq != 42 {
		t.Fatalf("got %s, %d, %v", got, seq, err)
	}
}

func TestRecordsThatAreRefused(t *testing.T) {
	key, name := ipnsKey(t)
	foreign, other := ipnsKey(t)
	folder := cas.Sum(0x70, []byte("folder"))
	future := time.Now().Add(time.Hour)
	good, err := NewRecord(key, folder, 1, future, time.Minute)
	check(t, err)
	flip := func(i int) []byte {
		b := bytes.Clone(good)
		b[i] ^= 1
		return b
	}
	for _, tt := range []struct {
		name string
		of   string
		rec  []byte
	}{
		{"empty", name, nil},
		{"noise", name, []byte("not a record")},
		{"truncated", name, good[:len(good)-1]},
		{"too big", name, make([]byte, MaxRecord+1)},
		{"a flipped bit at the end", name, flip(len(good) - 1)},
		{"a flipped bit in the middle", name, flip(len(good) / 2)},
		{"of another name", other, good},
		{"of a name that is none", "k51nonsense", good},
		{"signed by an unknown key", name, signed(t, foreign, "/ipfs/"+folder.String(), future)},
		{"expired and signed by an unknown key", name, signed(t, foreign, "/ipfs/"+folder.String(), time.Now().Add(-time.Second))},
		{"points to a name", name, signed(t, key, "/ipns/"+other, future)},
		{"points below a folder", name, signed(t, key, "/ipfs/"+folder.String()+"/deeper", future)},
		{"points to an identity CID", name, signed(t, key, "/ipfs/bafkqaaa", future)},
		{"points to a CIDv0", name, signed(t, key, "/ipfs/QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR", future)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := CheckRecord(tt.of, tt.rec); !errors.Is(err, ErrRecord) {
				t.Fatalf("got %v, want a refusal", err)
			}
		})
	}
}

// The publisher may have been off for days, or the clock of the reader may be ahead: package manifest
// decides about dates.
func TestAnExpiredRecordIsAccepted(t *testing.T) {
	key, name := ipnsKey(t)
	folder := cas.Sum(0x70, []byte("folder"))
	got, _, err := CheckRecord(name, signed(t, key, "/ipfs/"+folder.String(), time.Now().Add(-time.Hour)))
	if err != nil || !got.Equals(folder) {
		t.Fatalf("got %s, %v", got, err)
	}
}

func signed(t *testing.T, key ed25519.PrivateKey, value string, eol time.Time) []byte {
	t.Helper()
	priv, err := crypto.UnmarshalEd25519PrivateKey(key)
	check(t, err)
	p, err := path.NewPath(value)
	check(t, err)
	rec, err := ipns.NewRecord(priv, p, 1, eol, time.Minute, ipns.WithV1Compatibility(false))
	check(t, err)
	data, err := ipns.MarshalRecord(rec)
	check(t, err)
	return data
}

func FuzzCheckRecord(f *testing.F) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	name, err := ipnsname.Of(pub)
	if err != nil {
		f.Fatal(err)
	}
	rec, err := NewRecord(key, cas.Sum(0x70, nil), 1, time.Now().Add(time.Hour), 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(rec)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, _, err := CheckRecord(name, data); err == nil && !bytes.Contains(data, []byte("/ipfs/")) {
			t.Fatal("accepted without a value")
		}
	})
}

func TestADHTClientAcceptsARecordOfAnyDate(t *testing.T) {
	key, name := ipnsKey(t)
	foreign, _ := ipnsKey(t)
	id, err := ipns.NameFromString(name)
	check(t, err)
	folder := cas.Sum(0x70, []byte("folder"))
	at := string(id.RoutingKey())
	for when, eol := range map[string]time.Time{"over": time.Unix(1, 0), "to come": time.Now().Add(time.Hour)} {
		mine, err := NewRecord(key, folder, 1, eol, time.Minute)
		check(t, err)
		if err := (anyDateValidator{}).Validate(at, mine); err != nil {
			t.Errorf("a record whose end is %s: %v", when, err)
		}
		forged, err := NewRecord(foreign, folder, 1, eol, time.Minute)
		check(t, err)
		if err := (anyDateValidator{}).Validate(at, forged); err == nil {
			t.Errorf("a record of another key whose end is %s was taken", when)
		}
	}
}
