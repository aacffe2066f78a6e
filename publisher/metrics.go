package publisher

import (
	"cmp"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/publisher/reports"
)

const namespace = "phasepublish"

const refusedSlow = "slow" // the client reads too slowly

// A meter counts the requests and bytes of a daemon, for Prometheus.
type meter struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec // by via and status
	bytes    *prometheus.CounterVec // by via and kind
	refused  *prometheus.CounterVec // by reason
	reports  *prometheus.CounterVec // by outcome
	booted   *prometheus.CounterVec // by state and result
	lost     *prometheus.CounterVec // displaced reports, by state
	faults   prometheus.Counter     // of the store
	open     prometheus.Gauge
	sent     atomic.Int64
}

func newMeter() *meter {
	m := &meter{
		registry: newRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "requests_total", Help: "Answered requests.",
		}, []string{"via", "status"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "sent_bytes_total", Help: "Bytes of bodies sent.",
		}, []string{"via", "kind"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "refused_total", Help: "Plain HTTP connections and answers that a limit ended.",
		}, []string{"why"}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "reports_total", Help: "Boot reports that machines have sent.",
		}, []string{"outcome"}),
		booted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "boot_results_total", Help: "Boots that machines have reported, by their result.",
		}, []string{"state", "result"}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "reports_displaced_total", Help: "Boot reports that were removed because the room of their kind was full.",
		}, []string{"state"}),
		faults: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "store_faults_total", Help: "Blocks that were not served because they are damaged or cannot be read.",
		}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: namespace, Name: "requests_open", Help: "Requests being answered.",
		}),
	}
	m.registry.MustRegister(m.requests, m.bytes, m.refused, m.reports, m.booted, m.lost, m.faults, m.open)
	// from 0, so that an increase is seen
	for _, o := range reports.Outcomes() {
		m.reports.WithLabelValues(string(o))
	}
	for _, why := range []string{limit.PerClient, limit.Full, limit.Evicted, refusedSlow} {
		m.refused.WithLabelValues(why)
	}
	for _, accepted := range []bool{false, true} {
		m.lost.WithLabelValues(stateOf(accepted))
		for _, result := range []string{reports.ResultOK, reports.ResultFailed, reports.ResultOther} {
			m.booted.WithLabelValues(stateOf(accepted), result)
		}
	}
	return m
}

// newRegistry makes a registry with the metrics of the Go runtime and the process.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

func (m *meter) countReport(o reports.Outcome) { m.reports.WithLabelValues(string(o)).Inc() }

func (m *meter) countBoot(accepted bool, result string) {
	m.booted.WithLabelValues(stateOf(accepted), result).Inc()
}

func (m *meter) countDisplaced(accepted bool, boots int64) {
	m.lost.WithLabelValues(stateOf(accepted)).Add(float64(boots))
}

// stateOf returns the label of what an operator has decided of a machine.
func stateOf(accepted bool) string {
	if accepted {
		return "accepted"
	}
	return "unverified"
}

func (m *meter) refuse(reason string) { m.refused.WithLabelValues(reason).Inc() }

// count counts bytes while a body is sent, which may take hours.
func (m *meter) count(via, kind string, bytes int64) {
	m.bytes.WithLabelValues(via, kind).Add(float64(bytes))
	m.sent.Add(bytes)
}

// handler counts the answers of next to requests via "http" or "stream", and logs each at
// the level debug. It is mounted behind limit.Rates.
func (m *meter) handler(via string, next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.open.Inc()
		a, begun, complete := w.(*limit.Answer), time.Now(), false
		a.Sent = func(n int64) { m.count(via, kindOf(a.Header().Get("Content-Type")), n) }
		defer func() {
			m.open.Dec()
			m.requests.WithLabelValues(via, strconv.Itoa(a.Status)).Inc()
			log.Debug("request", "via", via, "from", r.RemoteAddr, "method", r.Method, "url", shortened(r.RequestURI),
				"status", a.Status, "bytes", a.Bytes, "complete", complete, "took", time.Since(begun).Round(time.Microsecond))
		}()
		next.ServeHTTP(a, r)
		complete = true
	})
}

func shortened(url string) string {
	if len(url) > maxLoggedURL {
		return strings.ToValidUTF8(url[:maxLoggedURL], "") + "…"
	}
	return url
}

const maxLoggedURL = 400 // bytes

func kindOf(contentType string) string {
	switch {
	case strings.HasSuffix(contentType, "ipld.raw"):
		return "block"
	case strings.Contains(contentType, "ipld.car"):
		return "car"
	case strings.HasSuffix(contentType, "ipns-record"):
		return "record"
	case contentType == "application/octet-stream":
		return "target"
	}
	return "other"
}

// A gauge is a figure that is read at each scrape.
type gauge struct {
	desc   *prometheus.Desc
	of     func(Live) float64
	series func(Live) []sample // instead of of
}

// A sample is a figure with the values of its labels.
type sample struct {
	value  float64
	labels []string
}

func newGauge(name, help string, of func(Live) float64) gauge {
	return gauge{desc: prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, nil, nil), of: of}
}

// newGauges makes a gauge with a series for each value of a label.
func newGauges(name, help, label string, series func(Live) map[string]float64) gauge {
	return newGaugesBy(name, help, []string{label}, func(l Live) (list []sample) {
		for value, figure := range series(l) {
			list = append(list, sample{figure, []string{value}})
		}
		return list
	})
}

// newGaugesBy makes a gauge with a series for each sample.
func newGaugesBy(name, help string, labels []string, series func(Live) []sample) gauge {
	return gauge{desc: prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil), series: series}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// liveGauges is a prometheus.Collector of the figures of one Live.
type liveGauges struct {
	live   func() Live
	gauges []gauge
}

func (g liveGauges) Describe(out chan<- *prometheus.Desc) {
	for _, one := range g.gauges {
		out <- one.desc
	}
}

func (g liveGauges) Collect(out chan<- prometheus.Metric) {
	l := g.live()
	for _, one := range g.gauges {
		if one.series == nil {
			out <- prometheus.MustNewConstMetric(one.desc, prometheus.GaugeValue, one.of(l))
			continue
		}
		for _, of := range one.series(l) {
			out <- prometheus.MustNewConstMetric(one.desc, prometheus.GaugeValue, of.value, of.labels...)
		}
	}
}

// netGauges are the gauges of any node, serveGauges those of a publisher alone.
var (
	netGauges = []gauge{
		newGauge("peers", "Connected libp2p peers.", func(l Live) float64 { return float64(l.Peers) }),
		newGauge("dht_peers", "Peers in the DHT's routing table.", func(l Live) float64 { return float64(l.DHTPeers) }),
	}
	serveGauges = []gauge{
		newGauge("http_connections", "Open plain HTTP connections.", func(l Live) float64 { return float64(l.HTTPConns) }),
		newGauge("head_version", "Version of the served timestamp.", func(l Live) float64 { return float64(l.Version) }),
		newGauge("head_age_seconds", "Time since this daemon loaded the metadata folder that it serves.", func(l Live) float64 { return l.PointerAge }),
		newGauge("head_expires_timestamp_seconds", "When machines begin to refuse a release, Unix time.", func(l Live) float64 { return float64(l.Expires.Unix()) }),
		newGauges("file_expires_timestamp_seconds", "When a metadata file expires, Unix time.", "file", func(l Live) map[string]float64 {
			out := map[string]float64{}
			for _, f := range l.verdict.Files {
				out[f.Name] = float64(f.Expires.Unix())
			}
			return out
		}),
		newGauges("accepted", "1 while machines accept the release of a channel.", "channel", func(l Live) map[string]float64 {
			out := map[string]float64{}
			for _, c := range l.verdict.Channels {
				out[c.Channel+"/"+c.Arch] = number(c.Accepted)
			}
			return out
		}),
		newGauge("healthy", "1 while /healthz is 200.", func(l Live) float64 { return number(l.healthy) }),
		newGauges("problems", "Problems of what is served, by kind.", "kind", func(l Live) map[string]float64 {
			out := map[string]float64{}
			for kind, word := range kindWords {
				out[word] = float64(l.problems[kind])
			}
			return out
		}),
		newGauge("record_age_seconds", "Time since the IPNS record was signed.", func(l Live) float64 { return l.RecordAge }),
		newGauge("announced_age_seconds", "Time since the oldest announcement in the DHT; -1 until all are made.", func(l Live) float64 { return l.AnnouncedAge }),
		newGauge("announced_cids", "Announced metadata folders and artifacts.", func(l Live) float64 { return float64(l.Announces) }),
		newGauge("store_blocks", "Blocks in the store.", func(l Live) float64 { return float64(l.Store.Blocks) }),
		newGauge("store_bytes", "Bytes of the store's packs.", func(l Live) float64 { return float64(l.Store.Bytes) }),
		newGauges("machines", "Machines that have sent a boot report, by what an operator has decided.", "state", byState(func(u reports.Usage) float64 { return float64(u.Machines) })),
		newGauges("boots", "Boot reports that are kept.", "state", byState(func(u reports.Usage) float64 { return float64(u.Boots) })),
		newGauges("boots_bytes", "Bytes of the boot reports that are kept.", "state", byState(func(u reports.Usage) float64 { return float64(u.Bytes) })),
		newGaugesBy("machines_failed", "Accepted machines whose last boot has failed; absent while no boot reports are taken.", nil, func(l Live) []sample {
			if l.Machines == nil {
				return nil
			}
			return []sample{{value: float64(l.Machines.Failed)}}
		}),
		newGauge("reports_taken", "1 while boot reports are taken.", func(l Live) float64 { return number(l.Machines != nil) }),
		newGaugesBy("machines_by_release", "Accepted machines by what their last boot says; releases with few machines are counted as other.", []string{"channel", "release", "result"}, byRelease),
		newGauges("mirror_up", "1 while a mirror that root.json lists gives a valid IPNS record.", "mirror", byMirror(func(m MirrorState) float64 { return number(m.Problem == "") })),
		newGauges("mirror_version", "Version of the timestamp that a mirror's IPNS record points to; 0 without a record.", "mirror", byMirror(func(m MirrorState) float64 { return float64(m.Version) })),
	}
)

// maxReleases is how many releases the metrics name.
const maxReleases = 20

// byRelease counts the accepted machines by the release of their last boot, by its result. Releases with few machines are
// counted together. A machine that calls its release none or other is counted with those: no series may be there twice.
func byRelease(l Live) (list []sample) {
	if l.Machines == nil {
		return nil
	}
	type series struct{ channel, release, result string }
	machines := map[series]int{}
	add := func(channel, release string, all, failed int) {
		machines[series{channel, release, reports.ResultFailed}] += failed
		machines[series{channel, release, reports.ResultOK}] += all - failed
	}
	all, failed := l.Machines.Accepted.Machines, l.Machines.Failed
	for i, r := range l.running {
		if !r.Accepted || i == maxReleases {
			break // the accepted ones are the first, those with the most machines before others
		}
		add(cmp.Or(r.Channel, "none"), cmp.Or(r.Release, "none"), r.Machines, r.Failed)
		all, failed = all-r.Machines, failed-r.Failed
	}
	if all > 0 {
		add("other", "other", all, min(max(failed, 0), all))
	}
	for s, n := range machines {
		list = append(list, sample{float64(n), []string{s.channel, s.release, s.result}})
	}
	return list
}

// byMirror returns a figure of each mirror that was asked.
func byMirror(of func(MirrorState) float64) func(Live) map[string]float64 {
	return func(l Live) map[string]float64 {
		out := map[string]float64{}
		for _, m := range l.Mirrors {
			out[m.Mirror] = of(m)
		}
		return out
	}
}

// byState returns a figure of the database of boot reports for accepted and unverified machines; none without a database.
func byState(of func(reports.Usage) float64) func(Live) map[string]float64 {
	return func(l Live) map[string]float64 {
		if l.Machines == nil {
			return nil
		}
		return map[string]float64{stateOf(true): of(l.Machines.Accepted), stateOf(false): of(l.Machines.Unverified)}
	}
}
