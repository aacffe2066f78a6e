package publisher

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/reports"
)

// A daemon takes boot reports over plain HTTP and over streams, tells machines so, and counts them.
func TestBootReportsArriveOverHTTPAndStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	opts := w.serveOptions()
	opts.DHT, opts.Metrics = DHTOff, "127.0.0.1:0"
	r, stop := w.serve(opts)
	self, err := p2p.ParsePeers(r.Listen)
	pubtest.Check(t, err)
	machine, err := p2p.New(t.Context(), p2p.Options{})
	pubtest.Check(t, err)
	t.Cleanup(func() { machine.Close() })
	streams, err := machine.HTTP(t.Context(), self[0])
	pubtest.Check(t, err)
	for i, via := range []struct {
		client *http.Client
		base   string
	}{{http.DefaultClient, r.HTTP[0]}, {streams, "http://peer"}} {
		document, err := bootreport.Sign(t.Context(), bootreport.Document{
			BootID: fmt.Sprintf("%032x", i+1), Report: json.RawMessage(`{"result":"ok"}`), SentAt: time.Now(),
		}, pubtest.NewKey(t))
		pubtest.Check(t, err)
		resp, err := via.client.Post(via.base+bootreport.Path, bootreport.MediaType, bytes.NewReader(document))
		pubtest.Check(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted || resp.Header.Get(gateway.ReportsHeader) != gateway.ReportsVersion {
			t.Errorf("%s: %s, %v", via.base, resp.Status, resp.Header)
		}
	}
	// A machine ignores an answer without the header, so refusals have it too.
	for _, tt := range []struct {
		method, kind string
		size, want   int
	}{
		{http.MethodGet, "", 0, 405},
		{http.MethodPost, "text/plain", 1, 415},
		{http.MethodPost, bootreport.MediaType, 1, 400},
		{http.MethodPost, bootreport.MediaType, bootreport.MaxDocument + 1, 413},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, r.HTTP[0]+bootreport.Path, bytes.NewReader(make([]byte, tt.size)))
		pubtest.Check(t, err)
		req.Header.Set("Content-Type", tt.kind)
		resp, err := http.DefaultClient.Do(req)
		pubtest.Check(t, err)
		resp.Body.Close()
		if resp.StatusCode != tt.want || resp.Header.Get(gateway.ReportsHeader) != gateway.ReportsVersion {
			t.Errorf("%s of %d bytes: %s, want %d; %v", tt.method, tt.size, resp.Status, tt.want, resp.Header)
		}
	}
	_, metrics := get(t, r.Metrics[0]+"/metrics")
	for _, want := range []string{
		`phasepublish_reports_total{outcome="unverified"} 2`, `phasepublish_reports_total{outcome="rate"} 0`, `phasepublish_machines{state="unverified"} 2`,
		`phasepublish_machines{state="accepted"} 0`, `phasepublish_boots{state="unverified"} 2`, `phasepublish_boots_bytes{state="unverified"} `, "phasepublish_machines_failed 0\n",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
	stop()
	db, err := reports.Open(t.Context(), filepath.Join(opts.Store, ReportsFile), reports.Options{ReadOnly: true})
	pubtest.Check(t, err)
	defer db.Close()
	if list, err := db.List(t.Context(), reports.Query{}); err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
}

// A database that cannot be opened stops a daemon only if a flag has named it. A damaged one is moved away.
func TestADaemonServesWithoutBootReports(t *testing.T) {
	t.Parallel()
	database := append([]byte("SQLite format 3\x00"), bytes.Repeat([]byte("x"), 5000)...)
	for name, tt := range map[string]struct {
		reports string
		content []byte // of the file in the store
		fails   bool
		moved   bool
	}{
		"off":                      {reports: ReportsOff},
		"a folder in the store":    {reports: ""},
		"damaged":                  {content: bytes.Repeat([]byte("x"), 5000), moved: true},
		"a named folder":           {reports: t.TempDir(), fails: true},
		"no such folder":           {reports: filepath.Join(t.TempDir(), "missing", "x.db"), fails: true},
		"a damaged named database": {reports: "named", content: database, moved: true},
		"a named file of another":  {reports: "named", content: bytes.Repeat([]byte("x"), 5000), fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.Add(w.Sign(1, "v1", w.Release))
			opts := w.serveOptions()
			opts.DHT, opts.Reports, opts.Metrics = DHTOff, tt.reports, "127.0.0.1:0"
			path := filepath.Join(opts.Store, ReportsFile)
			if tt.reports == "named" {
				opts.Reports = path
			}
			if tt.content != nil {
				pubtest.Check(t, os.WriteFile(path, tt.content, 0o600))
			} else if tt.reports == "" {
				pubtest.Check(t, os.Mkdir(path, 0o700))
			}
			if tt.fails {
				if err := Serve(t.Context(), opts); err == nil || !strings.Contains(err.Error(), opts.Reports) {
					t.Errorf("got %v", err)
				}
				return
			}
			r, _ := w.serve(opts)
			resp, err := http.Post(r.HTTP[0]+bootreport.Path, bootreport.MediaType, strings.NewReader("x"))
			pubtest.Check(t, err)
			resp.Body.Close()
			want, header := http.StatusNotFound, ""
			if tt.moved {
				want, header = http.StatusBadRequest, gateway.ReportsVersion
			}
			if resp.StatusCode != want || resp.Header.Get(gateway.ReportsHeader) != header {
				t.Errorf("got %s, %v", resp.Status, resp.Header)
			}
			_, metrics := get(t, r.Metrics[0]+"/metrics")
			taken := fmt.Sprintf("\nphasepublish_reports_taken %d\n", map[bool]int{true: 1}[tt.moved])
			if !strings.Contains(metrics, taken) || strings.Contains(metrics, "\nphasepublish_machines_failed 0\n") != tt.moved {
				t.Errorf("no %q, or figures of machines without reports, in the metrics", taken)
			}
			aside, err := filepath.Glob(path + ".damaged-*Z")
			pubtest.Check(t, err)
			if (len(aside) == 1) != tt.moved {
				t.Errorf("moved: %q", aside)
			} else if tt.moved {
				if kept, err := os.ReadFile(aside[0]); err != nil || !bytes.Equal(kept, tt.content) {
					t.Errorf("the moved file has another content: %v", err)
				}
			}
		})
	}
}
