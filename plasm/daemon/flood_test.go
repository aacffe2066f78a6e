package daemon

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/plasm/api"
)

// connect returns a client over libp2p with a key, on the loopback network.
func connect(t *testing.T, by ed25519.PrivateKey, to *p2p.Node) *http.Client {
	t.Helper()
	identity, err := crypto.UnmarshalEd25519PrivateKey(by)
	check(t, err)
	n, err := p2p.New(t.Context(), p2p.Options{Identity: identity})
	check(t, err)
	t.Cleanup(func() { n.Close() })
	infos, err := peer.AddrInfosFromP2pAddrs(to.Addrs()...)
	check(t, err)
	client, err := n.HTTP(t.Context(), infos[0])
	check(t, err)
	return client
}

// post sends a submission to a server.
func post(c *http.Client, origin string, r *http.Request) (int, string, error) {
	body, _ := io.ReadAll(r.Body)
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, origin+api.Jobs, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header = r.Header
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// TestAFloodShutsNobodyOut sends wrong orders over libp2p while a submitter at the same address submits jobs:
// each of its jobs is accepted, and memory stays bounded. 1,000 orders; the variable PLASM_FLOOD has another
// number, such as 10000.
func TestAFloodShutsNobodyOut(t *testing.T) {
	count := 1000
	if n, err := strconv.Atoi(os.Getenv("PLASM_FLOOD")); err == nil {
		count = n
	}
	w := start(t, t.TempDir(), nil)
	identity, err := crypto.UnmarshalEd25519PrivateKey(machineKey)
	check(t, err)
	listen, err := p2p.ParseAddrs([]string{"/ip4/127.0.0.1/tcp/0"})
	check(t, err)
	node, err := p2p.New(t.Context(), p2p.Options{Identity: identity, Listen: listen})
	check(t, err)
	t.Cleanup(func() { node.Close() })
	check(t, node.Serve(w.d.Network()))
	flooder, honest := connect(t, otherKey, node), connect(t, ciKey, node)

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var left, refused, later atomic.Int64
	left.Store(int64(count))
	bad := sign(t, otherKey, newOrder("x", "m", ""))
	var flood sync.WaitGroup
	for range 8 {
		flood.Go(func() {
			for left.Add(-1) >= 0 {
				switch status, _, _ := post(flooder, "http://plasmd", form("order", bad, "module", "m")); status {
				case http.StatusForbidden:
					refused.Add(1)
				case http.StatusTooManyRequests, http.StatusServiceUnavailable:
					later.Add(1)
				default:
					t.Errorf("status %d", status)
				}
			}
		})
	}
	began, accepted, peak := time.Now(), 0, uint64(0)
	for i := range 20 {
		status, text, err := 0, "", error(nil)
		for try := 0; status != http.StatusAccepted && try < 100; try++ { // all places may be taken for a moment
			status, text, err = post(honest, "http://plasmd", form("order", sign(t, ciKey, newOrder(fmt.Sprint("job", i), "m", "")), "module", "m"))
			if status == http.StatusServiceUnavailable {
				time.Sleep(5 * time.Millisecond)
			}
		}
		if status != http.StatusAccepted {
			t.Errorf("an honest job: %d %s %v", status, text, err)
			continue
		}
		accepted++
		runtime.ReadMemStats(&after)
		peak = max(peak, after.HeapInuse)
	}
	flood.Wait()
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	peak = max(peak, after.HeapInuse)
	t.Logf("%d orders in %s: %d judged and refused, %d turned away; %d honest jobs accepted; heap %d KiB before, %d KiB at most", count,
		took.Round(time.Millisecond), refused.Load(), later.Load(), accepted, before.HeapInuse>>10, peak>>10)
	if grown := int64(peak) - int64(before.HeapInuse); grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	resp, err := honest.Get("http://plasmd" + api.Jobs) // the list of the submitter whose key the connection has
	check(t, err)
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("list: %d", resp.StatusCode)
	}
}
