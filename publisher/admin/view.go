package admin

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/reports"
)

//go:embed views
var views embed.FS

var functions = template.FuncMap{
	"safe": safe, "short": short, "bytes": bytesText, "duration": duration, "rollout": rolloutWords, "join": strings.Join,
	"millis": func(ms int64) string { return duration(time.Duration(ms) * time.Millisecond) },
	"when":   when,
}

// templates has the template of each view, within that of the page.
var templates = func() map[string]*template.Template {
	all := map[string]*template.Template{}
	base := template.Must(template.New("page.html").Funcs(functions).ParseFS(views, "views/page.html"))
	names, _ := fs.Glob(views, "views/*.html") // an error only for a malformed pattern
	for _, path := range names {
		if name := strings.TrimSuffix(strings.TrimPrefix(path, "views/"), ".html"); name != "page" {
			all[name] = template.Must(template.Must(base.Clone()).ParseFS(views, path))
		}
	}
	return all
}()

// A content is what a view shows.
type content struct {
	name   string // of the template
	title  string
	status int // 0 is 200
	live   bool
	data   any
}

// A view reads what a request asks for.
type view func(*http.Request) (content, error)

// page is the data of the template of the page.
type page struct {
	Title, Section string
	Live           bool
	Now            time.Time
	Nav            []link
	Form           string // token for forms, "" for a page that knows no readers
	LogOut         bool
	Data           any
}

type link struct {
	Path, Text string
	Current    bool
}

var sections = []link{
	{Path: "/", Text: "Overview"},
	{Path: "/heads", Text: "Heads"},
	{Path: "/machines", Text: "Machines"},
	{Path: "/traffic", Text: "Traffic"},
	{Path: "/receipts", Text: "Receipts"},
}

// view answers with a view, or with the page of its error.
func (p *Page) view(of view) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := of(r)
		if err != nil {
			p.failWith(w, r, err)
			return
		}
		p.write(w, r, c)
	})
}

func (p *Page) write(w http.ResponseWriter, r *http.Request, c content) {
	out := page{Title: c.title, Live: c.live, Now: p.Now().UTC(), Data: c.data}
	if c.name != "login" {
		for _, l := range sections {
			l.Current = l.Path == r.URL.Path || l.Path != "/" && strings.HasPrefix(r.URL.Path, l.Path+"/")
			out.Nav = append(out.Nav, l)
		}
		if p.guard.decides() {
			out.Form = p.guard.formToken(r)
		}
		out.LogOut = strings.HasPrefix(readerOf(r), "session ")
	}
	var b bytes.Buffer
	if err := templates[c.name].ExecuteTemplate(&b, "page.html", out); err != nil {
		p.Log.Error("admin page: not shown", "view", c.name, "cause", err)
		http.Error(w, "this view has a fault; see the log of the publisher", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if c.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="phase-publish"`)
	}
	if c.status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", retryToken)
	}
	w.WriteHeader(cmp.Or(c.status, http.StatusOK))
	if r.Method != http.MethodHead {
		w.Write(b.Bytes())
	}
}

// failWith answers with the page of an error.
func (p *Page) failWith(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		status = http.StatusNotFound
	case errors.Is(err, fs.ErrInvalid):
		status = http.StatusBadRequest
	default:
		p.Log.Error("admin page: not shown", "path", r.URL.Path, "cause", err)
	}
	p.fail(w, r, status, err.Error())
}

func (p *Page) fail(w http.ResponseWriter, r *http.Request, status int, words string) {
	p.write(w, r, content{name: "error", title: http.StatusText(status), status: status, data: words})
}

func (p *Page) notFound(*http.Request) (content, error) {
	return content{name: "error", title: "Not found", status: http.StatusNotFound, data: "this page has no such view; go to the overview"}, nil
}

// login is the data of the form that asks for the token.
type login struct {
	Next  string
	Wrong bool
	Many  bool // wrong ones: none is compared now
}

func (p *Page) loginView(r *http.Request) (content, error) {
	next := r.URL.RequestURI()
	if r.URL.Path == "/login" || r.Method != http.MethodGet {
		next = "/"
	}
	return content{name: "login", title: "Log in", status: http.StatusUnauthorized, data: login{Next: next}}, nil
}

func (p *Page) wrongToken(r *http.Request) (content, error) {
	return content{name: "login", title: "Log in", status: http.StatusUnauthorized, data: login{Next: ownPath(r.PostFormValue("next")), Wrong: true}}, nil
}

func (p *Page) tooManyTokens(r *http.Request) (content, error) {
	return content{name: "login", title: "Log in", status: http.StatusTooManyRequests, data: login{Next: ownPath(r.PostFormValue("next")), Many: true}}, nil
}

// A releaseRow is one release of a channel, for the machines of its roll-out.
type releaseRow struct {
	manifest.Release
	Earlier  bool // for machines that do not take the newest
	SignedBy manifest.Signatures
	Refused  string // why machines refuse the channel
}

type overview struct {
	State
	Rows    []releaseRow
	Dates   []repo.FileDate // the one that expires first is first
	Stats   *reports.Stats
	Running []reports.Running
}

func (p *Page) overview(r *http.Request) (content, error) {
	s, err := p.currentState(r.Context())
	if err != nil {
		return content{}, err
	}
	o := overview{State: s, Dates: slices.Clone(s.Verdict.Files)}
	slices.SortStableFunc(o.Dates, func(a, b repo.FileDate) int { return a.Expires.Compare(b.Expires) })
	for _, rel := range s.Releases {
		signed := s.signatures(rel)
		for i, one := range rel.All() {
			o.Rows = append(o.Rows, releaseRow{one, i > 0, signed, s.refused(rel)})
		}
	}
	if p.Reports != nil {
		stats, err := p.Reports.Stats(r.Context())
		if err != nil {
			return content{}, err
		}
		o.Stats = &stats
		if o.Running, err = p.running.get(r.Context(), p.Now(), p.Reports.Running); err != nil {
			return content{}, err
		}
	}
	return content{name: "overview", title: "Overview", live: true, data: o}, nil
}

// signatures counts the signatures of a release by the keys that targets.json lists.
func (s State) signatures(rel manifest.Release) manifest.Signatures {
	name, err := manifest.RoleName(rel.Channel, rel.Arch)
	if err != nil {
		return manifest.Signatures{}
	}
	role, err := manifest.Open(s.Files[manifest.FileName(name, rel.Number)])
	if err != nil {
		return manifest.Signatures{}
	}
	for _, f := range s.Verdict.Files {
		if f.Name == "targets.json" {
			if targets, err := manifest.Open(s.Files[manifest.FileName("targets", f.Version)]); err == nil {
				return role.SignaturesFor(targets)
			}
		}
	}
	return role.SignaturesFor(nil)
}

// refused says why machines refuse the channel of a release, "" if they accept it.
func (s State) refused(rel manifest.Release) string {
	for _, c := range s.Verdict.Channels {
		if c.Channel == rel.Channel && c.Arch == rel.Arch {
			return c.Refused
		}
	}
	return ""
}

type heads struct {
	State
	Own     repo.FileDate // the timestamp of this publisher
	Mirrors []mirrorRow
}

type mirrorRow struct {
	mirror
	Good  bool
	Words string // how it compares with this publisher
}

func (p *Page) heads(r *http.Request) (content, error) {
	s, err := p.currentState(r.Context())
	if err != nil {
		return content{}, err
	}
	h := heads{State: s}
	for _, f := range s.Verdict.Files {
		if f.Name == "timestamp.json" {
			h.Own = f
		}
	}
	for _, m := range p.mirrors.current() {
		h.Mirrors = append(h.Mirrors, mirrorRow{m, m.Fault == "" && m.Head == s.Head, s.compare(m)})
	}
	return content{name: "heads", title: "Heads", live: true, data: h}, nil
}

// compare says how the head of a mirror compares with the one of this publisher.
func (s State) compare(m mirror) string {
	switch n := s.Timestamp - m.Timestamp; {
	case m.Fault != "":
		return m.Fault
	case m.Head == s.Head:
		return "the same head"
	case n > 0:
		return fmt.Sprintf("%d behind: export to it again", n)
	case n < 0:
		return fmt.Sprintf("%d ahead: another publisher signs for it", -n)
	}
	return "the same version with other content: two publishers sign"
}

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

type traffic struct {
	State
	Taken bool
	Rows  []trafficRow
}

type trafficRow struct {
	Text string
	bootreport.Share
	Parts []part
}

// A part is one rectangle of a bar. X and Width are in thousandths.
type part struct {
	Class    string
	X, Width int64
}

func (t trafficRow) Sum() int64 { return t.Disk + t.Servers + t.Neighbours }

// Percent is how much came from neighbours of what came over the network.
func (t trafficRow) Percent() string {
	network := float64(t.Servers) + float64(t.Neighbours)
	if network == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f %%", 100*float64(t.Neighbours)/network)
}

func (p *Page) traffic(r *http.Request) (content, error) {
	s, err := p.currentState(r.Context())
	if err != nil {
		return content{}, err
	}
	out := traffic{State: s, Taken: p.Reports != nil}
	for i, text := range []string{"unverified", "verified"} {
		if p.Reports == nil {
			break
		}
		share, err := p.read[i].get(r.Context(), p.Now(), func(ctx context.Context) (bootreport.Share, error) { return p.Reports.Traffic(ctx, i == 1) })
		if err != nil {
			return content{}, err
		}
		out.Rows = append([]trafficRow{{text, share, parts(share)}}, out.Rows...)
	}
	return content{name: "traffic", title: "Traffic", live: true, data: out}, nil
}

// parts divides a bar by the bytes of a share.
func parts(s bootreport.Share) (list []part) {
	sum := float64(s.Disk) + float64(s.Servers) + float64(s.Neighbours)
	x := int64(0)
	for _, one := range []struct {
		class string
		bytes int64
	}{{"disk", s.Disk}, {"servers", s.Servers}, {"neighbours", s.Neighbours}} {
		if sum > 0 {
			width := int64(1000 * float64(one.bytes) / sum)
			list = append(list, part{one.class, x, width})
			x += width
		}
	}
	return list
}

type receiptRow struct {
	receiptFile
	Known    bool // the machine has reported
	Accepted bool
	Hostname string
}

type receipts struct {
	Dir  string
	List []receiptRow
	More bool
}

func (p *Page) receiptsView(r *http.Request) (content, error) {
	out := receipts{Dir: p.Receipts}
	if p.Receipts != "" && p.ReadReceipt != nil {
		files, more, err := p.receipts.list(p.Receipts, p.ReadReceipt)
		if err != nil {
			return content{}, err
		}
		out.More = more
		for _, f := range files {
			row := receiptRow{receiptFile: f}
			if p.Reports != nil && f.Fault == "" {
				if m, _, err := p.Reports.Get(r.Context(), f.Machine); err == nil {
					row.Known, row.Accepted, row.Hostname = true, m.Accepted, m.Hostname
				}
			}
			out.List = append(out.List, row)
		}
	}
	return content{name: "receipts", title: "Receipts", live: true, data: out}, nil
}
