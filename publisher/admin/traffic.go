package admin

import (
	"context"
	"fmt"
	"net/http"

	"github.com/phaseboot/phaseboot/internal/bootreport"
)

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
