package top

import (
	"fmt"
	"io"
	"strings"

	"github.com/caddy-egress/egress/admin"
)

// This file contains what the view looks like.

// frame is the lines of the view: as many as the terminal has rows, none wider than it.
func (m *model) frame() []string {
	if m.help {
		return m.clip(helpLines)
	}
	lines := m.head()
	foot := m.foot()
	room := m.rows - len(lines) - 1 // for the rows below the title of the table
	if room < 4 {
		foot = ""
	} else {
		room--
	}
	lines = append(lines, m.body(max(0, room))...)
	if foot != "" {
		for len(lines) < m.rows-1 {
			lines = append(lines, "")
		}
		lines = append(lines, m.line(dim, foot))
	}
	return lines[:min(len(lines), m.rows)]
}

// clip cuts lines to the terminal.
func (m *model) clip(lines []string) []string {
	var out []string
	for _, l := range lines[:min(len(lines), m.rows)] {
		text, _ := cut(l, m.cols)
		out = append(out, text)
	}
	return out
}

// line is a line of one look.
func (m *model) line(k mark, text string) string {
	text, _ = cut(text, m.cols)
	return m.paint.paint(k, text)
}

// head is what stands above the table.
func (m *model) head() []string {
	title := "caddy egress " + clean(m.data.Version) + " at " + clean(m.address) + ", " + m.data.Time.Local().Format("15:04:05")
	if m.paused {
		title += "  PAUSED"
	}
	lines := []string{m.line(bold, title), m.line(0, m.data.summary())}
	if text := m.data.emergency(); text != "" {
		lines = append(lines, m.line(bad, text))
	}
	if m.lost != nil {
		lines = append(lines, m.line(bad, fmt.Sprintf("NO CONNECTION for %s: %s; trying again, what is shown is old", ago(m.lost.now.Sub(m.lost.since)), m.lost.err)))
	}
	return append(lines, m.tabs())
}

// summary is how much there is of everything.
func (d *data) summary() string {
	t := d.totals()
	text := fmt.Sprintf("upstreams %d", d.Upstreams.Total)
	if t.notUp > 0 {
		text += fmt.Sprintf(" (%d not up)", t.notUp)
	}
	least := ""
	if len(d.Tunnels.Items) < d.Tunnels.Total {
		least = "≥" // those without are the slowest
	}
	return text + fmt.Sprintf("  requests %s/s  exchanges %d  tunnels %d  up %s%s  down %s%s",
		perSecond(t.requests), t.exchanges, d.Tunnels.Total, least, speed(t.up), least, speed(t.down))
}

// emergency is what holds of the emergency; nothing if it is off.
func (d *data) emergency() string {
	if !d.Emergency.On {
		return ""
	}
	text := "EMERGENCY: all new requests are denied"
	if o := d.Emergency.Order; o != nil {
		text += ": " + orderText(o, d.Time)
	}
	return clean(text)
}

// tabs tells which view this is, and how it is ordered.
func (m *model) tabs() string {
	totals := []int{m.data.Upstreams.Total, m.data.Tunnels.Total, m.data.Destinations.Total}
	var tabs []string
	for i, v := range views {
		text := fmt.Sprintf(" %s %d ", v.title(), totals[i])
		if i == m.view {
			text = fmt.Sprintf("[%s %d]", v.title(), totals[i])
		}
		tabs = append(tabs, text)
	}
	text := strings.Join(tabs, " ") + "  by " + views[m.view].orders()[m.order[m.view]]
	if m.reversed[m.view] {
		text += ", reversed"
	}
	if m.filter != "" || m.typing {
		text += "  filter: " + m.filter
		if m.typing {
			text += "_"
		}
	}
	return m.line(0, text)
}

// body is the table, scrolled, with so many rows below its title.
func (m *model) body(room int) []string {
	t := views[m.view].table(m.data, m.shaped())
	note := ""
	if have, total := views[m.view].count(m.data); have < total {
		note = fmt.Sprintf("only the first %d of %d are here", have, total)
		room--
	}
	m.page = room
	m.offset = max(0, min(m.offset, len(t.rows)-room))
	if len(t.rows) == 0 && note == "" {
		note = "none"
		if m.filter != "" {
			note = "none that the filter lets pass; Esc clears it"
		}
	}
	// Widths are those of all rows, so that columns do not jump while it scrolls.
	lines := t.lines(m.cols, m.paint)
	shown := lines[:1]
	rest := lines[1+m.offset:]
	shown = append(shown, rest[:max(0, min(room, len(rest)))]...)
	if note != "" {
		shown = append(shown, m.line(dim, note))
	}
	return shown
}

func (m *model) foot() string {
	if m.typing {
		return "Enter keeps the filter  Esc clears it"
	}
	return "? help  q quit  Tab view  s sort  / filter  p pause  r reverse"
}

var helpLines = []string{
	"caddy egress top",
	"",
	"  u  t  d      upstreams, tunnels, failing destinations",
	"  Tab          the next of them",
	"  s            the next order",
	"  r            reverse the order",
	"  /            filter: rows with this text in any column",
	"  Esc          clear the filter",
	"  p  space     pause, and go on",
	"  ↑ ↓ j k      scroll; PgUp PgDn, Home End",
	"  q  Ctrl-C    quit",
	"",
	"FOR          how long an upstream has been in or out of rotation",
	"REQ/S        attempts through an upstream since the last refresh, a second",
	"IN FLIGHT    exchanges and tunnels on an upstream",
	"FAILS        failures within the window of passive health",
	"UP/S DOWN/S  bytes a second over the last 10 seconds",
	"",
	"Any key goes back.",
}

// WritePlain writes a snapshot as text. before is an earlier one, which rates need; nil for
// none.
func WritePlain(w io.Writer, address string, before, s *admin.Snapshot) error {
	var earlier *data
	if before != nil {
		earlier = &data{Snapshot: before}
	}
	d := after(earlier, s)
	var b strings.Builder
	fmt.Fprintf(&b, "caddy egress %s at %s, %s\n%s\n", clean(d.Version), clean(address), d.Time.Local().Format("2006-01-02 15:04:05"), d.summary())
	if e := d.emergency(); e != "" {
		b.WriteString(e + "\n")
	}
	for _, v := range views {
		have, total := v.count(d)
		fmt.Fprintf(&b, "\n%s: %d", v.title(), total)
		if have < total {
			fmt.Fprintf(&b, ", of which the first %d", have)
		}
		b.WriteString("\n")
		if have > 0 {
			t := v.table(d, shaping{})
			t.write(&b)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
