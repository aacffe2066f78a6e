package publisher

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/reports"
)

const monitoring = "../docs/monitoring/"

// expressions returns the PromQL expressions of the dashboard and of the alerts, and the labels that their texts name.
func expressions(t *testing.T) (panels, alerts, labels []string) {
	t.Helper()
	data, err := os.ReadFile(monitoring + "phase-boot.json")
	pubtest.Check(t, err)
	var d struct {
		Panels []struct {
			ID      int    `json:"id"`
			Type    string `json:"type"`
			Targets []struct {
				Expr   string `json:"expr"`
				Legend string `json:"legendFormat"`
			} `json:"targets"`
		} `json:"panels"`
	}
	pubtest.Check(t, json.Unmarshal(data, &d))
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || (p.Type != "row") != (len(p.Targets) > 0) {
			t.Errorf("panel %d: twice, or without an expression", p.ID)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			panels = append(panels, target.Expr)
			for _, m := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(target.Legend, -1) {
				labels = append(labels, m[1])
			}
		}
	}
	data, err = os.ReadFile(monitoring + "phase-boot.rules.yml")
	pubtest.Check(t, err)
	for _, m := range regexp.MustCompile(`(?m)^ +expr: (?:\|\n((?: {10}.*\n)+)|(.*)\n)`).FindAllStringSubmatch(string(data), -1) {
		alerts = append(alerts, m[1]+m[2])
	}
	for _, m := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(string(data), -1) {
		labels = append(labels, m[1])
	}
	if n := strings.Count(string(data), "- alert:"); n != len(alerts) || n < 10 || len(panels) < 30 {
		t.Fatalf("%d alerts, %d expressions of them, %d of panels", n, len(alerts), len(panels))
	}
	return panels, alerts, labels
}

// ofTheScrape are the labels and metrics that Prometheus adds.
var ofTheScrape = []string{"instance", "job", "up", "severity"}

// watched serves a release, with settings, a mirror and a machine that an operator has accepted, and returns the metrics.
func watched(t *testing.T) string {
	t.Helper()
	w := newWorld(t)
	var record []byte
	mirror := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { rw.Write(record) }))
	t.Cleanup(mirror.Close)
	w.HTTPS = []string{mirror.URL, "http://127.0.0.1:9"}
	w.NextRoot(2, w.Root)
	w.delegateConfig(2)
	w.Add(w.Sign(1, "v1", w.Release))
	_, err := w.publishConfig(w.signConfig(1, "one"))
	pubtest.Check(t, err)
	opts := w.serveOptions()
	opts.DHT = DHTOff
	first, stop := w.serve(opts)
	_, text := get(t, first.HTTP[0]+"/ipns/"+first.IPNS+"?format=ipns-record")
	record = []byte(text)
	stop()
	opts.Metrics = "127.0.0.1:0"
	r, _ := w.serve(opts)
	key := pubtest.NewKey(t)
	send := func(boot int, report string) {
		document, err := bootreport.Sign(t.Context(), bootreport.Document{BootID: fmt.Sprintf("%032x", boot), Report: json.RawMessage(report), SentAt: time.Now()}, key)
		pubtest.Check(t, err)
		resp, err := http.Post(r.HTTP[0]+bootreport.Path, bootreport.MediaType, bytes.NewReader(document))
		pubtest.Check(t, err)
		resp.Body.Close()
	}
	send(1, `{"result":"ok","release":{"channel":"stable","release":"v1"}}`)
	db, err := reports.Open(t.Context(), filepath.Join(opts.Store, ReportsFile), reports.Options{Existing: true})
	pubtest.Check(t, err)
	defer db.Close()
	_, err = db.AcceptAll(t.Context())
	pubtest.Check(t, err)
	send(2, `{"result":"failed","release":{"channel":"stable","release":"v1"}}`)
	get(t, r.HTTP[0]+"/ipns/"+r.IPNS+"?format=ipns-record")
	var metrics string
	eventually(t, "the metrics of the mirrors", func() bool {
		_, metrics = get(t, r.Metrics[0]+"/metrics")
		return strings.Contains(metrics, "phasepublish_mirror_version{")
	})
	for _, want := range []string{
		`phasepublish_boot_results_total{result="ok",state="unverified"} 1`, `phasepublish_boot_results_total{result="failed",state="accepted"} 1`,
		`phasepublish_machines_by_release{channel="stable",release="v1",result="failed"} 1`, "phasepublish_machines_failed 1\n",
		`phasepublish_mirror_up{mirror="` + mirror.URL + `"} 1`, `phasepublish_mirror_up{mirror="http://127.0.0.1:9"} 0`,
		`phasepublish_mirror_version{mirror="` + mirror.URL + `"} 2`, `phasepublish_mirror_version{mirror="http://127.0.0.1:9"} 0`,
		`phasepublish_problems{kind="damaged"} 0`, "phasepublish_store_faults_total 0\n", `phasepublish_reports_displaced_total{state="accepted"} 0`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
	_, status := get(t, r.Metrics[0]+"/status")
	if !strings.Contains(status, `{"mirror":"http://127.0.0.1:9","version":0,"problem":"IPNS record: unreachable`) {
		t.Errorf("mirrors of /status: %s", status)
	}
	return metrics
}

// TestDashboardAndAlertsNameMetricsOfADaemon compares each metric, label and value of a label in docs/monitoring with the
// metrics of a daemon that serves.
func TestDashboardAndAlertsNameMetricsOfADaemon(t *testing.T) {
	t.Parallel()
	metrics := watched(t)
	panels, alerts, words := expressions(t)
	used := map[string]bool{}
	for _, expr := range append(panels, alerts...) {
		checkExpression(t, metrics, expr, used)
	}
	labels := regexp.MustCompile(`[{,](\w+)="`).FindAllStringSubmatch(metrics, -1)
	for _, word := range words {
		if !slices.Contains(ofTheScrape, word) && !slices.ContainsFunc(labels, func(m []string) bool { return m[1] == word }) {
			t.Errorf("no metric has the label %s", word)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (phasepublish_\w+)`).FindAllStringSubmatch(metrics, -1) {
		if !used[m[1]] {
			t.Errorf("neither the dashboard nor an alert shows %s", m[1])
		}
	}
}

// checkExpression checks the selectors and the grouping of an expression.
func checkExpression(t *testing.T, metrics, expr string, used map[string]bool) {
	t.Helper()
	found := regexp.MustCompile(`\b(phasepublish_\w+|process_\w+|go_\w+|up)\b(?:{([^}]*)})?`).FindAllStringSubmatch(expr, -1)
	if len(found) == 0 {
		t.Errorf("%s: no metric", expr)
	}
	var labels []string // of the metrics of this expression
	for _, m := range found {
		if slices.Contains(ofTheScrape, m[1]) {
			continue
		}
		used[m[1]] = true
		series := regexp.MustCompile(`(?m)^`+m[1]+`(?:{(.*)})? `).FindAllStringSubmatch(metrics, -1)
		if len(series) == 0 {
			t.Errorf("%s: no metric %s", expr, m[1])
			continue
		}
		for _, l := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(series[0][1], -1) {
			labels = append(labels, l[1])
		}
		for _, l := range regexp.MustCompile(`(\w+)(=~|!~|!=|=)"([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
			if slices.Contains(ofTheScrape, l[1]) {
				continue
			}
			pattern := regexp.QuoteMeta(l[3])
			if strings.HasSuffix(l[2], "~") {
				pattern = l[3]
			}
			matches := regexp.MustCompile(`(?:^|,)` + l[1] + `="(?:` + pattern + `)"(?:,|$)`)
			if !slices.ContainsFunc(series, func(s []string) bool { return matches.MatchString(s[1]) }) {
				t.Errorf("%s: no series of %s has %s %s", expr, m[1], l[1], l[3])
			}
		}
	}
	for _, m := range regexp.MustCompile(`\b(?:by|on|without|ignoring) \(([^)]*)\)`).FindAllStringSubmatch(expr, -1) {
		for _, label := range strings.Split(m[1], ", ") {
			if !slices.Contains(labels, label) && !slices.Contains(ofTheScrape, label) {
				t.Errorf("%s: no label %s", expr, label)
			}
		}
	}
}

// TestPrometheusTakesTheRulesAndTheyFire lets promtool read every expression, and run the tests of the alerts.
func TestPrometheusTakesTheRulesAndTheyFire(t *testing.T) {
	t.Parallel()
	promtool := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %q: %v; if it is missing, run: apt-get install prometheus\n%s", args, err, out)
		}
	}
	promtool("check", "rules", monitoring+"phase-boot.rules.yml")
	promtool("test", "rules", monitoring+"phase-boot.rules.test.yml")
	panels, alerts, _ := expressions(t)
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	for i, expr := range panels {
		rules = append(rules, rule{fmt.Sprintf("panel:%d", i), strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$instance", ".*").Replace(expr)})
	}
	data, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}}) // which is YAML
	pubtest.Check(t, err)
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	pubtest.Check(t, os.WriteFile(file, data, 0o600))
	promtool("check", "rules", file)
	tests, err := os.ReadFile(monitoring + "phase-boot.rules.test.yml")
	pubtest.Check(t, err)
	text, err := os.ReadFile(monitoring + "phase-boot.rules.yml")
	pubtest.Check(t, err)
	names := regexp.MustCompile(`(?m)- alert: (\w+)$`).FindAllStringSubmatch(string(text), -1)
	if len(names) != len(alerts) {
		t.Errorf("%d names, %d alerts", len(names), len(alerts))
	}
	for _, m := range names {
		if !strings.Contains(string(tests), m[1]) {
			t.Errorf("no test of the alert %s", m[1])
		}
	}
}

// Names of releases come from machines: few of them become labels, and none makes a series twice, which would end the scrape.
func TestFewReleasesBecomeLabels(t *testing.T) {
	l := Live{Machines: &reports.Stats{Accepted: reports.Usage{Machines: 1000}, Failed: 30}}
	l.running = []reports.Running{
		{Accepted: true, Machines: 100, Failed: 10},
		{Accepted: true, Channel: "none", Release: "none", Machines: 50},
		{Accepted: true, Channel: "other", Release: "other", Machines: 40, Failed: 1},
	}
	for i := range 100 {
		l.running = append(l.running, reports.Running{Accepted: true, Channel: "stable", Release: fmt.Sprint(i), Machines: 3})
	}
	l.running = append(l.running, reports.Running{Channel: "stable", Release: "forged", Machines: 3})
	got, machines := map[string]float64{}, 0.0
	for _, s := range byRelease(l) {
		name := strings.Join(s.labels, " ")
		if _, twice := got[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		got[name] = s.value
		machines += s.value
	}
	if machines != 1000 || len(got) > 2*maxReleases+2 || got["none none failed"] != 10 || got["none none ok"] != 140 || got["other other failed"] != 20 || got["stable 0 ok"] != 3 {
		t.Errorf("%v machines, %v", machines, got)
	}
	l.running = []reports.Running{{Channel: "stable", Release: "forged", Machines: 3}}
	l.Machines = &reports.Stats{}
	if list := byRelease(l); len(list) > 0 {
		t.Errorf("unverified machines make series: %v", list)
	}
}
