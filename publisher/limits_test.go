package publisher

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// fetchers are gateways of a daemon over plain HTTP and over a stream.
func fetchers(t *testing.T, r Ready) map[string]*gateway.Client {
	t.Helper()
	self, err := p2p.ParsePeers(r.Listen)
	pubtest.Check(t, err)
	machine, err := p2p.New(t.Context(), p2p.Options{})
	pubtest.Check(t, err)
	t.Cleanup(func() { machine.Close() })
	streams, err := machine.Gateway(t.Context(), self[0])
	pubtest.Check(t, err)
	return map[string]*gateway.Client{"http": {Base: r.HTTP[0]}, "stream": streams}
}

func TestARateHoldsForPlainHTTPAndStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	opts := w.serveOptions()
	opts.DHT, opts.Limits.RatePerPeer = DHTOff, 1_500_000 // the rootfs has 3 MB
	r, _ := w.serve(opts)
	for via, gw := range fetchers(t, r) {
		rootfs, start := w.artifact(r.Pointer, gw, "rootfs"), time.Now()
		pubtest.Check(t, cas.Copy(t.Context(), io.Discard, gw, rootfs.CID, rootfs.Length))
		if took := time.Since(start); took < 1500*time.Millisecond {
			t.Errorf("%s: 3 MB in %v", via, took)
		}
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	pubtest.Check(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	pubtest.Check(t, err)
	return resp.StatusCode, string(text)
}

func TestMetricsAndStatusReportWhatIsServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	opts := w.serveOptions()
	opts.Metrics = "127.0.0.1:0"
	r, _ := w.serve(opts)
	for _, gw := range fetchers(t, r) {
		kernel := w.artifact(r.Pointer, gw, "kernel")
		_, err := cas.Get(t.Context(), gw, kernel.CID)
		pubtest.Check(t, err)
		_, err = gw.IPNS(t.Context(), r.IPNS)
		pubtest.Check(t, err)
	}
	if status, _ := get(t, r.HTTP[0]+"/ipfs/nonsense?format=raw"); status != http.StatusBadRequest {
		t.Errorf("got %d", status)
	}
	for _, want := range []string{
		`phasepublish_sent_bytes_total{kind="block",via="http"} `, `phasepublish_sent_bytes_total{kind="block",via="stream"} `,
		`phasepublish_sent_bytes_total{kind="record",via="http"} `, `phasepublish_requests_total{status="400",via="http"} 1`,
		`phasepublish_requests_total{status="200",via="stream"} `, "phasepublish_head_version 1\n", "phasepublish_record_age_seconds ",
		"phasepublish_head_expires_timestamp_seconds ", "phasepublish_peers 1\n", "phasepublish_dht_peers 0\n", "phasepublish_store_blocks ",
		"phasepublish_announced_cids 5\n", "phasepublish_announced_age_seconds -1\n", "process_resident_memory_bytes ", "go_goroutines ",
	} {
		eventually(t, want, func() bool { // what is sent is counted afterwards
			_, metrics := get(t, r.Metrics[0]+"/metrics")
			return strings.Contains(metrics, want)
		})
	}
	var status struct {
		store.Status
		Live Live `json:"live"`
	}
	_, text := get(t, r.Metrics[0]+"/status")
	pubtest.Check(t, json.Unmarshal([]byte(text), &status))
	if status.Pointer != r.Pointer || status.Live.Peer != r.Peer || status.Live.Peers != 1 || status.Live.SentBytes < 1000 || len(status.Channels) != 1 {
		t.Errorf("status says %s", text)
	}
	if code, said := get(t, r.Metrics[0]+"/healthz"); code != 200 || said != "ok\n" {
		t.Errorf("healthz says %d, %s", code, said)
	}
	if code, _ := get(t, r.HTTP[0]+"/metrics"); code != 404 {
		t.Errorf("the public listener has the metrics: %d", code)
	}
}

func TestTwoDaemonsNeedTwoIdentities(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	opts := w.serveOptions()
	opts.DHT = DHTOff
	_, stop := w.serve(opts)
	err := Serve(t.Context(), opts)
	if err == nil || !strings.Contains(err.Error(), "peer.key: another process uses it; give this one its own with --identity FILE") {
		t.Errorf("got %v", err)
	}
	stop()
	w.serve(opts)
}

func TestAFullQueueAnswersWithRetryAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	big := make([]byte, 24<<20) // more than sockets buffer
	for i := range big {
		big[i] = byte(i>>16) ^ byte(i*i>>3)
	}
	w.Write("artifacts/rootfs", big)
	w.Add(w.Sign(1, "v1", w.Release))
	opts := w.serveOptions()
	opts.DHT, opts.Metrics, opts.Limits.UploadSlots = DHTOff, "127.0.0.1:0", 1
	r, _ := w.serve(opts)
	gw := &gateway.Client{Base: r.HTTP[0]}
	rootfs, kernel := w.artifact(r.Pointer, gw, "rootfs"), w.artifact(r.Pointer, gw, "kernel")
	leaves, err := cas.Leaves(t.Context(), gw, kernel.CID, kernel.Length)
	pubtest.Check(t, err)
	holding, err := http.Get(r.HTTP[0] + "/ipfs/" + rootfs.CID.String() + "?format=car&dag-scope=all")
	pubtest.Check(t, err)
	defer holding.Body.Close() // it reads nothing
	resp, err := http.Get(r.HTTP[0] + "/ipfs/" + leaves[0].CID.String() + "?format=raw")
	pubtest.Check(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("got %s, %v", resp.Status, resp.Header)
	}
	if _, err := gw.IPNS(t.Context(), r.IPNS); err != nil {
		t.Errorf("a record waits for a slot: %v", err)
	}
	if _, metrics := get(t, r.Metrics[0]+"/metrics"); !strings.Contains(metrics, `phasepublish_requests_total{status="503",via="http"} 1`) {
		t.Error("the refusal is not counted")
	}
}

func TestALimitThatIsNotPositiveIsTheDefault(t *testing.T) {
	all, perIP := Limits{}.conns()
	for _, n := range []int{-1, 0} {
		if gotAll, gotPerIP := (Limits{Conns: n, ConnsPerIP: n}).conns(); gotAll != all || gotPerIP != perIP || all < 1 || perIP < 1 {
			t.Errorf("%d: %d in all and %d of one address, want %d and %d", n, gotAll, gotPerIP, all, perIP)
		}
	}
}
