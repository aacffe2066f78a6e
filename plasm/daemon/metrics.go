package daemon

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/queue"
)

const namespace = "plasmd"

// A meter counts jobs and requests, for Prometheus.
type meter struct {
	registry *prometheus.Registry
	jobs     *prometheus.CounterVec   // by reason
	seconds  *prometheus.HistogramVec // by phase
	memory   prometheus.Histogram
	refused  *prometheus.CounterVec // by via and HTTP status
	accepted *prometheus.CounterVec // by via
}

func newMeter(d *Daemon) *meter {
	m := &meter{
		registry: prometheus.NewRegistry(),
		jobs:     prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "jobs_total", Help: "Jobs that have an outcome."}, []string{"reason"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "job_seconds", Help: "Time of each phase of a job.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 10),
		}, []string{"phase"}),
		memory: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "job_memory_peak_bytes", Help: "Peak of the linear memory of a job.", Buckets: prometheus.ExponentialBuckets(1<<20, 4, 7),
		}),
		refused:  prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "requests_refused_total", Help: "Requests that were refused."}, []string{"via", "status"}),
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "jobs_accepted_total", Help: "Jobs that were accepted."}, []string{"via"}),
	}
	gauge := func(name, help string, of func(queue.Figures) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help},
			func() float64 { return of(d.Queue.Figures()) })
	}
	m.registry.MustRegister(m.jobs, m.seconds, m.memory, m.refused, m.accepted,
		gauge("jobs_waiting", "Jobs that wait for a worker.", func(f queue.Figures) float64 { return float64(f.Waiting) }),
		gauge("jobs_running", "Jobs of workers.", func(f queue.Figures) float64 { return float64(f.Claimed + f.Running) }),
		gauge("store_bytes", "Bytes of modules, inputs, outputs and receipts, in use or reserved.", func(f queue.Figures) float64 { return float64(f.Bytes) }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *meter) ended(o plasm.Outcome) {
	m.jobs.WithLabelValues(o.Reason).Inc()
	m.memory.Observe(float64(o.MemoryPeak))
	m.seconds.WithLabelValues("wait").Observe(o.Wait.Seconds())
	m.seconds.WithLabelValues("fetch").Observe(o.Fetch.Seconds())
	m.seconds.WithLabelValues("compile").Observe(o.Compile.Seconds())
	m.seconds.WithLabelValues("run").Observe(o.Run.Seconds())
}

// Metrics serves the figures to Prometheus.
func (d *Daemon) Metrics() http.Handler {
	return promhttp.HandlerFor(d.meter.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}
