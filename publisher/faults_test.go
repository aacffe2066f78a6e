package publisher

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

func TestADamagedBlockIsLoggedOnceHoweverOftenItIsAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	opts, log := w.serveOptions(), new(bytes.Buffer)
	opts.DHT, opts.Log = DHTOff, slog.New(slog.NewTextHandler(log, nil))
	r, stop := w.serve(opts)
	gw := &gateway.Client{Base: r.HTTP[0]}
	rootfs := w.artifact(r.Head, gw, "rootfs")
	leaves, err := cas.Leaves(t.Context(), gw, rootfs.CID, rootfs.Length)
	check(t, err)
	damaged, other := leaves[1].CID, leaves[len(leaves)-1].CID
	for _, c := range []string{damaged.String(), other.String()} {
		w.damage(c)
		for range 5 {
			if status, _ := get(t, r.HTTP[0]+"/ipfs/"+c+"?format=raw"); status != http.StatusInternalServerError {
				t.Errorf("a damaged block got %d", status)
			}
		}
	}
	resp, err := http.Get(r.HTTP[0] + "/ipfs/" + rootfs.CID.String() + "?format=car")
	check(t, err)
	io.Copy(io.Discard, resp.Body) // it is cut short
	resp.Body.Close()
	stop()
	if n := strings.Count(log.String(), "block not served"); n != 2 {
		t.Errorf("%d lines for two blocks:\n%s", n, log)
	}
}

// damage changes a byte of a block in the store.
func (w *world) damage(name string) {
	w.t.Helper()
	store, err := cas.OpenPacks(w.path("store"), cas.PackOptions{ReadOnly: true})
	check(w.t, err)
	defer store.Close()
	c, err := cas.ParseCID(name)
	check(w.t, err)
	at, offset, err := store.Open(w.t.Context(), c)
	check(w.t, err)
	defer at.Close()
	pack, err := os.OpenFile(at.Name(), os.O_RDWR, 0)
	check(w.t, err)
	defer pack.Close()
	one := make([]byte, 1)
	offset += 1000 // behind the head
	_, err = pack.ReadAt(one, offset)
	check(w.t, err)
	one[0] ^= 1
	_, err = pack.WriteAt(one, offset)
	check(w.t, err)
}
