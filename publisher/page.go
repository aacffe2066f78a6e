package publisher

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/phaseboot/phaseboot/publisher/admin"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// openPage makes the admin page, if there is to be one. The reports are open already.
func (s *server) openPage() (err error) {
	if s.Admin.Addr == "" {
		return nil
	}
	c := s.Admin
	c.Mirrors = listedMirrors(s.repo.Root.Discovery().HTTPS, c.Mirrors)
	s.page, err = admin.New(admin.Options{
		Config: c, State: s.pageState, Reports: s.reports, Now: s.Now, Log: s.Log,
		Changed: func() <-chan struct{} { _, changed := s.source.current(); return changed },
	})
	return err
}

// listedMirrors adds the mirrors that root.json lists to those of the flags, each once.
func listedMirrors(listed, named []string) []string {
	all := slices.Clone(listed[:min(len(listed), maxMirrors)])
	for _, m := range named {
		if !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}

// pageState is what the admin page shows of this daemon.
func (s *server) pageState(ctx context.Context) (admin.State, error) {
	r, err := repo.Open(ctx, s.repo.Dir)
	if err != nil {
		r = s.repo // problems reports the error
	}
	current, _ := s.source.current()
	live := s.live(ctx)
	state := admin.State{
		Peer: live.Peer, Started: live.Started, Peers: live.Peers, DHTPeers: live.DHTPeers, HTTPConns: live.HTTPConns,
		IPNS: s.record().Name, Head: current.Folder.String(), Timestamp: current.Timestamp, Loaded: current.loaded, RecordAge: s.record().Age(s.Now()),
		Root: r.Root, Files: current.Files, Verdict: live.verdict, Releases: current.releases,
		Blocks: live.Store.Blocks, Bytes: live.Store.Bytes, Sent: s.meter.sentBytes(),
	}
	for _, err := range unhealthy(s.problems(ctx)) {
		state.Problems = append(state.Problems, err.Error())
	}
	return state, ctx.Err()
}

// sentBytes lists the bytes that count has counted.
func (m *meter) sentBytes() (list []admin.Sent) {
	metrics := make(chan prometheus.Metric)
	go func() {
		m.bytes.Collect(metrics)
		close(metrics)
	}()
	for one := range metrics {
		var d dto.Metric
		if one.Write(&d) != nil {
			continue // of a counter it has no error
		}
		sent := admin.Sent{Bytes: int64(d.GetCounter().GetValue())}
		for _, l := range d.GetLabel() {
			switch l.GetName() {
			case "via":
				sent.Via = l.GetValue()
			case "kind":
				sent.Kind = l.GetValue()
			}
		}
		list = append(list, sent)
	}
	slices.SortFunc(list, func(a, b admin.Sent) int {
		return cmp.Or(strings.Compare(a.Via, b.Via), strings.Compare(a.Kind, b.Kind))
	})
	return list
}
