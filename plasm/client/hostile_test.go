package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/receipt"
)

// A trickle answers with a body that never ends.
type trickle struct{}

func (trickle) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusAccepted, Body: io.NopCloser(endless{r.Context()})}, nil
}

type endless struct{ ctx context.Context }

func (e endless) Read(p []byte) (int, error) {
	<-e.ctx.Done()
	return 0, e.ctx.Err()
}

func TestASubmissionWithoutAnAnswerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{"m", &http.Client{Transport: trickle{}}}
		began := time.Now()
		_, err := c.Submit(t.Context(), Submission{Request: &api.Request{Name: "x"}, Module: make([]byte, 32<<20)})
		if took := time.Since(began); !errors.Is(err, cas.ErrUnreachable) || took < time.Minute || took > time.Hour {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

// All texts of a status are printed by plasmd top --json.
func TestTheTextsOfAStatusPrint(t *testing.T) {
	const bad = "a\u009b2J\u202e"
	c := listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		send(w, 200, api.Status{
			Machine: strings.Repeat("ab", 32), Version: bad, Peer: bad, Listen: []string{bad}, Submitters: []string{bad}, Groups: []string{bad},
			Release: &api.Release{Channel: bad, Arch: bad, Version: bad, Repository: bad},
		})
	}))
	s, err := c.Status(t.Context())
	check(t, err)
	text, err := json.Marshal(s)
	check(t, err)
	if refusal.Printable(string(text)) != string(text) {
		t.Errorf("%q", text)
	}
}

// A machine that ran something else cannot leave out what it ran.
func TestAReceiptNamesTheModuleThatWasOrdered(t *testing.T) {
	job := module(t)
	for name, c := range map[string]struct {
		task Task
		run  receipt.Run
	}{
		"no CID":    {Task{CID: job.CID.String()}, receipt.Run{Module: receipt.Module{SHA256: strings.Repeat("00", 32), Length: 1}}},
		"no digest": {Task{Module: job}, receipt.Run{Module: receipt.Module{CID: job.CID.String()}}},
	} {
		c.run.Spec, c.task.Spec = plasm.DefaultSpec(), plasm.DefaultSpec()
		if err := c.task.about(c.run); !errors.Is(err, manifest.ErrUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A peer that answers mDNS again and again does not end the search for others.
func TestAPeerThatIsFoundAgainIsNoNewQuestion(t *testing.T) {
	n := join(t, Options{})
	id := func(seed byte) peer.AddrInfo {
		_, public, err := crypto.KeyPairFromStdKey(new(keyOf(seed)))
		check(t, err)
		id, err := peer.IDFromPublicKey(public)
		check(t, err)
		return peer.AddrInfo{ID: id}
	}
	again, other := id('a'), id('b')
	s := &search{n: n, ctx: t.Context(), asked: map[peer.ID]bool{again.ID: true}, slots: make(chan struct{}, 1)}
	for range maxAsked {
		s.ask(again, false)
	}
	s.ask(other, false)
	s.tasks.Wait()
	if s.count != 1 {
		t.Errorf("%d questions, want 1", s.count)
	}
}
