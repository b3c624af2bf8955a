package top

import (
	"errors"
	"strings"
	"time"

	"github.com/caddy-egress/egress/admin"
)

// This file contains what the view is at a moment, and what keys do to it. It has no clock,
// no terminal and no connection.

// model is the state of the view.
type model struct {
	address    string
	data       *data
	view       int
	order      []int  // of each view
	reversed   []bool // of each view
	filter     string
	typing     bool // of the filter
	paused     bool
	help       bool
	offset     int // rows that are scrolled away
	page       int // rows that there was room for
	lost       *lost
	cols, rows int
	paint      painter
}

// lost is a connection that is lost.
type lost struct {
	since time.Time
	now   time.Time
	err   string
}

func newModel(address string, p painter) *model {
	return &model{address: address, order: make([]int, len(views)), reversed: make([]bool, len(views)), paint: p, cols: 80, rows: 24}
}

// took takes a snapshot.
func (m *model) took(s *admin.Snapshot) {
	m.lost = nil
	m.data = after(m.data, s)
}

// failed takes an error in place of a snapshot. A line has room for its cause only.
func (m *model) failed(err error, now time.Time) {
	if m.lost == nil {
		m.lost = &lost{since: now}
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	m.lost.now, m.lost.err = now, clean(err.Error())
}

// deed is what a key asks the loop for.
type deed int

const (
	stay    deed = iota
	quit         // end the view
	refresh      // fetch a snapshot now
)

// maxFilter is in characters.
const maxFilter = 100

// press does what a key means.
func (m *model) press(k key) deed {
	switch {
	case k == keyInterrupt:
		return quit
	case m.typing:
		m.write(k)
		return stay
	case m.help:
		m.help = false
		if k == 'q' {
			return quit
		}
		return stay
	}
	switch k {
	case 'q':
		return quit
	case 'p', ' ':
		m.paused = !m.paused
		if !m.paused {
			return refresh
		}
	case '?', 'h':
		m.help = true
	case '/':
		m.typing = true
	case keyEscape:
		m.filter, m.offset = "", 0
	default:
		m.turn(k)
	}
	return stay
}

// turn is what keys do to what is seen of the data.
func (m *model) turn(k key) {
	switch k {
	case 'u':
		m.show(0)
	case 't':
		m.show(1)
	case 'd':
		m.show(2)
	case keyTab:
		m.show((m.view + 1) % len(views))
	case keyBackTab:
		m.show((m.view + len(views) - 1) % len(views))
	case 's':
		m.order[m.view] = (m.order[m.view] + 1) % len(views[m.view].orders())
		m.offset = 0
	case 'r':
		m.reversed[m.view] = !m.reversed[m.view]
		m.offset = 0
	case keyUp, 'k':
		m.offset--
	case keyDown, 'j':
		m.offset++
	case keyPageUp:
		m.offset -= max(1, m.page)
	case keyPageDown:
		m.offset += max(1, m.page)
	case keyHome, 'g':
		m.offset = 0
	case keyEnd, 'G':
		m.offset = 1 << 30 // the frame knows where the end is
	}
}

func (m *model) show(view int) { m.view, m.offset = view, 0 }

// write is what keys do while the filter is written.
func (m *model) write(k key) {
	switch {
	case k == keyEnter:
		m.typing = false
	case k == keyEscape:
		m.typing, m.filter = false, ""
	case k == keyErase:
		m.filter = ""
	case k == keyBackspace:
		if r := []rune(m.filter); len(r) > 0 {
			m.filter = string(r[:len(r)-1])
		}
	case k >= ' ' && len([]rune(m.filter)) < maxFilter:
		m.filter = clean(m.filter + string(rune(k)))
	}
	m.offset = 0
}

// shaped is how the table of the view is made now.
func (m *model) shaped() shaping {
	return shaping{order: m.order[m.view], reversed: m.reversed[m.view], filter: strings.ToLower(m.filter)}
}
