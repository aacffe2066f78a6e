package main

import (
	"bytes"
	"fmt"
	"math"
)

// A panel is a diagram over the number of nodes, with a logarithmic axis.
type panel struct {
	title string
	left  float64
	lines []line
}

// A line is one value of every point.
type line struct {
	name, colour, dash string
	y                  []float64
}

const (
	panelWidth, panelHeight = 320.0, 220.0
	panelTop                = 40.0
)

// plot draws time and hops over the number of nodes, for a stable network and under churn.
func plot(stable, churn []point) []byte {
	figures := func(points []point, figure func(point) float64) (y []float64) {
		for _, p := range points {
			y = append(y, figure(p))
		}
		return y
	}
	both := func(figure func(p point, i int) float64) []line {
		at := func(i int) func(point) float64 { return func(p point) float64 { return figure(p, i) } }
		return []line{
			{"median", "#1f6feb", "", figures(stable, at(0))},
			{"95 of 100", "#1f6feb", "5 4", figures(stable, at(1))},
			{"median, a fifth leaves", "#d1242f", "", figures(churn, at(0))},
			{"95 of 100, a fifth leaves", "#d1242f", "5 4", figures(churn, at(1))},
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 830 330" font-family="sans-serif" font-size="12">`+"\n<!-- make bench-net SHOW=4 PLOT=docs/dht-growth.svg -->\n<rect width=\"830\" height=\"330\" fill=\"#fff\"/>\n")
	for _, p := range []panel{
		{"ms until the newest record is there", 60, both(func(p point, i int) float64 { return float64(p.resolve[i].Milliseconds()) })},
		{"hops", 450, both(func(p point, i int) float64 { return float64(p.hops[i]) })},
	} {
		p.draw(&b, stable)
	}
	fmt.Fprintln(&b, "</svg>")
	return b.Bytes()
}

func (p panel) draw(b *bytes.Buffer, points []point) {
	top := 0.0
	for _, l := range p.lines {
		for _, y := range l.y {
			top = max(top, y)
		}
	}
	top = nice(top)
	first, last := math.Log2(float64(points[0].nodes)), math.Log2(float64(points[len(points)-1].nodes))
	x := func(i int) float64 {
		return p.left + panelWidth*(math.Log2(float64(points[i].nodes))-first)/max(last-first, 1)
	}
	y := func(v float64) float64 { return panelTop + panelHeight*(1-v/top) }
	fmt.Fprintf(b, "<text x=\"%.0f\" y=\"24\" font-weight=\"bold\">%s</text>\n", p.left, p.title)
	for i := range 5 {
		v := top * float64(i) / 4
		fmt.Fprintf(b, "<path d=\"M%.1f %.1fh%.1f\" stroke=\"#ddd\"/><text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n", p.left, y(v), panelWidth, p.left-6, y(v)+4, v)
	}
	for i, at := range points {
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%d</text>\n", x(i), panelTop+panelHeight+18, at.nodes)
	}
	for k, l := range p.lines {
		fmt.Fprint(b, `<polyline fill="none" stroke-width="2" stroke="`, l.colour, `" stroke-dasharray="`, l.dash, `" points="`)
		for i, v := range l.y {
			fmt.Fprintf(b, "%.1f,%.1f ", x(i), y(v))
		}
		lx, ly := p.left+float64(k%2)*165, panelTop+panelHeight+40+float64(k/2)*18
		fmt.Fprintf(b, "\"/>\n<path d=\"M%.1f %.1fh24\" stroke-width=\"2\" stroke=\"%s\" stroke-dasharray=\"%s\"/><text x=\"%.1f\" y=\"%.1f\">%s</text>\n",
			lx, ly-4, l.colour, l.dash, lx+30, ly, l.name)
	}
}

// nice rounds v up to 1, 2, 4 or 8 times a power of ten.
func nice(v float64) float64 {
	step := math.Pow(10, math.Floor(math.Log10(max(v, 1))))
	for _, k := range []float64{1, 2, 4, 8, 10} {
		if v <= k*step {
			return k * step
		}
	}
	return v
}
