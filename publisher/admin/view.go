package admin

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"html/template"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

//go:embed views
var views embed.FS

var functions = template.FuncMap{
	"safe": safe, "short": short, "bytes": bytesText, "duration": duration, "rollout": (*manifest.Rollout).Words, "others": othersWords, "join": strings.Join,
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
