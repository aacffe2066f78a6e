package admin

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/browser"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

// axe is the script of axe-core, which scripts/deps-check.sh installs.
func axe(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	pubtest.Check(t, err)
	data, err := os.ReadFile(filepath.Join(cache, "phaseboot/axe/node_modules/axe-core/axe.min.js"))
	if err != nil {
		t.Fatalf("axe-core: %v; run scripts/deps-check.sh --install test", err)
	}
	return string(data)
}

// findings runs all rules of axe-core in a page, those of best practice too.
const findings = `axe.run(document, {preload: false, resultTypes: ["violations"]}).then((r) =>
	r.violations.map((v) => v.id + ": " + v.help + ": " + v.nodes.map((n) => n.html.slice(0, 200) + " (" + n.failureSummary + ")").join("; ")))`

// A visitor opens pages in one browser.
type visitor struct {
	t *testing.T
	*browser.Browser
}

func newVisitor(t *testing.T) visitor {
	t.Helper()
	b, err := browser.Start(t.Context())
	pubtest.Check(t, err)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("%v\n%s", err, b.Output())
		}
	})
	return visitor{t: t, Browser: b}
}

func (v visitor) open(url string, o browser.Options) *browser.Page {
	v.t.Helper()
	p, err := v.Open(v.t.Context(), url, o)
	pubtest.Check(v.t, err)
	return p
}

// eval evaluates an expression of JavaScript in a page.
func eval[T any](v visitor, p *browser.Page, expression string) (value T) {
	v.t.Helper()
	pubtest.Check(v.t, p.Eval(v.t.Context(), expression, &value))
	return value
}

// faultless reports what a page asked other hosts for, and what its console says. The status of a view is no fault.
func (v visitor) faultless(p *browser.Page, base, what string) {
	v.t.Helper()
	for _, url := range p.Requests() {
		if !strings.HasPrefix(url, base+"/") {
			v.t.Errorf("%s: a request to %s", what, url)
		}
	}
	for _, problem := range p.Problems() {
		if !strings.Contains(problem, "status of 401") && !strings.Contains(problem, "status of 404") {
			v.t.Errorf("%s: %s", what, problem)
		}
	}
}

// fullSite has something to show in every view.
func fullSite(t *testing.T) (*site, []machineSpec, Config) {
	t.Helper()
	s := newSite(t)
	c := s.receipts()
	c.Mirrors = []string{s.mirror().URL, "http://127.0.0.1:1"}
	return s, s.fleet(), c
}

// Each view, in light and dark, has no finding of axe-core, no fault in the console, no violation of the policy, and asks
// no other host. It fits on a screen of 320 pixels.
func TestEachViewInABrowser(t *testing.T) {
	if testing.Short() {
		return // make test installs Chromium and axe-core
	}
	s, fleet, c := fullSite(t)
	c.Token = s.tokenFile()
	_, web := s.page(c)
	script, v := axe(t), newVisitor(t)
	look := func(path string, o browser.Options) {
		p := v.open(web.URL+path, o)
		pubtest.Check(t, p.Eval(t.Context(), script+";0", nil))
		for name, o := range map[string]browser.Options{"light": {}, "dark": {Dark: true}, "narrow": {Width: 320, Height: 600}} {
			pubtest.Check(t, p.Look(t.Context(), o))
			for _, finding := range eval[[]string](v, p, findings) {
				t.Errorf("%s, %s: %s", path, name, finding)
			}
			if width := eval[int](v, p, "document.documentElement.scrollWidth"); o.Width > 0 && width > o.Width {
				t.Errorf("%s: %d pixels wide", path, width)
			}
		}
		v.faultless(p, web.URL, path)
		pubtest.Check(t, p.Close(t.Context()))
	}
	for _, path := range paths(fleet[1:2], fleet[3:]) {
		look(path, browser.Options{Header: map[string]string{"Authorization": "Bearer " + token}})
	}
	look("/login?asks=for the token", browser.Options{})
}

// focused describes what has the focus: its place in the document and whether a person sees that it has it.
const focused = `(() => {
	const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
	const all = [...document.querySelectorAll("*")];
	return {at: all.indexOf(e), tag: e.tagName, seen: s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 && r.width > 0 && r.height > 0 && r.left >= 0};
})()`

// reachable lists the places of all links and controls.
const reachable = `[...document.querySelectorAll("*")].flatMap((e, i) =>
	e.matches("a[href], button, select, summary, input:not([type=hidden]), [tabindex='0']") && e.checkVisibility() ? [i] : [])`

// Tab reaches every link and control of each view, and shows where it is.
func TestTheKeyboardReachesEverything(t *testing.T) {
	if testing.Short() {
		return
	}
	s, fleet, c := fullSite(t)
	c.Token = s.tokenFile()
	_, web := s.page(c)
	v := newVisitor(t)
	ctx := t.Context()
	for _, path := range paths(fleet[1:2], fleet[3:]) {
		p := v.open(web.URL+path, browser.Options{Header: map[string]string{"Authorization": "Bearer " + token}})
		all := eval[[]int](v, p, reachable)
		seen := map[int]bool{}
		for range len(all) + 3 {
			pubtest.Check(t, p.Press(ctx, "Tab"))
			f := eval[struct {
				At   int
				Tag  string
				Seen bool
			}](v, p, focused)
			if f.Tag == "BODY" || seen[f.At] {
				break
			}
			seen[f.At] = true
			if !f.Seen {
				t.Errorf("%s: the focus on %s %d is not to be seen", path, f.Tag, f.At)
			}
		}
		for _, at := range all {
			if !seen[at] {
				t.Errorf("%s: Tab does not reach %s", path, eval[string](v, p, fmt.Sprintf(`document.querySelectorAll("*")[%d].outerHTML.slice(0, 200)`, at)))
			}
		}
		pubtest.Check(t, p.Close(ctx))
	}
}

// A person without a pointer logs in, goes to a machine, accepts its key, and looks at its boot.
func TestAnOperatorWorksWithTheKeyboard(t *testing.T) {
	if testing.Short() {
		return
	}
	s, fleet, c := fullSite(t)
	c.Token = s.tokenFile()
	_, web := s.page(c)
	v := newVisitor(t)
	ctx := t.Context()
	p := v.open(web.URL+"/machines?state=unverified", browser.Options{})
	at := func() string { return eval[string](v, p, "location.pathname") }
	// to moves the focus to an element that a selector names.
	to := func(selector string) {
		t.Helper()
		for range 60 {
			if eval[bool](v, p, fmt.Sprintf("document.activeElement.matches(%q)", selector)) {
				return
			}
			pubtest.Check(t, p.Press(ctx, "Tab"))
		}
		t.Fatalf("%s: Tab does not reach %s", at(), selector)
	}
	// enter presses Enter and waits until the next view is there.
	enter := func(want string) {
		t.Helper()
		loaded := p.Loaded()
		pubtest.Check(t, p.Press(ctx, "Enter"))
		pubtest.Check(t, p.Wait(ctx, loaded))
		if at() != want {
			t.Fatalf("at %s, want %s", at(), want)
		}
	}
	key := fleet[3].name()
	to("#token")
	pubtest.Check(t, p.Call(ctx, "Input.insertText", map[string]string{"text": token}, nil))
	enter("/machines")
	pubtest.Check(t, p.Press(ctx, "Tab"))
	if !eval[bool](v, p, `document.activeElement.matches(".skip")`) {
		t.Error("the first link does not skip the views")
	}
	pubtest.Check(t, p.Press(ctx, "Enter"))
	if !eval[bool](v, p, `location.hash === "#main" && document.activeElement.id === "main"`) {
		t.Error("the link that skips does not lead to the content")
	}
	to(fmt.Sprintf("#live a[href='/machines/%s']", key))
	enter("/machines/" + key)
	to(fmt.Sprintf("form[action='/machines/%s/accept'] button", key))
	enter("/machines/" + key)
	if m, _, err := s.reports.Get(ctx, key); err != nil || !m.Accepted {
		t.Errorf("not accepted: %v", err)
	}
	to("#live a[href*='/boots/']")
	enter(fmt.Sprintf("/machines/%s/boots/%032x", key, 4))
	to("header nav a[href='/heads']")
	enter("/heads")
	to("header form button")
	enter("/")
	if eval[string](v, p, "document.title") != "Log in – phase-publish" {
		t.Error("the session has not ended")
	}
	v.faultless(p, web.URL, "the way of an operator")
}

// Every view says without JavaScript what it says with it.
func TestThePageWithoutJavaScript(t *testing.T) {
	if testing.Short() {
		return
	}
	s, fleet, c := fullSite(t)
	_, web := s.page(c)
	v := newVisitor(t)
	for _, path := range paths(fleet[1:2], fleet[3:]) {
		with, without := v.open(web.URL+path, browser.Options{}), v.open(web.URL+path, browser.Options{NoScript: true})
		const text = `document.getElementById("main").innerText`
		if a, b := eval[string](v, with, text), eval[string](v, without, text); a != b || len(b) < 10 {
			t.Errorf("%s: with JavaScript:\n%s\nwithout:\n%s", path, a, b)
		}
		if slices.Contains(without.Requests(), web.URL+"/events") {
			t.Errorf("%s: a page without JavaScript follows changes", path)
		}
		v.faultless(without, web.URL, path)
		pubtest.Check(t, with.Close(t.Context()))
		pubtest.Check(t, without.Close(t.Context()))
	}
}

// A new report appears in an open page, which is not loaded again, and keeps the focus where it is.
func TestANewReportAppearsInAnOpenPage(t *testing.T) {
	if testing.Short() {
		return
	}
	s, fleet, c := fullSite(t)
	p, web := s.page(c)
	v := newVisitor(t)
	ctx := t.Context()
	open := v.open(web.URL+"/machines", browser.Options{})
	until(t, "the page follows changes", func() bool {
		p.events.mu.Lock()
		defer p.events.mu.Unlock()
		return p.events.open == 1
	})
	kept := fmt.Sprintf(`#live a[href="/machines/%s"]`, fleet[1].name())
	pubtest.Check(t, open.Eval(ctx, fmt.Sprintf("window.mark = 1; document.querySelector(%q).focus()", kept), nil))
	s.report(machineSpec{key: pubtest.NewKey(t), host: "brand-new", mode: "local", release: "v9", as: "ok", boot: 9, at: s.now(), duration: 5000})
	until(t, "the new machine is shown", func() bool {
		return eval[bool](v, open, `document.getElementById("live").innerText.includes("brand-new")`)
	})
	if !eval[bool](v, open, fmt.Sprintf("window.mark === 1 && document.activeElement.matches(%q)", kept)) {
		t.Errorf("the page was loaded again, or the focus is lost: %s", eval[string](v, open, "document.activeElement.outerHTML.slice(0, 200)"))
	}
	if words := eval[string](v, open, `document.querySelector("[role=status][aria-live=polite]").textContent`); !strings.HasPrefix(words, "Updated at ") {
		t.Errorf("a screen reader hears %q", words)
	}
	pubtest.Check(t, open.Eval(ctx, axe(t)+";0", nil))
	for _, finding := range eval[[]string](v, open, findings) {
		t.Error(finding)
	}
	v.faultless(open, web.URL, "an open page")
}

// An open page says that its connection is lost, and shows afterwards what has changed meanwhile.
func TestALostConnectionIsTold(t *testing.T) {
	if testing.Short() {
		return
	}
	s, _, c := fullSite(t)
	p, web := s.page(c)
	v := newVisitor(t)
	open := v.open(web.URL+"/machines", browser.Options{})
	until(t, "the page follows changes", func() bool {
		p.events.mu.Lock()
		defer p.events.mu.Unlock()
		return p.events.open == 1
	})
	lost := `document.getElementById("lost").textContent`
	if words := eval[string](v, open, lost); words != "" {
		t.Errorf("it says %q", words)
	}
	web.CloseClientConnections()
	until(t, "the loss is told", func() bool { return strings.HasPrefix(eval[string](v, open, lost), "Connection lost: shown as of 2") })
	s.report(machineSpec{key: pubtest.NewKey(t), host: "brand-new", mode: "local", release: "v9", as: "ok", boot: 9, at: s.now(), duration: 5000})
	until(t, "the new machine is shown", func() bool {
		return eval[bool](v, open, `document.getElementById("live").innerText.includes("brand-new")`)
	})
	until(t, "the loss has ended", func() bool { return eval[string](v, open, lost) == "" })
}

// until waits for what has no event.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(pubtest.Patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, pubtest.Patience)
		}
	}
}

// TestScreenshotsOfThePage writes the pictures of the documents to the folder PHASE_PAGE_SHOTS (make screenshots).
func TestScreenshotsOfThePage(t *testing.T) {
	dir := os.Getenv("PHASE_PAGE_SHOTS")
	if dir == "" {
		return
	}
	s, fleet := demoSite(t)
	p, web := s.page(Config{Mirrors: []string{s.mirror().URL}})
	state, err := s.state(t.Context())
	pubtest.Check(t, err)
	p.mirrors.set(0, p.mirrors.ask(t.Context(), p.mirrors.clients[0], state, nil))
	v := newVisitor(t)
	for name, shot := range map[string]struct {
		path string
		o    browser.Options
	}{
		"page-overview": {"/", browser.Options{Width: 1100, Height: 900}},
		"page-machines": {"/machines", browser.Options{Width: 1100, Height: 620}},
		"page-boot":     {fmt.Sprintf("/machines/%s/boots/%032x", fleet[1].name(), 2), browser.Options{Width: 1100, Height: 900, Dark: true}},
	} {
		data, err := v.open(web.URL+shot.path, shot.o).Screenshot(t.Context())
		pubtest.Check(t, err)
		if len(data) > 150<<10 {
			t.Errorf("%s: %d bytes, too many for a document", name, len(data))
		}
		pubtest.Check(t, os.WriteFile(filepath.Join(dir, name+".png"), data, 0o644))
	}
}

// demoSite has what a picture shows: a small fleet of which one machine has failed, and no hostile text.
func demoSite(t *testing.T) (*site, []machineSpec) {
	t.Helper()
	s := newSite(t)
	s.healthy = true
	now := s.now()
	defer s.setNow(now)
	var all []machineSpec
	for i := range 9 {
		s.setNow(now.Add(-time.Duration(i*7+2) * time.Minute))
		m := machineSpec{key: pubtest.NewKey(t), host: fmt.Sprintf("kiosk-%02d", i+1), mode: "local", release: "v1", as: "ok", boot: i + 1, at: s.now(), duration: 8200 + 310*i}
		if i == 1 {
			m.as, m.failure, m.noTarget = "failed", "kexec: the kernel is not signed for this machine's Secure Boot", true
		}
		s.report(m)
		if i < 8 {
			pubtest.Check(t, s.reports.Accept(t.Context(), m.name()))
		}
		all = append(all, m)
	}
	return s, all
}
