package top

import "strings"

// This file contains how a table is fitted into a width.

// column is a column of a table.
type column struct {
	title string
	right bool // its values are numbers
	least int  // the cells that it may be cut to; 0 for a column that is never cut
	drop  int  // the column with the greatest is left out first, where there is no room; 0 for never
}

// cell is a value in a table.
type cell struct {
	text string
	mark mark
}

func plain(s string) cell { return cell{text: s} }

// table is columns, and rows with a cell for each of them.
type table struct {
	columns []column
	rows    [][]cell
}

// gap is between columns.
const gap = "  "

// lines are the title and the rows, of at most room cells. A room of 0 has no end.
func (t *table) lines(room int, p painter) []string {
	widths := t.fitted(room)
	title := make([]cell, len(t.columns))
	for i, c := range t.columns {
		title[i] = plain(c.title)
	}
	bar := t.line(title, widths, room, p)
	if p.colours && room > 0 {
		bar = fit(bar, room, false)
	}
	out := []string{p.paint(heading, bar)}
	for _, row := range t.rows {
		out = append(out, t.line(row, widths, room, p))
	}
	return out
}

// left is the width of a column that is left out.
const left = -1

// fitted decides how wide columns are. First columns are left out until the others have
// room when they are cut; then they get what there is.
func (t *table) fitted(room int) []int {
	natural, widths := make([]int, len(t.columns)), make([]int, len(t.columns))
	for i, c := range t.columns {
		natural[i] = cellsOf(c.title)
		for _, row := range t.rows {
			natural[i] = max(natural[i], cellsOf(row[i].text))
		}
		widths[i] = natural[i]
		if room > 0 && c.least > 0 {
			widths[i] = min(natural[i], max(c.least, cellsOf(c.title)))
		}
	}
	for room > 0 && total(widths) > room {
		out := -1
		for i, c := range t.columns {
			if widths[i] != left && c.drop > 0 && (out < 0 || c.drop > t.columns[out].drop) {
				out = i
			}
		}
		if out < 0 {
			break // the lines are cut
		}
		widths[out] = left
	}
	spare := room - total(widths)
	for i := range widths {
		if widths[i] != left && spare > 0 {
			more := min(spare, natural[i]-widths[i])
			widths[i], spare = widths[i]+more, spare-more
		}
	}
	return widths
}

// total is how wide a table of such columns is.
func total(widths []int) int {
	sum := -len(gap)
	for _, w := range widths {
		if w != left {
			sum += w + len(gap)
		}
	}
	return sum
}

func (t *table) line(row []cell, widths []int, room int, p painter) string {
	var b strings.Builder
	used := 0
	for i, c := range row {
		if widths[i] == left || room > 0 && used >= room {
			continue
		}
		if used > 0 {
			between := gap
			if room > 0 {
				between = gap[:min(len(gap), room-used)]
			}
			b.WriteString(between)
			used += len(between)
		}
		w := widths[i]
		if room > 0 {
			w = min(w, room-used)
		}
		b.WriteString(p.paint(c.mark, fit(c.text, w, t.columns[i].right)))
		used += w
	}
	return strings.TrimRight(b.String(), " ")
}

// write writes the table as plain text, as wide as it is.
func (t *table) write(b *strings.Builder) {
	for _, line := range t.lines(0, painter{}) {
		b.WriteString(line + "\n")
	}
}

// mark says how a text stands out.
type mark byte

const (
	_ mark = iota
	good
	warning
	bad
	dim
	bold
	heading
)

// painter writes marks. The zero painter writes none.
type painter struct{ colours bool }

var sgr = [...]string{good: "32", warning: "33", bad: "31;1", dim: "2", bold: "1", heading: "7"}

func (p painter) paint(m mark, s string) string {
	if !p.colours || m == 0 || s == "" {
		return s
	}
	return "\x1b[" + sgr[m] + "m" + s + "\x1b[0m"
}
