package reports

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/bootreport"
)

// fill adds machines without documents: n of them, most of which have booted a release well.
func fill(t testing.TB, s *Store, n int) {
	t.Helper()
	_, err := s.db.ExecContext(t.Context(), `
		WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < ?)
		INSERT INTO machine (key, accepted, origin, first_seen, last_seen, ephemeral, machine_id, hostname, arch, groups, recipient, result, mode, channel, release, duration, starts, faults)
		SELECT printf('%064x', n * 2654435761), 1, '', 0, n * 7919 % 1000003, 0, '', printf('host-%06d', n), 'x86_64', '[]', '',
			CASE n % 97 WHEN 0 THEN 'failed' ELSE 'ok' END, CASE n % 5 WHEN 0 THEN 'edge' ELSE 'local' END, 'stable', '1.' || (n % 3), n * 31 % 9000, n % 4, n % 2 FROM i`, n)
	check(t, err)
}

// each calls f with each filter in each order, whose name it gives.
func each(f func(name string, q Query)) {
	filters := map[string]Query{
		"all": {}, "accepted": {Accepted: true}, "failed": {Accepted: true, Result: "failed"}, "release": {Release: "1.1"}, "mode": {Mode: "edge"},
	}
	for name, q := range filters {
		for _, q.Order = range Orders() {
			for _, q.Ascending = range []bool{false, true} {
				f(fmt.Sprintf("%s by %s, ascending %v", name, q.Order, q.Ascending), q)
			}
		}
	}
}

// Pages have each machine once, in the order of the whole list.
func TestPagesOfAListAreTheWholeList(t *testing.T) {
	s := open(t, Options{})
	fill(t, s, 100)
	each(func(name string, q Query) {
		q.Limit = 1000
		whole, err := s.List(t.Context(), q)
		check(t, err)
		var keys, paged []string
		for _, m := range whole {
			keys = append(keys, m.Key)
		}
		for q.Limit = 7; ; {
			page, err := s.List(t.Context(), q)
			check(t, err)
			for _, m := range page {
				paged = append(paged, m.Key)
			}
			if len(page) < q.Limit {
				break
			}
			q.Before = paged[len(paged)-1]
		}
		if len(keys) == 0 || !slices.Equal(keys, paged) {
			t.Errorf("%s: %d machines, and pages with %d in another order", name, len(keys), len(paged))
		}
	})
}

// A page reads an index: a list of 100,000 machines is neither read nor sorted for it.
func TestAPageSortsNoMachines(t *testing.T) {
	s := open(t, Options{})
	fill(t, s, 20)
	last, err := s.List(t.Context(), Query{Limit: 1})
	check(t, err)
	each(func(name string, q Query) {
		for _, q.Before = range []string{"", last[0].Key} {
			if plan := s.plan(t, q); strings.Contains(plan, "TEMP B-TREE") && q.Order == BySeen || strings.Contains(plan, "SCAN m\n") {
				t.Errorf("%s:\n%s", name, plan)
			}
		}
	})
	if plan := s.plan(t, Query{Prefix: "host-0"}); strings.Contains(plan, "SCAN m\n") {
		t.Errorf("by a prefix:\n%s", plan)
	}
}

func (s *Store) plan(t *testing.T, q Query) (plan string) {
	t.Helper()
	text, args, err := s.statement(t.Context(), q)
	check(t, err)
	rows, err := s.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, args...)
	check(t, err)
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		check(t, rows.Scan(&id, &parent, &unused, &detail))
		plan += detail + "\n"
	}
	return plan
}

func TestAListIsFilteredByAPrefix(t *testing.T) {
	s := open(t, Options{})
	fill(t, s, 200)
	for prefix, want := range map[string]int{"host-00001": 10, "host-000123": 1, "HOST-00001": 10, fmt.Sprintf("%064x", 2654435761): 1, fmt.Sprintf("%064X", 2654435761): 1, "host-%": 0, "' OR 1": 0} {
		list, err := s.List(t.Context(), Query{Prefix: prefix})
		check(t, err)
		if len(list) != want {
			t.Errorf("%s: %d machines, want %d", prefix, len(list), want)
		}
	}
	if _, err := s.List(t.Context(), Query{Before: "ff"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := s.List(t.Context(), Query{Order: "key; DROP TABLE machine"}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

// The totals tell what came from where; the publisher is a server, however a machine has found it.
func TestTheSourcesOfTheLastBootsAreAddedUp(t *testing.T) {
	const self = "12D3KooWPublisher"
	s := open(t, Options{Publisher: self})
	report := `{"result":"%s","release":{"channel":"stable","release":"1.0"},"sources":[{"name":"cache","kind":"cache","bytes":1,"blocks":1},
		{"name":"http://mirror","kind":"mirror","bytes":10,"blocks":1,"faults":["a","b"]},{"name":"` + self + `","kind":"mdns","bytes":100,"blocks":1},
		{"name":"12D3KooWOther","kind":"mdns","bytes":1000,"blocks":1},{"name":"12D3KooWThird","kind":"dht","bytes":%d},{"name":"x","bytes":-5}]}`
	for i, result := range []string{"ok", "failed"} {
		n := newNode(t, "192.0.2.1:1")
		bytes := int64(0)
		if i == 1 {
			bytes = 1 << 53
		}
		check(t, s.Add(t.Context(), n.reporting(t, fmt.Sprintf(report, result, bytes)), n.address))
		if i == 0 {
			check(t, s.Accept(t.Context(), n.name()))
			_, boots, err := s.Get(t.Context(), n.name())
			check(t, err)
			if b := boots[0]; b.Sources != 4 || b.Faults != 2 || b.Share != (bootreport.Share{Disk: 1, Servers: 110, Neighbours: 1000}) {
				t.Errorf("got %+v", b)
			}
		}
	}
	if got, err := s.Traffic(t.Context(), true); err != nil || got != (bootreport.Share{Disk: 1, Servers: 110, Neighbours: 1000}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := s.Traffic(t.Context(), false); err != nil || got.Neighbours < 1<<40 {
		t.Errorf("%+v, %v", got, err)
	}
	running, err := s.Running(t.Context())
	check(t, err)
	if want := []Running{{true, "stable", "1.0", 1, 0}, {false, "stable", "1.0", 1, 1}}; !slices.Equal(running, want) {
		t.Errorf("got %+v, want %+v", running, want)
	}
}

func (n node) reporting(t testing.TB, report string) []byte {
	t.Helper()
	data, err := bootreport.Sign(t.Context(), bootreport.Document{BootID: fmt.Sprintf("%032x", 1), Report: []byte(report), SentAt: time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)}, n.key)
	check(t, err)
	return data
}

// BenchmarkAPageOf100000Machines is the page with the worst filter for its order.
func BenchmarkAPageOf100000Machines(b *testing.B) {
	s := open(b, Options{})
	fill(b, s, 100_000)
	for name, q := range map[string]Query{
		"seen": {}, "failed": {Result: "failed", Accepted: true}, "name": {Order: ByName, Ascending: true}, "none": {Mode: "none", Order: ByName}, "failed by name": {Result: "failed", Order: ByName},
		"release by duration": {Release: "1.1", Order: ByDuration}, "prefix": {Prefix: "host-0"},
	} {
		q.Limit = 50
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := s.List(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("running", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Running(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("traffic", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Traffic(b.Context(), true); err != nil {
				b.Fatal(err)
			}
		}
	})
}
