//go:build unix

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Sizes of the chart, in pixels.
const (
	chartWidth  = 720
	chartLeft   = 150 // where bars begin
	chartRight  = 90  // for what stands behind them
	barHeight   = 22
	barGap      = 8
	panelGap    = 54
	chartMargin = 20
)

// A panel is a chart of ratios to the bare loop.
type panel struct {
	title, infix string
}

// writeChart draws what each contender did in a second, against the bare loop.
func (b *bench) writeChart(path string) error {
	return os.WriteFile(path, []byte(b.chart()), 0o644)
}

func (b *bench) chart() string {
	panels := []panel{
		{"drain of a backlog", ""},
		{"whole flow, each event to 10 subscribers", "_flow"},
		{"whole flow, each event to one subscriber", "_single"},
	}
	longest := 1.0
	for _, f := range b.figures {
		if strings.HasSuffix(f.name, "_vs_nethttp") && !strings.HasPrefix(f.name, "allocs") {
			longest = max(longest, slices.Max(f.values))
		}
	}
	scale := (chartWidth - chartLeft - chartRight) / longest
	var s strings.Builder
	y := chartMargin + 20
	fmt.Fprintf(&s, `<text x="%d" y="%d" class="title">Deliveries per second, as a multiple of a bare http.Client loop</text>`+"\n", chartMargin, y)
	y += 20
	for _, p := range panels {
		var rows []figure
		for _, name := range []string{memory, sqlite, postgres, riverJob} {
			for _, f := range b.figures {
				if f.name == short(name)+p.infix+"_vs_nethttp" {
					f.name = name
					rows = append(rows, f)
				}
			}
		}
		if len(rows) == 0 {
			continue
		}
		y += 24
		fmt.Fprintf(&s, `<text x="%d" y="%d" class="panel">%s</text>`+"\n", chartMargin, y, p.title)
		y += 10
		for i, f := range rows {
			bar(&s, f, y+i*(barHeight+barGap), scale)
		}
		x, bottom := chartLeft+scale, y+len(rows)*(barHeight+barGap)
		fmt.Fprintf(&s, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" class="bare"/>`+"\n", x, y-4, x, bottom-barGap+4)
		for _, f := range rows {
			at := slices.Max(f.values)*scale + chartLeft + 8
			fmt.Fprintf(&s, `<text x="%.1f" y="%d" class="value">%s</text>`+"\n", at, y+barHeight/2+4, f.text())
			y += barHeight + barGap
		}
		y += panelGap - 24 - barGap
	}
	fmt.Fprintf(&s, `<text x="%d" y="%d" class="note">Bars are medians, thin lines the range of the rounds; the dashed line is the bare loop.</text>`+"\n", chartMargin, y)
	height := y + chartMargin
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="Deliveries per second against a bare http.Client loop">
<style>
text { font: 13px sans-serif; fill: #222 }
.title { font-size: 16px; font-weight: bold }
.panel { font-weight: bold }
.note { fill: #666; font-size: 12px }
.value { paint-order: stroke; stroke: #fff; stroke-width: 4px }
.bare { stroke: #222; stroke-dasharray: 4 3 }
.range { stroke: #222 }
.outhook { fill: #3b7dd8 }
.river { fill: #b0b7c3 }
</style>
<rect width="100%%" height="100%%" fill="#fff"/>
%s</svg>
`, chartWidth, height, chartWidth, height, s.String())
}

// bar draws one, and what it is.
func bar(s *strings.Builder, f figure, y int, scale float64) {
	name, class := "outhook, "+f.name, "outhook"
	if f.name == riverJob {
		name, class = "River", "river"
	}
	middle := y + barHeight/2
	low, high := slices.Min(f.values)*scale+chartLeft, slices.Max(f.values)*scale+chartLeft
	fmt.Fprintf(s, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", chartLeft-8, middle+4, name)
	fmt.Fprintf(s, `<rect x="%d" y="%d" width="%.1f" height="%d" class="%s"/>`+"\n", chartLeft, y, f.value()*scale, barHeight, class)
	fmt.Fprintf(s, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" class="range"/>`+"\n", low, middle, high, middle)
}
