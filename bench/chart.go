//go:build linux

package main

import (
	_ "embed"
	"fmt"
	"io"
	"text/template"
)

// chart.svg is a drawing without a script or a font of its own, whose colours
// follow the reader's dark or light mode. What is drawn where is worked out
// here; the template only writes it down.

//go:embed chart.svg.tmpl
var chartText string

var chartTemplate = template.Must(template.New("chart").Funcs(template.FuncMap{"text": escapeXML}).Parse(chartText))

// Sizes of the drawing, in its units.
const (
	panelWidth = 450
	panelGap   = 24
	margin     = 20
	headHeight = 56 // title and the line below it
	nameWidth  = 185
	barWidth   = 200 // of the longest
	barHeight  = 14
	barStep    = 22
	panelHead  = 30
)

// drawing is what the template writes.
type drawing struct {
	Width, Height int
	Title, Note   string
	Panels        []panel
}

type panel struct {
	X, Y  int
	Title string
	Bars  []bar
}

// bar is one subject: its bar from X, the range of its rounds as a line from
// Low to High, the value behind both.
type bar struct {
	Name, Value             string
	NameX, X, Y, Width      int
	TextY, ValueX           int
	Low, High, Middle, Tall int
	Own                     bool // egress
}

// chartedFigures are what is drawn, in this order: two panels in a row.
var chartedFigures = []struct{ key, title string }{
	{"get", "GET 1 KiB: CPU µs"},
	{"post", "POST 64 KiB: CPU µs"},
	{"connect", "CONNECT, one byte, close: CPU µs"},
	{"connecttls", "CONNECT and TLS handshake: CPU µs"},
	{"tunnel", "1 GiB through a tunnel: CPU s"},
	{"tunnel8", "1 GiB through 8 tunnels: CPU s"},
	{"h2tunnel", "1 GiB through 100 HTTP/2 tunnels: CPU s"},
	{"h2", "A byte there and back over HTTP/2: CPU µs"},
	{"idle", "An idle tunnel: KiB"},
	{"pooled", "An idle connection to an origin: KiB"},
}

// chart writes the drawing as SVG.
func (r *results) chart(w io.Writer) error {
	d := drawing{
		Width: 2*panelWidth + panelGap + 2*margin,
		Title: "What a forward proxy costs",
		Note:  fmt.Sprintf("Shorter is better. %s, %s. Medians; the lines are the range of the rounds.", r.date, r.machine.cpu),
	}
	y, rowHeight, column := headHeight+margin, 0, 0
	for _, f := range chartedFigures {
		p := panel{X: margin + column*(panelWidth+panelGap), Y: y, Title: f.title, Bars: r.bars(f.key)}
		if len(p.Bars) == 0 {
			continue
		}
		d.Panels = append(d.Panels, p)
		rowHeight = max(rowHeight, panelHead+len(p.Bars)*barStep+margin)
		if column++; column == 2 {
			y, rowHeight, column = y+rowHeight, 0, 0
		}
	}
	d.Height = y + rowHeight + margin
	return chartTemplate.Execute(w, d)
}

// bars are those of one panel: an experiment, or a figure about memory.
func (r *results) bars(key string) (bars []bar) {
	var spreads []spread
	add := func(subject, format string, values []float64) {
		if len(values) == 0 {
			return
		}
		s := spreadOf(values)
		spreads = append(spreads, s)
		bars = append(bars, bar{Name: subject, Value: fmt.Sprintf(format, s.median), Own: isOwn(subject)})
	}
	for _, row := range r.cpu {
		for _, s := range row.series {
			if row.experiment.key == key {
				add(s.subject, fmt.Sprintf("%%.%df", row.experiment.digits), s.total)
			}
		}
	}
	for _, f := range r.memory {
		if f.key == key {
			add(f.subject, fmt.Sprintf("%%.%df", f.digits), f.values)
		}
	}
	layOut(bars, spreads)
	return bars
}

// isOwn says whether a bar has the colour of egress.
func isOwn(subject string) bool {
	return subject == egress || subject == egressHTTP2 || subject == egressKeeps
}

// layOut places the bars below each other.
func layOut(bars []bar, spreads []spread) {
	longest := 0.0
	for _, s := range spreads {
		longest = max(longest, s.max)
	}
	length := func(v float64) int {
		if longest <= 0 {
			return 0
		}
		return int(max(v, 0)/longest*barWidth + 0.5)
	}
	for i := range bars {
		b, s := &bars[i], spreads[i]
		b.Y = panelHead + i*barStep
		b.NameX, b.X, b.Width, b.Tall = nameWidth-8, nameWidth, max(length(s.median), 1), barHeight
		b.Middle, b.TextY = b.Y+barHeight/2, b.Y+barHeight-3
		b.Low, b.High = nameWidth+length(s.min), nameWidth+length(s.max)
		b.ValueX = b.High + 8
	}
}

func escapeXML(s string) string { return template.HTMLEscapeString(s) }
