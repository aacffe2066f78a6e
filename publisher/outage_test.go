package publisher

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// /healthz and /metrics of a replica answer while its object store does not, and call nothing damaged.
func TestHealthOfAReplicaWhoseObjectStoreDoesNotAnswer(t *testing.T) {
	t.Parallel()
	w, log := newWorld(t), pubtest.NewLog()
	proxy, address := w.inBucket()
	opts := w.replicaOptions(address)
	opts.Metrics, opts.Log = "127.0.0.1:0", log.Logger()
	r, _ := w.serve(opts)
	code, said := get(t, r.Metrics[0]+"/healthz")
	if want := "no IPNS record yet: run phase-publish serve with the keys, which signs it"; code != http.StatusServiceUnavailable || !strings.Contains(said, want) {
		t.Errorf("without a record: %d %s", code, said)
	}
	pointer, err := pubtest.ReadPointer(t.Context(), w.Repo())
	pubtest.Check(t, err)
	record, err := p2p.NewRecord(w.IPNS, pointer.Folder, uint64(pointer.Timestamp), time.Now().Add(time.Hour), time.Minute)
	pubtest.Check(t, err)
	pubtest.Check(t, store.PutMetadata(t.Context(), address, pointer, map[string][]byte{w.Name(): record}))
	healthy := func() bool { code, said = get(t, r.Metrics[0]+"/healthz"); return code == http.StatusOK }
	eventually(t, "200", healthy)
	figures := func() string { _, said := get(t, r.Metrics[0]+"/metrics"); return said }
	line := func(all, prefix string) string {
		_, rest, _ := strings.Cut(all, "\n"+prefix)
		value, _, _ := strings.Cut(rest, "\n")
		return value
	}
	blocks := line(figures(), "phasepublish_store_blocks ")
	if blocks == "" || blocks == "0" {
		t.Fatalf("%s blocks", blocks)
	}
	for _, fault := range []s3test.Fault{s3test.Hangs, s3test.Status503} {
		proxy.Set(func(*http.Request) s3test.Fault { return fault })
		began := time.Now()
		eventually(t, "503", func() bool {
			code, said := get(t, r.Metrics[0]+"/healthz")
			return code == http.StatusServiceUnavailable && strings.Contains(said, "unreachable since ") && strings.Contains(said, "check the object store at")
		})
		metrics := figures()
		if took := time.Since(began); took > pubtest.Patience/2 {
			t.Errorf("it took %s", took)
		}
		for prefix, want := range map[string]string{
			"phasepublish_healthy ":                      "0",
			`phasepublish_problems{kind="unreachable"} `: "1",
			`phasepublish_problems{kind="damaged"} `:     "0",
			"phasepublish_store_faults_total ":           "0",
			"phasepublish_store_blocks ":                 blocks,
		} {
			if got := line(metrics, prefix); got != want {
				t.Errorf("fault %d: %s%s, want %s", fault, prefix, got, want)
			}
		}
		if code, said := get(t, r.Metrics[0]+"/status"); code != http.StatusInternalServerError || !strings.Contains(said, "unreachable since ") {
			t.Errorf("/status: %d %s", code, said)
		}
		log.Wait(t, 1, `msg="object store does not answer"`)
		proxy.Set(func(*http.Request) s3test.Fault { return s3test.None })
		eventually(t, "200", healthy)
		log.Wait(t, 1, `msg="object store answers again"`)
	}
	if strings.Contains(log.String(), "store damaged") || strings.Contains(log.String(), "phase-publish fsck") {
		t.Errorf("the log calls the store damaged:\n%s", log)
	}
}
