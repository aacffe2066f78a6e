package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if t := os.Getenv(goodEnv); t != "" {
		os.Exit(runGoodClient(t))
	}
	m.Run()
}

// Under each attack the good client gets a complete artifact, and the publisher stays below
// 512 MiB. doc.go explains the numbers.
func TestGoodClientsAreServedBesideBadOnes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "phase-publish")
	if out, err := exec.Command("go", "build", "-o", path, "../../cmd/phase-publish").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r, err := newRig(t.Context(), dir, path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.close(); err != nil {
			t.Errorf("the publisher ended: %v", err)
		}
	}()
	for _, a := range attacks {
		res, err := a.measure(t.Context(), r, 100, time.Second/2)
		if err != nil || res.Rounds == 0 {
			t.Errorf("%s: the good client got no complete artifact: %v, %s", a.name, err, res.Cause)
		}
		if res.peak > 512<<20 {
			t.Errorf("%s: the publisher took %d MiB", a.name, res.peak>>20)
		}
	}
	if n := r.metric(`phasepublish_requests_total{status="404",via="http"}`); n == 0 {
		t.Error("no request for a random CID arrived")
	}
	if n := r.metric(`phasepublish_requests_total{status="200",via="stream"}`); n == 0 {
		t.Error("no request arrived over a stream")
	}
}
