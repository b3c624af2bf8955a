package status

import (
	"fmt"
	"strconv"
	"strings"
)

// This file contains the curves of the last 15 minutes, as SVG.

// The size of a curve, in its own units: one for a sample.
const (
	curveWidth  = maxSamples
	curveHeight = 20
)

// curve is a line over the last 15 minutes, or two, and bars for what failed.
type curve struct {
	Label  string // what it shows, for those who do not see it
	Lines  []string
	Failed string // the data of a path
}

// rateCurve shows requests a second, and those of them that failed.
func rateCurve(points []point) *curve {
	var most, failed uint64
	for _, p := range points {
		most, failed = max(most, p.requests), failed+p.failed
	}
	if len(points) == 0 || most == 0 {
		return nil
	}
	c := &curve{
		Label: fmt.Sprintf("requests of the last 15 minutes: %s a second at most, %d failed", perSecond(most), failed),
		Lines: []string{line(points, func(p point) float64 { return float64(p.requests) / float64(most) })},
	}
	var bars strings.Builder
	for i, p := range points {
		if p.failed > 0 {
			height := max(float64(p.failed)/float64(most), .1) * curveHeight
			fmt.Fprintf(&bars, "M%d.5 %dv-%s", xOf(i, len(points)), curveHeight, number(min(height, curveHeight)))
		}
	}
	c.Failed = bars.String()
	return c
}

// latencyCurve shows the median and the 95th percentile of the times of requests.
func latencyCurve(points []point) *curve {
	most := 0.0
	for _, p := range points {
		most = max(most, p.p95)
	}
	if most == 0 {
		return nil
	}
	return &curve{
		Label: "times of the last 15 minutes: 95th percentile " + inSeconds(most) + " at most",
		Lines: []string{
			line(points, func(p point) float64 { return p.p50 / most }),
			line(points, func(p point) float64 { return p.p95 / most }),
		},
	}
}

// line is a polyline of values from 0 to 1: a step for each, the last one on the right.
func line(points []point, of func(point) float64) string {
	steps := make([]string, 0, 2*len(points))
	for i, p := range points {
		x, y := xOf(i, len(points)), number(curveHeight-of(p)*(curveHeight-1))
		steps = append(steps, strconv.Itoa(x)+","+y, strconv.Itoa(x+1)+","+y)
	}
	return strings.Join(steps, " ")
}

func xOf(i, of int) int { return curveWidth - of + i }

func number(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }

func perSecond(inPause uint64) string {
	return strconv.FormatFloat(float64(inPause)/samplePause.Seconds(), 'g', 3, 64)
}
