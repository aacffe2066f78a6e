package admin

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/publisher/reports"
)

const pageSize = 50

type machines struct {
	Taken        bool // boot reports are taken
	Query        url.Values
	State        string
	List         []reports.Machine
	Columns      []column
	Next, First  string // URLs of other pages, "" for none
	Stats        reports.Stats
	DescribeSort string
}

// A column of the table of machines. Link sorts by it.
type column struct {
	Text, Link, Sorted string
}

var columns = []struct {
	text      string
	order     reports.Order
	name      string // of the order in a URL
	ascending bool   // at the first click
}{
	{"Machine", reports.ByName, "name", true},
	{"Release", reports.ByRelease, "release", false},
	{"Mode", reports.ByMode, "mode", true},
	{"Last seen", reports.BySeen, "seen", false},
	{"Last boot", "", "", false},
	{"Duration", reports.ByDuration, "duration", false},
	{"Sources", "", "", false},
	{"Faults", reports.ByFaults, "faults", false},
	{"Tries", reports.ByStarts, "tries", false},
}

func (p *Page) machines(r *http.Request) (content, error) {
	out := content{name: "machines", title: "Machines", live: true, data: machines{}}
	if p.Reports == nil {
		return out, nil
	}
	// Only what the page knows is part of its links.
	asked, query := r.URL.Query(), url.Values{}
	for _, name := range []string{"q", "state", "result", "release", "mode", "sort", "dir", "after"} {
		if v := asked.Get(name); v != "" && len(v) <= 200 {
			query.Set(name, v)
		}
	}
	q := reports.Query{
		Accepted: query.Get("state") == "accepted", Unverified: query.Get("state") == "unverified", Result: query.Get("result"), Release: query.Get("release"),
		Mode: query.Get("mode"), Prefix: query.Get("q"), Before: query.Get("after"), Limit: pageSize + 1,
	}
	m := machines{Taken: true, Query: query, State: query.Get("state")}
	current := cmp.Or(query.Get("sort"), "seen")
	for _, c := range columns {
		col := column{Text: c.text}
		if c.name != "" {
			ascending := c.ascending
			if c.name == current {
				if dir := query.Get("dir"); dir != "" {
					ascending = dir == "up"
				}
				q.Order, q.Ascending = c.order, ascending
				col.Sorted = map[bool]string{true: "ascending", false: "descending"}[ascending]
				ascending = !ascending
			}
			col.Link = listURL(query, "sort", c.name, "dir", map[bool]string{true: "up", false: "down"}[ascending], "after", "")
		}
		m.Columns = append(m.Columns, col)
	}
	var err error
	if m.List, err = p.Reports.List(r.Context(), q); err != nil {
		return out, err
	}
	if len(m.List) > pageSize {
		m.List = m.List[:pageSize]
		m.Next = listURL(query, "after", m.List[pageSize-1].Key)
	}
	if q.Before != "" {
		m.First = listURL(query, "after", "")
	}
	if m.Stats, err = p.Reports.Stats(r.Context()); err != nil {
		return out, err
	}
	out.data = m
	return out, nil
}

// listURL is the URL of the list of machines with some parameters changed; "" removes one.
func listURL(query url.Values, pairs ...string) string {
	next := url.Values{}
	for name, values := range query {
		next[name] = values
	}
	for i := 0; i < len(pairs); i += 2 {
		next.Del(pairs[i])
		if pairs[i+1] != "" {
			next.Set(pairs[i], pairs[i+1])
		}
	}
	if len(next) == 0 {
		return "/machines"
	}
	return "/machines?" + next.Encode()
}

type machine struct {
	reports.Machine
	List   []reports.Boot
	Decide bool
}

func (p *Page) machine(r *http.Request) (content, error) {
	if p.Reports == nil {
		return p.notFound(r)
	}
	m, boots, err := p.Reports.Get(r.Context(), r.PathValue("key"))
	if err != nil {
		return content{}, err
	}
	return content{name: "machine", title: "Machine " + cmp.Or(m.Hostname, short(m.Key)), live: true, data: machine{m, boots, p.mayDecide()}}, nil
}

type boot struct {
	Of      reports.Machine
	Boot    reports.Boot
	Detail  bootreport.Detail
	Traffic bootreport.Traffic
	Console []string
	Rows    []stepRow
	Total   time.Duration
}

// A stepRow is a step in the waterfall. X and Width are in thousandths of the whole.
type stepRow struct {
	bootreport.Step
	Target   bool
	X, Width int64
}

func (p *Page) boot(r *http.Request) (content, error) {
	if p.Reports == nil {
		return p.notFound(r)
	}
	key, id := r.PathValue("key"), r.PathValue("id")
	_, document, err := p.Reports.Document(r.Context(), key, id)
	if err != nil {
		return content{}, err
	}
	m, boots, err := p.Reports.Get(r.Context(), key)
	if err != nil {
		return content{}, err
	}
	b := boot{Of: m, Detail: document.Detail(), Console: document.Console}
	if i := slices.IndexFunc(boots, func(one reports.Boot) bool { return one.ID == id }); i >= 0 {
		b.Boot = boots[i]
	}
	b.Traffic = b.Detail.Traffic(p.Reports.Publisher)
	b.Rows, b.Total = waterfall(b.Detail)
	return content{name: "boot", title: "Boot of " + cmp.Or(m.Hostname, short(m.Key)), live: true, data: b}, nil
}

// waterfall places the steps of the boot and of its target on one line of time.
func waterfall(d bootreport.Detail) (rows []stepRow, total time.Duration) {
	for _, s := range d.Steps {
		rows = append(rows, stepRow{Step: s})
	}
	for _, s := range d.Target {
		s.At += d.TargetAt
		rows = append(rows, stepRow{Step: s, Target: true})
	}
	for _, r := range rows {
		total = max(total, r.At+r.Took)
	}
	for i := range rows {
		r, whole := &rows[i], max(total.Milliseconds(), 1)
		r.X = min(r.At.Milliseconds()*1000/whole, 997)
		r.Width = min(max(r.Took.Milliseconds()*1000/whole, 3), 1000-r.X)
	}
	return rows, total
}
