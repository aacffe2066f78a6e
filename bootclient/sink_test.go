package bootclient_test

import (
	"errors"
	"testing"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// A selfVerifier is a sink that accepts every sha256.
type selfVerifier struct{ memorySink }

func (*selfVerifier) VerifiesSHA256() {}

func TestOnlyASelfVerifierCommitsArtifactsWithAWrongSHA256(t *testing.T) {
	r := newRepo(t, "wrong", manifest.Discovery{})
	r.corrupt = true
	r.release("2", r.signed)
	mirror := serve(t, r, nil).URL
	run := func(sink bootclient.Sink) error {
		m := newMachine(t, r, "private")
		m.cfg.Mirrors = []string{mirror}
		_, err := bootclient.Run(t.Context(), m.cfg, sink)
		return err
	}
	plain := &memorySink{files: map[string]*memoryFile{}}
	if err := run(plain); !errors.Is(err, cas.ErrCorrupt) || plain.committed {
		t.Errorf("a plain sink: %v, committed %t", err, plain.committed)
	}
	self := &selfVerifier{memorySink{files: map[string]*memoryFile{}}}
	if err := run(self); err != nil {
		t.Errorf("a self-verifier: %v", err)
	}
	if err := self.compare(r); err != nil {
		t.Error(err)
	}
}
