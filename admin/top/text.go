package top

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/width"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains how values become text, and how much room text takes.

// maxCell is how many bytes of a text are shown. More than a line has room for helps nobody.
const maxCell = 256

// clean makes text from elsewhere fit for a terminal: without control characters, and not
// longer than maxCell.
func clean(s string) string { return plaintext.Short(s, maxCell) }

// cellsOf is how many cells of a terminal a text takes.
func cellsOf(s string) (n int) {
	for _, r := range s {
		n += cellsOfRune(r)
	}
	return n
}

func cellsOfRune(r rune) int {
	if r < unicode.MaxASCII {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// fit makes a text take exactly n cells. What is too long ends in an ellipsis.
func fit(s string, n int, right bool) string {
	have := cellsOf(s)
	if have > n {
		s, have = cut(s, n)
	}
	space := strings.Repeat(" ", n-have)
	if right {
		return space + s
	}
	return s + space
}

// cut shortens a text to at most n cells, and returns how many it takes then.
func cut(s string, n int) (string, int) {
	if n <= 0 {
		return "", 0
	}
	used := 0
	for i, r := range s {
		if used+cellsOfRune(r) > n-1 {
			return s[:i] + "…", used + 1
		}
		used += cellsOfRune(r)
	}
	return s, used
}

// amount is a number of bytes.
func amount(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	unit := 0
	for ; n >= 1024 && unit < len(units)-1; unit++ {
		n /= 1024
	}
	if unit == 0 || n >= 100 {
		return fmt.Sprintf("%.0f %s", n, units[unit])
	}
	return fmt.Sprintf("%.1f %s", n, units[unit])
}

// speed is a number of bytes per second.
func speed(n float64) string { return amount(n) + "/s" }

// perSecond is a rate of requests; "-" where it is not known yet.
func perSecond(n float64) string {
	switch {
	case math.IsNaN(n):
		return "-"
	case n >= 100:
		return strconv.FormatFloat(n, 'f', 0, 64)
	}
	return strconv.FormatFloat(n, 'f', 1, 64)
}

// ago is how long something lasts, in its two greatest units.
func ago(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	switch {
	case s >= 86400:
		return fmt.Sprintf("%dd%dh", s/86400, s/3600%24)
	case s >= 3600:
		return fmt.Sprintf("%dh%dm", s/3600, s/60%60)
	case s >= 60:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	}
	return fmt.Sprintf("%ds", s)
}

// delay is a short time, such as a latency.
func delay(seconds float64) string {
	switch d := time.Duration(seconds * float64(time.Second)); {
	case d <= 0:
		return "-"
	case d < 10*time.Millisecond:
		return strconv.FormatFloat(seconds*1000, 'f', 1, 64) + "ms"
	case d < time.Second:
		return strconv.FormatFloat(seconds*1000, 'f', 0, 64) + "ms"
	}
	return strconv.FormatFloat(seconds, 'f', 1, 64) + "s"
}

// clock is a time of day, as people here have it, with the date where it is not today's.
func clock(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04")
}
