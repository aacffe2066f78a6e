package publisher

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// fetchers are gateways of a daemon over plain HTTP and over a stream.
func fetchers(t *testing.T, r Ready) map[string]*gateway.Client {
	t.Helper()
	self, err := p2p.ParsePeers(r.Listen)
	check(t, err)
	machine, err := p2p.New(t.Context(), p2p.Options{})
	check(t, err)
	t.Cleanup(func() { machine.Close() })
	streams, err := machine.Gateway(t.Context(), self[0])
	check(t, err)
	return map[string]*gateway.Client{"http": {Base: r.HTTP[0]}, "stream": streams}
}

func (w *world) artifact(head string, gw *gateway.Client, role string) manifest.Artifact {
	w.t.Helper()
	a, ok := w.verify(folder{gw, head}).Release().Artifact(role)
	if !ok {
		w.t.Fatalf("no %s", role)
	}
	return a
}

func TestARateHoldsForPlainHTTPAndStreamsAlike(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	opts := w.serveOptions()
	opts.DHT, opts.Limits.RatePerPeer = DHTOff, 1_500_000 // the rootfs has 3 MB
	r, _ := w.serve(opts)
	for via, gw := range fetchers(t, r) {
		rootfs, start := w.artifact(r.Head, gw, "rootfs"), time.Now()
		check(t, cas.Copy(t.Context(), io.Discard, gw, rootfs.CID, rootfs.Length))
		if took := time.Since(start); took < 1500*time.Millisecond {
			t.Errorf("%s: 3 MB in %v", via, took)
		}
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	check(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	check(t, err)
	return resp.StatusCode, string(text)
}

func TestAnOperatorSeesWhatIsServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	opts := w.serveOptions()
	opts.Metrics = "127.0.0.1:0"
	r, _ := w.serve(opts)
	for _, gw := range fetchers(t, r) {
		kernel := w.artifact(r.Head, gw, "kernel")
		_, err := cas.Get(t.Context(), gw, kernel.CID)
		check(t, err)
		_, err = gw.IPNS(t.Context(), r.IPNS)
		check(t, err)
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
		Status
		Live Live `json:"live"`
	}
	_, text := get(t, r.Metrics[0]+"/status")
	check(t, json.Unmarshal([]byte(text), &status))
	if status.Head != r.Head || status.Live.Peer != r.Peer || status.Live.Peers != 1 || status.Live.SentBytes < 1000 || len(status.Channels) != 1 {
		t.Errorf("status says %s", text)
	}
	if code, said := get(t, r.Metrics[0]+"/healthz"); code != 200 || said != "ok\n" {
		t.Errorf("healthz says %d, %s", code, said)
	}
	if code, _ := get(t, r.HTTP[0]+"/metrics"); code != 404 {
		t.Errorf("strangers get the metrics: %d", code)
	}
}

func TestTwoDaemonsNeedTwoIdentities(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	opts := w.serveOptions()
	opts.DHT = DHTOff
	_, stop := w.serve(opts)
	err := Serve(t.Context(), opts)
	if err == nil || !strings.Contains(err.Error(), "peer.key: another process runs with it; give this one its own with --identity FILE") {
		t.Errorf("got %v", err)
	}
	stop()
	w.serve(opts)
}

func (w *world) name() string {
	w.t.Helper()
	name, err := p2p.Name(public(w.ipns))
	check(w.t, err)
	return name
}

// dhtNode is another server of the repository's DHT, named by how to enter it.
func (w *world) dhtNode() []peer.AddrInfo {
	w.t.Helper()
	node, err := p2p.New(w.t.Context(), p2p.Options{Listen: w.serveOptions().Listen, DHT: p2p.DHTServer, Prefix: "/phaseboot/" + w.name()})
	check(w.t, err)
	w.t.Cleanup(func() { node.Close() })
	enter, err := p2p.ParsePeers(texts(node.Addrs()))
	check(w.t, err)
	return enter
}

// The DHT must lead to what machines that are under way still need, and to the new head.
func TestOldHeadsStayAnnouncedBesideTheNewOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.add(w.sign(1, "v1", w.release))
	enter := w.dhtNode()
	opts := w.serveOptions()
	opts.Bootstrap = enter
	opts.Metrics = "127.0.0.1:0"
	r, _ := w.serve(opts)
	old := w.artifact(r.Head, &gateway.Client{Base: r.HTTP[0]}, "kernel")
	w.write("artifacts/kernel", bytes.Repeat([]byte("new kernel "), 10_000))
	second := w.add(w.sign(2, "v2", w.release))
	machine, err := p2p.New(t.Context(), p2p.Options{DHT: p2p.DHTClient, Prefix: "/phaseboot/" + w.name(), Bootstrap: enter})
	check(t, err)
	defer machine.Close()
	want := []string{first.Head, second.Head, old.CID.String()}
	for _, name := range want {
		c := cid.MustParse(name)
		eventually(t, "a provider of "+name, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			for p := range machine.FindProviders(ctx, c) {
				if p.ID.String() == r.Peer {
					return true
				}
			}
			return false
		})
	}
	eventually(t, "all announced", func() bool {
		_, metrics := get(t, r.Metrics[0]+"/metrics")
		return strings.Contains(metrics, "phasepublish_announced_cids 7\n") && !strings.Contains(metrics, "phasepublish_announced_age_seconds -1\n")
	})
}

func TestASweepTellsEverythingInTurn(t *testing.T) {
	now := time.Now()
	a := &announcer{server: &server{}, told: map[cid.Cid]time.Time{}, record: now}
	var cids []cid.Cid
	for i := range 5 {
		c := cas.Sum(cid.Raw, []byte{byte(i)})
		cids = append(cids, c)
		a.told[c] = now.Add(time.Duration(i) * time.Second)
	}
	var got []cid.Cid
	for i := range 12 { // two rounds, the record in each
		c := a.next()
		if c.Defined() {
			a.told[c] = now.Add(time.Duration(10+i) * time.Second)
		} else {
			a.record = now.Add(time.Duration(10+i) * time.Second)
		}
		got = append(got, c)
	}
	slices.SortFunc(cids, func(a, b cid.Cid) int { return strings.Compare(a.KeyString(), b.KeyString()) })
	for _, round := range [][]cid.Cid{got[:6], got[6:]} {
		told := slices.Clone(round)
		slices.SortFunc(told, func(a, b cid.Cid) int { return strings.Compare(a.KeyString(), b.KeyString()) })
		if !slices.Equal(told, append([]cid.Cid{cid.Undef}, cids...)) {
			t.Errorf("a round told %v", round)
		}
	}
}

func TestAFullQueueSaysWhenToComeBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	big := make([]byte, 24<<20) // more than sockets buffer
	for i := range big {
		big[i] = byte(i>>16) ^ byte(i*i>>3)
	}
	w.write("artifacts/rootfs", big)
	w.add(w.sign(1, "v1", w.release))
	opts := w.serveOptions()
	opts.DHT, opts.Metrics, opts.Limits.UploadSlots = DHTOff, "127.0.0.1:0", 1
	r, _ := w.serve(opts)
	gw := &gateway.Client{Base: r.HTTP[0]}
	rootfs, kernel := w.artifact(r.Head, gw, "rootfs"), w.artifact(r.Head, gw, "kernel")
	leaves, err := cas.Leaves(t.Context(), gw, kernel.CID, kernel.Length)
	check(t, err)
	holding, err := http.Get(r.HTTP[0] + "/ipfs/" + rootfs.CID.String() + "?format=car&dag-scope=all")
	check(t, err)
	defer holding.Body.Close() // it reads nothing
	resp, err := http.Get(r.HTTP[0] + "/ipfs/" + leaves[0].CID.String() + "?format=raw")
	check(t, err)
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
