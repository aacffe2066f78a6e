package reports

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/manifest"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A node is a machine that reports.
type node struct {
	key     ed25519.PrivateKey
	address string
}

func newNode(t testing.TB, address string) node {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	check(t, err)
	return node{key, address}
}

func (n node) name() string { return hex.EncodeToString(n.key.Public().(ed25519.PublicKey)) }

// document returns a document of the n-th boot. result is that of the boot.
func (n node) document(t testing.TB, boot int, result string) []byte {
	t.Helper()
	return n.sentAt(t, boot, result, time.Date(2026, 11, 30, 10, boot%60, 0, 0, time.UTC))
}

func (n node) sentAt(t testing.TB, boot int, result string, at time.Time) []byte {
	t.Helper()
	report := fmt.Sprintf(`{"result":%q,"mode":"local","start":"2026-11-30T09:59:00Z","duration_ms":8000,"release":{"channel":"stable","release":"1.%d","role_version":%d},"padding":%q}`,
		result, boot, boot, strings.Repeat("x", 2000))
	data, err := bootreport.Sign(t.Context(), bootreport.Document{
		Arch: "x86_64", Groups: []string{"lab"}, BootID: fmt.Sprintf("%032x", boot), Report: json.RawMessage(report), SentAt: at,
	}, n.key)
	check(t, err)
	return data
}

func open(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "reports.db"), o)
	check(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func TestThreeMachinesReportAndOneHasFailed(t *testing.T) {
	s := open(t, Options{})
	nodes := []node{newNode(t, "192.0.2.1:1000"), newNode(t, "192.0.2.2:1000"), newNode(t, "[2001:db8::1]:1000")}
	for i, n := range nodes {
		result := "ok"
		if i == 1 {
			result = "failed"
		}
		check(t, s.Add(t.Context(), n.document(t, i+1, result), n.address))
	}
	list, err := s.List(t.Context(), Query{})
	check(t, err)
	if len(list) != 3 || list[0].Accepted || list[0].Last == nil {
		t.Fatalf("got %+v", list)
	}
	check(t, s.Accept(t.Context(), nodes[1].name()))
	m, boots, err := s.Get(t.Context(), nodes[1].name())
	check(t, err)
	if !m.Accepted || m.AcceptedAt == nil || m.Arch != "x86_64" || len(m.Groups) != 1 || len(boots) != 1 || boots[0].Result != "failed" || boots[0].Release != "1.2" || boots[0].Address != nodes[1].address {
		t.Errorf("got %+v, %+v", m, boots)
	}
	st, err := s.Stats(t.Context())
	check(t, err)
	if st.Accepted.Machines != 1 || st.Unverified.Machines != 2 || st.Failed != 1 || st.Accepted.Boots != 1 || st.Accepted.Bytes != int64(len(nodes[1].document(t, 2, "failed"))) {
		t.Errorf("got %+v", st)
	}
	data, d, err := s.Document(t.Context(), m.Key, boots[0].ID)
	check(t, err)
	if !bytes.Equal(data, nodes[1].document(t, 2, "failed")) || d.Machine != m.Key {
		t.Errorf("the document is another one: %s", data)
	}
	page, err := s.List(t.Context(), Query{Unverified: true, Limit: 1})
	check(t, err)
	next, err := s.List(t.Context(), Query{Unverified: true, Limit: 5, Before: page[0].Key})
	check(t, err)
	if len(next) != 1 || next[0].Key == page[0].Key {
		t.Errorf("second page is %+v", next)
	}
}

func TestALaterDocumentOfABootReplacesAnEarlierOne(t *testing.T) {
	var outcomes []Outcome
	s := open(t, Options{Counted: func(o Outcome) { outcomes = append(outcomes, o) }})
	n, at := newNode(t, "192.0.2.1:1"), time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)
	check(t, s.Add(t.Context(), n.sentAt(t, 1, "failed", at), n.address))
	check(t, s.Add(t.Context(), n.sentAt(t, 1, "ok", at.Add(time.Minute)), n.address))
	check(t, s.Add(t.Context(), n.sentAt(t, 1, "failed", at), n.address)) // a copy that was kept on the machine
	_, boots, err := s.Get(t.Context(), n.name())
	check(t, err)
	if len(boots) != 1 || boots[0].Result != "ok" || fmt.Sprint(outcomes) != "[unverified unverified stale]" {
		t.Errorf("got %+v, %v", boots, outcomes)
	}
	st, err := s.Stats(t.Context())
	check(t, err)
	if st.Unverified.Boots != 1 || st.Unverified.Bytes != int64(len(n.sentAt(t, 1, "ok", at.Add(time.Minute)))) {
		t.Errorf("got %+v", st)
	}
}

// The room of unverified keys displaces whole keys with their boots, that of accepted ones single boots.
func TestBootsAndDisplacedReportsAreCounted(t *testing.T) {
	counted := map[string]int64{}
	s := open(t, Options{
		Limits:    Limits{Unverified: Room{Machines: 2}, Accepted: Room{Bytes: 8000}},
		Booted:    func(accepted bool, result string) { counted[fmt.Sprintf("booted %t %s", accepted, result)]++ },
		Displaced: func(accepted bool, boots int64) { counted[fmt.Sprintf("displaced %t", accepted)] += boots },
	})
	at := time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)
	own := newNode(t, "192.0.2.1:1")
	check(t, s.Add(t.Context(), own.sentAt(t, 1, "failed", at), own.address))
	check(t, s.Add(t.Context(), own.sentAt(t, 1, "failed", at.Add(time.Minute)), own.address)) // the same boot
	check(t, s.Add(t.Context(), own.sentAt(t, 1, "ok", at.Add(2*time.Minute)), own.address))
	check(t, s.Accept(t.Context(), own.name()))
	for i := range 4 {
		check(t, s.Add(t.Context(), own.sentAt(t, i+2, "odd", at.Add(time.Hour)), own.address))
	}
	first := newNode(t, "192.0.2.2:1")
	for i := range 3 {
		check(t, s.Add(t.Context(), first.document(t, i, "ok"), first.address))
	}
	for range 2 {
		n := newNode(t, "192.0.2.2:1")
		check(t, s.Add(t.Context(), n.document(t, 1, "ok"), n.address))
	}
	st, err := s.Stats(t.Context())
	check(t, err)
	want := map[string]int64{"booted false failed": 1, "booted false ok": 6, "booted true other": 4, "displaced true": int64(5 - st.Accepted.Boots), "displaced false": 3}
	if !maps.Equal(counted, want) || st.Accepted.Boots > 3 {
		t.Errorf("got %v, want %v; %+v", counted, want, st)
	}
}

// earlier makes a database look as one of version 1 did, in one of its forms.
func earlier(t *testing.T, s *Store, form int) {
	t.Helper()
	drop := []string{"step"}
	if form < 2 {
		drop = append(drop, "sources", "faults", "disk", "servers", "neighbours")
	}
	statements := "PRAGMA user_version = 1;"
	if form < 2 {
		for _, index := range []string{"result", "last", "name", "release", "running", "mode", "duration", "starts", "faults"} {
			statements += "DROP INDEX machine_" + index + ";"
		}
		for _, column := range []string{"mode", "channel", "release", "duration", "starts", "faults", "disk", "servers", "neighbours"} {
			statements += "ALTER TABLE machine DROP COLUMN " + column + ";"
		}
	}
	if form == 0 {
		statements += "ALTER TABLE machine DROP COLUMN result;"
	} else if form == 1 {
		statements += "CREATE INDEX machine_result ON machine (accepted, result);"
	}
	for _, column := range drop {
		statements += "ALTER TABLE boot DROP COLUMN " + column + ";"
	}
	_, err := s.db.Exec(statements)
	check(t, err)
}

func TestADatabaseOfAnEarlierVersionIsBroughtUpToDate(t *testing.T) {
	for form := range 3 {
		path := filepath.Join(t.TempDir(), "reports.db")
		s, err := Open(t.Context(), path, Options{})
		check(t, err)
		n := newNode(t, "192.0.2.1:1")
		check(t, s.Add(t.Context(), n.document(t, 1, "failed"), n.address))
		check(t, s.Add(t.Context(), n.document(t, 2, "ok"), n.address))
		check(t, s.Accept(t.Context(), n.name()))
		fresh := s.sqlOfIndexes(t)
		earlier(t, s, form)
		check(t, s.Close())
		if _, err := Open(t.Context(), path, Options{ReadOnly: true}); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "restart the publisher") {
			t.Errorf("read only: %v", err)
		}
		s, err = Open(t.Context(), path, Options{})
		check(t, err)
		running, err := s.Running(t.Context())
		check(t, err)
		if len(running) != 1 || running[0] != (Running{true, "stable", "1.2", 1, 0}) {
			t.Errorf("form %d: got %+v", form, running)
		}
		if got := s.sqlOfIndexes(t); got != fresh {
			t.Errorf("form %d: indexes\n%s\nwant\n%s", form, got, fresh)
		}
		check(t, s.Add(t.Context(), n.document(t, 3, "failed"), n.address))
		if _, boots, err := s.Get(t.Context(), n.name()); err != nil || len(boots) != 3 {
			t.Errorf("form %d: %v, %v", form, boots, err)
		}
		_, err = s.db.Exec(fmt.Sprintf("PRAGMA user_version = %d", schemaVersion+1))
		check(t, err)
		check(t, s.Close())
		if _, err := Open(t.Context(), path, Options{}); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "later version") {
			t.Errorf("a later version: %v", err)
		}
	}
}

func (s *Store) sqlOfIndexes(t *testing.T) (text string) {
	t.Helper()
	check(t, s.db.QueryRow("SELECT group_concat(replace(sql, 'IF NOT EXISTS ', ''), char(10)) FROM (SELECT sql FROM sqlite_schema WHERE type = 'index' ORDER BY name)").Scan(&text))
	return text
}

// Whoever has seen a document can send it again, and a machine sends what it has kept after its newer reports.
func TestAnOldDocumentDoesNotBecomeTheLastBoot(t *testing.T) {
	at := time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)
	now := at
	var outcomes []Outcome
	s := open(t, Options{Now: func() time.Time { return now }, Counted: func(o Outcome) { outcomes = append(outcomes, o) }, Limits: Limits{Accepted: Room{PerMachine: 2}}})
	n, replayer := newNode(t, "192.0.2.1:1"), "203.0.113.1:1"
	document := func(boot int, result, hostname string, at time.Time) []byte {
		data, err := bootreport.Sign(t.Context(), bootreport.Document{
			Hostname: hostname, BootID: fmt.Sprintf("%032x", boot), Report: json.RawMessage(`{"result":"` + result + `"}`), SentAt: at,
		}, n.key)
		check(t, err)
		return data
	}
	first, second := document(1, "ok", "old", at), document(2, "ok", "new", at.Add(time.Hour))
	check(t, s.Add(t.Context(), first, n.address))
	check(t, s.Accept(t.Context(), n.name()))
	now = at.Add(time.Hour)
	check(t, s.Add(t.Context(), second, n.address))
	now = at.Add(2 * time.Hour)
	check(t, s.Add(t.Context(), first, replayer))
	check(t, s.Add(t.Context(), second, replayer))
	late := document(3, "failed", "older", at.Add(time.Minute)) // was kept on the machine
	check(t, s.Add(t.Context(), late, n.address))
	m, boots, err := s.Get(t.Context(), n.name())
	check(t, err)
	if len(boots) != 2 || boots[0].ID != fmt.Sprintf("%032x", 2) || boots[1].ID != fmt.Sprintf("%032x", 3) || m.Hostname != "new" {
		t.Errorf("%q has the boots %+v", m.Hostname, boots)
	}
	if boots[0].Address != n.address || !boots[0].Received.Equal(at.Add(time.Hour)) || fmt.Sprint(outcomes) != "[unverified accepted stale stale accepted]" {
		t.Errorf("got %+v, %v", boots[0], outcomes)
	}
	st, err := s.Stats(t.Context())
	check(t, err)
	if list, err := s.List(t.Context(), Query{}); err != nil || list[0].Last.ID != boots[0].ID || st.Failed != 0 {
		t.Errorf("%+v, %+v, %v", list, st, err)
	}
	now = at.Add(3 * time.Hour)
	check(t, s.Add(t.Context(), document(4, "ok", "future", now.AddDate(50, 0, 0)), n.address)) // a wrong clock
	now = at.Add(4 * time.Hour)
	check(t, s.Add(t.Context(), document(5, "ok", "newest", now), n.address))
	if m, boots, err := s.Get(t.Context(), n.name()); err != nil || m.Hostname != "newest" || boots[0].ID != fmt.Sprintf("%032x", 5) {
		t.Errorf("%+v, %+v, %v", m, boots, err)
	}
}

func TestOldBootsOfAMachineAreDropped(t *testing.T) {
	s := open(t, Options{Limits: Limits{Accepted: Room{PerMachine: 3}, Unverified: Room{PerMachine: 2}}})
	n := newNode(t, "192.0.2.1:1")
	for _, want := range []int{2, 3} {
		for boot := range 6 {
			check(t, s.Add(t.Context(), n.document(t, boot+1, "ok"), n.address))
		}
		m, boots, err := s.Get(t.Context(), n.name())
		check(t, err)
		if len(boots) != want || m.Boots != want || boots[0].Release != "1.6" {
			t.Errorf("%d boots, want %d: %+v", m.Boots, want, boots)
		}
		check(t, s.Accept(t.Context(), n.name()))
	}
}

func TestTheRoomOfAcceptedMachinesIsBounded(t *testing.T) {
	size := int64(len(newNode(t, "").document(t, 1, "ok")))
	s := open(t, Options{Limits: Limits{Accepted: Room{Bytes: 10*size + size/2}}})
	var nodes []node
	for i := range 5 {
		nodes = append(nodes, newNode(t, fmt.Sprintf("192.0.2.%d:1", i)))
		check(t, s.Add(t.Context(), nodes[i].document(t, 1, "ok"), nodes[i].address))
	}
	if n, err := s.AcceptAll(t.Context()); n != 5 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	for boot := range 20 {
		check(t, s.Add(t.Context(), nodes[0].document(t, boot+10, "ok"), nodes[0].address))
	}
	st, err := s.Stats(t.Context())
	check(t, err)
	if st.Accepted.Bytes > 11*size || st.Accepted.Bytes < 9*size {
		t.Errorf("%d bytes, room for %d", st.Accepted.Bytes, 10*size)
	}
	for _, n := range nodes {
		if m, _, err := s.Get(t.Context(), n.name()); err != nil || m.Boots < 1 {
			t.Errorf("the last boot of a machine was dropped: %+v, %v", m, err)
		}
	}
}

// flood is how many forged documents TestAFloodOfForgedReportsDisplacesNoHonestOne sends.
func flood(t testing.TB) int {
	if os.Getenv("PHASE_FLOOD") == "" {
		return 450
	}
	var n int
	if _, err := fmt.Sscan(os.Getenv("PHASE_FLOOD"), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// An attacker makes keys, and sends a valid document of each. PHASE_FLOOD=100000 sends as many.
func TestAFloodOfForgedReportsDisplacesNoHonestOne(t *testing.T) {
	for _, tt := range []struct {
		name      string
		addresses int
		rates     bool // the usual ones, which refuse most of the flood
	}{
		{"from 16 addresses, with the usual rates", 16, true},
		{"from 16 addresses, as fast as the database is", 16, false},
		{"from 5000 addresses, as fast as the database is", 5000, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			limits := Limits{Unverified: Room{Machines: min(500, flood(t)/3), Bytes: 8 << 20}}
			if !tt.rates {
				limits.PerAddress, limits.Burst, limits.All, limits.AllBurst = 1e9, 1e9, 1e9, 1e9
			}
			counts := sync.Map{}
			for _, o := range Outcomes() {
				counts.Store(o, new(atomic.Int64))
			}
			s := open(t, Options{Limits: limits, Counted: func(o Outcome) {
				n, _ := counts.Load(o)
				n.(*atomic.Int64).Add(1)
			}})
			h := s.Handler()
			post := func(data []byte, address string) int {
				r := httptest.NewRequest(http.MethodPost, bootreport.Path, bytes.NewReader(data))
				r.Header.Set("Content-Type", bootreport.MediaType)
				r.RemoteAddr = address
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				return w.Code
			}
			var known, fresh []node
			for i := range 30 { // accepted machines, and new ones that no operator has seen
				known, fresh = append(known, newNode(t, fmt.Sprintf("192.0.2.%d:1", i))), append(fresh, newNode(t, fmt.Sprintf("198.51.100.%d:1", i)))
				for _, n := range []node{known[i], fresh[i]} {
					if code := post(n.document(t, 1, "ok"), n.address); code != http.StatusAccepted {
						t.Fatalf("status %d", code)
					}
				}
				check(t, s.Accept(t.Context(), known[i].name()))
			}
			n, began, peak := flood(t), time.Now(), watchMemory(t)
			forged := make(chan int)
			var senders sync.WaitGroup
			for range 32 {
				senders.Go(func() {
					for i := range forged {
						attacker := newNode(t, fmt.Sprintf("203.0.%d.%d:1", i%tt.addresses/250, i%tt.addresses%250))
						post(attacker.document(t, i, "ok"), attacker.address)
					}
				})
			}
			var late []time.Duration
			for i := range n {
				forged <- i
				if i%(n/30) != 0 || i/(n/30) >= len(known) {
					continue
				}
				// an accepted machine reports in the midst of the flood
				k, sent := known[i/(n/30)], time.Now()
				if code := post(k.document(t, 2, "failed"), k.address); code != http.StatusAccepted {
					t.Errorf("an accepted machine got status %d", code)
				}
				late = append(late, time.Since(sent))
			}
			close(forged)
			senders.Wait()
			took, memory := time.Since(began), peak()
			for _, k := range known {
				if m, boots, err := s.Get(t.Context(), k.name()); err != nil || !m.Accepted || len(boots) != 2 {
					t.Errorf("an accepted machine has %+v, %v", boots, err)
				}
			}
			for _, f := range fresh {
				if _, _, err := s.Get(t.Context(), f.name()); err != nil {
					t.Errorf("an honest new machine was displaced: %v", err)
				}
			}
			st, err := s.Stats(t.Context())
			check(t, err)
			if st.Unverified.Machines > limits.Unverified.Machines || st.Unverified.Bytes > limits.Unverified.Bytes {
				t.Errorf("the room has %+v", st.Unverified)
			}
			size := databaseSize(t, s.path)
			if most := int64(40 << 20); size > most {
				t.Errorf("the database has %d bytes, more than %d", size, most)
			}
			if memory > 96<<20 {
				t.Errorf("%d bytes of memory", memory)
			}
			words := ""
			for _, o := range Outcomes() {
				c, _ := counts.Load(o)
				words += fmt.Sprintf(" %s %d", o, c.(*atomic.Int64).Load())
			}
			slowest := time.Duration(0)
			for _, d := range late {
				slowest = max(slowest, d)
			}
			t.Logf("%d forged in %v (%.0f/s): memory +%.1f MB at most, database %.1f MB, an accepted machine waits %v at most; outcomes:%s",
				n, took.Round(time.Millisecond), float64(n)/took.Seconds(), float64(memory)/1e6, float64(size)/1e6, slowest.Round(time.Millisecond), words)
		})
	}
}

// databaseSize returns the bytes of a database and the files beside it.
func databaseSize(t *testing.T, path string) (n int64) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		check(t, err)
		n += info.Size()
	}
	return n
}

// watchMemory begins to sample the resident memory of this process. peak ends that, and returns by how much it has grown
// at most.
func watchMemory(t *testing.T) (peak func() int64) {
	t.Helper()
	resident := func() int64 {
		data, err := os.ReadFile("/proc/self/statm")
		check(t, err)
		var size, pages int64
		if _, err := fmt.Sscan(string(data), &size, &pages); err != nil {
			t.Error(err)
		}
		return pages * int64(os.Getpagesize())
	}
	ctx, stop := context.WithCancel(t.Context())
	before, most, ended := resident(), int64(0), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				most = max(most, resident()-before)
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() int64 {
		stop()
		<-ended
		return most
	}
}

func TestAddressesWithOneKeyEachKeepTheirPlaces(t *testing.T) {
	now := time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)
	s := open(t, Options{Limits: Limits{Unverified: Room{Machines: 3}}, Now: func() time.Time { return now }})
	var nodes []node
	for i := range 4 {
		nodes = append(nodes, newNode(t, fmt.Sprintf("192.0.2.%d:1", i)))
	}
	for _, n := range nodes[:3] {
		check(t, s.Add(t.Context(), n.document(t, 1, "ok"), n.address))
	}
	if err := s.Add(t.Context(), nodes[3].document(t, 1, "ok"), nodes[3].address); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	now = now.Add(25 * time.Hour)
	check(t, s.Add(t.Context(), nodes[1].document(t, 2, "ok"), nodes[1].address))
	check(t, s.Add(t.Context(), nodes[3].document(t, 1, "ok"), nodes[3].address))
	if _, _, err := s.Get(t.Context(), nodes[0].name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the machine that was silent for longest is there: %v", err)
	}
}

func TestTheAnswersOfTheHandler(t *testing.T) {
	s := open(t, Options{Limits: Limits{Burst: 8, PerAddress: 1e-9}})
	n := newNode(t, "")
	good := n.document(t, 1, "ok")
	send := func(method, kind, address string, body []byte) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, bootreport.Path, bytes.NewReader(body))
		r.Header.Set("Content-Type", kind)
		r.RemoteAddr = address
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		return w
	}
	for name, tt := range map[string]struct {
		method, kind string
		body         []byte
		want         int
	}{
		"a document":        {"POST", bootreport.MediaType, good, 202},
		"the same again":    {"POST", bootreport.MediaType, good, 202},
		"GET":               {"GET", "", nil, 405},
		"a form":            {"POST", "application/x-www-form-urlencoded", good, 415},
		"nothing":           {"POST", bootreport.MediaType, nil, 400},
		"a word":            {"POST", bootreport.MediaType, []byte("word"), 400},
		"another signature": {"POST", bootreport.MediaType, bytes.Replace(good, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1), 403},
		"too large":         {"POST", bootreport.MediaType, make([]byte, bootreport.MaxDocument+1), 413},
	} {
		t.Run(name, func(t *testing.T) {
			if w := send(tt.method, tt.kind, "192.0.2.1:1", tt.body); w.Code != tt.want {
				t.Errorf("status %d, want %d: %s", w.Code, tt.want, w.Body)
			}
		})
	}
	for i := range 9 {
		w := send("POST", bootreport.MediaType, "192.0.2.2:1", good)
		if want := map[bool]int{true: 429, false: 202}[i == 8]; w.Code != want || w.Header().Get("Retry-After") == "" != (i < 8) {
			t.Errorf("document %d: status %d, want %d", i, w.Code, want)
		}
	}
	if w := send("POST", bootreport.MediaType, "192.0.2.3:1", good); w.Code != 202 {
		t.Errorf("another address: status %d", w.Code)
	}
}

// A client that hangs up ends its Add. The document that was queued is kept, and its outcome is the one that is counted.
func TestADocumentOfAClientThatHangsUpIsCountedOnce(t *testing.T) {
	ctx, hangUp := context.WithCancel(t.Context())
	outcomes := make(chan Outcome, 4)
	s := open(t, Options{
		Now:     func() time.Time { hangUp(); return time.Now() }, // during the transaction
		Counted: func(o Outcome) { outcomes <- o },
	})
	n, late := newNode(t, "192.0.2.1:1"), newNode(t, "192.0.2.2:1")
	if err := s.Add(ctx, n.document(t, 1, "ok"), n.address); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("hung up: %v", err)
	}
	if got := <-outcomes; got != Unverified {
		t.Errorf("outcome %s", got)
	}
	if _, boots, err := s.Get(t.Context(), n.name()); err != nil || len(boots) != 1 {
		t.Errorf("%v, %v", boots, err)
	}
	if err := s.Add(ctx, late.document(t, 1, "ok"), late.address); !errors.Is(err, context.Canceled) {
		t.Errorf("hung up before: %v", err)
	}
	check(t, s.Close())
	if len(outcomes) > 0 {
		t.Errorf("outcome %s of a document that was never queued", <-outcomes)
	}
	if err := s.Add(t.Context(), n.document(t, 2, "ok"), n.address); err == nil {
		t.Error("a closed store has kept a document")
	}
}

// Four addresses send their bodies as slowly as they may. A machine at another address has its place all the same.
func TestSlowBodiesLeaveAPlace(t *testing.T) {
	s := open(t, Options{Limits: Limits{Bodies: 6, BodiesPerAddress: 3}})
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	take := func(address string, want bool, abort func()) *body {
		t.Helper()
		b, ok := s.rates.begin(address, abort)
		if ok != want {
			t.Fatalf("%s: a place is %t", address, ok)
		}
		return b
	}
	var aborted []string
	var held []*body
	for i := range 6 {
		address := fmt.Sprintf("192.0.2.%d", i%2)
		held = append(held, take(address, true, func() { aborted = append(aborted, address) }))
	}
	take("192.0.2.0", false, nil) // it has all of one address
	n := newNode(t, "")
	resp, err := http.Post(server.URL+bootreport.Path, bootreport.MediaType, bytes.NewReader(n.document(t, 1, "ok")))
	check(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted || fmt.Sprint(aborted) != "[192.0.2.0]" {
		t.Errorf("status %d, aborted %q", resp.StatusCode, aborted)
	}
	for _, b := range held {
		s.rates.end(b)
	}
	// Each address has one body: only a slow one that is being received loses its place.
	held = nil
	for i := range 6 {
		held = append(held, take(fmt.Sprintf("203.0.113.%d", i), true, func() { aborted = append(aborted, fmt.Sprint(i)) }))
	}
	take("198.51.100.1", false, nil)
	for _, b := range held {
		b.begun = b.begun.Add(-slowBody)
	}
	s.rates.received(held[0])
	take("198.51.100.1", true, nil)
	if fmt.Sprint(aborted) != "[192.0.2.0 1]" {
		t.Errorf("aborted %q", aborted)
	}
}

// A body that loses its place is answered at once.
func TestAnAbortedBodyIsAnswered(t *testing.T) {
	s := open(t, Options{Limits: Limits{Bodies: 1}})
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	answered := make(chan int, 1)
	go func() {
		resp, err := http.Post(server.URL+bootreport.Path, bootreport.MediaType, r)
		if err != nil {
			answered <- 0 // the connection was closed first
			return
		}
		resp.Body.Close()
		answered <- resp.StatusCode
	}()
	_, err := w.Write([]byte("{"))
	check(t, err)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		s.rates.mu.Lock()
		open := s.rates.open
		for _, list := range s.rates.bodies {
			list[0].begun = list[0].begun.Add(-slowBody)
		}
		s.rates.mu.Unlock()
		if open > 0 || time.Now().After(end) {
			break
		}
	}
	if _, ok := s.rates.begin("192.0.2.1", nil); !ok {
		t.Error("no place")
	}
	if status := <-answered; status != 0 && status != http.StatusServiceUnavailable {
		t.Errorf("status %d", status)
	}
}

func TestForgetRemovesAKeyAndItsReports(t *testing.T) {
	s := open(t, Options{})
	n := newNode(t, "192.0.2.1:1")
	check(t, s.Add(t.Context(), n.document(t, 1, "ok"), n.address))
	check(t, s.Accept(t.Context(), n.name()))
	if err := s.Forget(t.Context(), n.name(), strings.Repeat("0", 64)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an unknown key: %v", err)
	}
	if m, _, err := s.Get(t.Context(), n.name()); err != nil || !m.Accepted {
		t.Errorf("one of two keys was removed: %v", err)
	}
	check(t, s.Forget(t.Context(), n.name()))
	st, err := s.Stats(t.Context())
	check(t, err)
	if st != (Stats{}) {
		t.Errorf("left is %+v", st)
	}
	if err := s.Accept(t.Context(), n.name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestFindCompletesAKey(t *testing.T) {
	s := open(t, Options{})
	n := newNode(t, "192.0.2.1:1")
	check(t, s.Add(t.Context(), n.document(t, 1, "ok"), n.address))
	for prefix, want := range map[string]error{n.name()[:8]: nil, n.name(): nil, n.name()[:7]: fs.ErrInvalid, "x": fs.ErrInvalid, strings.Repeat("0", 9): fs.ErrNotExist} {
		if key, err := s.Find(t.Context(), prefix); !errors.Is(err, want) || err == nil && key != n.name() {
			t.Errorf("Find(%q) = %q, %v", prefix, key, err)
		}
	}
}

func TestWatchTellsOfChangesOfThisAndOfAnotherProcess(t *testing.T) {
	s := open(t, Options{})
	other, err := Open(t.Context(), s.path, Options{}) // as another process has it
	check(t, err)
	defer other.Close()
	ctx, stop := context.WithCancel(t.Context())
	changes := s.Watch(ctx)
	n := newNode(t, "192.0.2.1:1")
	for name, change := range map[string]func() error{
		"this process":    func() error { return s.Add(t.Context(), n.document(t, 1, "ok"), n.address) },
		"another process": func() error { return other.Add(t.Context(), n.document(t, 2, "ok"), n.address) },
	} {
		check(t, change())
		select {
		case <-changes:
		case <-time.After(20 * time.Second):
			t.Fatalf("no change by %s", name)
		}
	}
	stop()
	for range changes { //nolint:revive // until it is closed
	}
}

func TestADatabaseIsOpenedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a folder?#%20", "reports.db")
	check(t, os.Mkdir(filepath.Dir(path), 0o755))
	if _, err := Open(t.Context(), path, Options{ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing database is read: %v", err)
	}
	s, err := Open(t.Context(), path, Options{})
	check(t, err)
	n := newNode(t, "192.0.2.1:1")
	check(t, s.Add(t.Context(), n.document(t, 1, "ok"), n.address))
	for _, name := range []string{"", "-wal", "-shm"} {
		if info, err := os.Stat(path + name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	check(t, s.Close())
	s, err = Open(t.Context(), path, Options{ReadOnly: true})
	check(t, err)
	defer s.Close()
	if _, boots, err := s.Get(t.Context(), n.name()); err != nil || len(boots) != 1 {
		t.Errorf("%v, %v", boots, err)
	}
}

func TestAFileThatIsNoDatabaseOfReportsIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		content string
		want    error
	}{
		"a text":          {strings.Repeat("no database ", 1000), cas.ErrCorrupt},
		"a damaged start": {"SQLite format 3\x00" + strings.Repeat("\xff", 8000), cas.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.db")
			check(t, os.WriteFile(path, []byte(tt.content), 0o600))
			if _, err := Open(t.Context(), path, Options{}); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if data, err := os.ReadFile(path); err != nil || string(data) != tt.content {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
	if _, err := Open(t.Context(), t.TempDir(), Options{}); err == nil {
		t.Error("a folder was opened")
	}
}

func TestAForgedSignatureOfAnAcceptedMachineIsRefused(t *testing.T) {
	s := open(t, Options{})
	n, thief := newNode(t, "192.0.2.1:1"), newNode(t, "203.0.113.1:1")
	check(t, s.Add(t.Context(), n.document(t, 1, "ok"), n.address))
	check(t, s.Accept(t.Context(), n.name()))
	forged := bytes.Replace(n.document(t, 2, "failed"), []byte(`"sig":"`), []byte(`"sig":"A`), 1)
	forged = append(forged[:len(forged)-5:len(forged)-5], forged[len(forged)-4:]...) // of the same length
	if err := s.Add(t.Context(), forged, thief.address); !errors.Is(err, manifest.ErrSignature) && !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("got %v", err)
	}
	if _, boots, err := s.Get(t.Context(), n.name()); err != nil || len(boots) != 1 {
		t.Errorf("%v, %v", boots, err)
	}
}
