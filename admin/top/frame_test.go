package top

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/caddy-egress/egress/admin"
)

// What the view looks like, at several sizes.
func TestFrame_Golden(t *testing.T) {
	for _, tc := range []struct {
		name       string
		cols, rows int
		keys       string
	}{
		{"upstreams-160x16", 160, 16, ""},
		{"upstreams-80x24", 80, 24, ""},
		{"upstreams-60x10", 60, 10, ""},
		{"upstreams-30x6", 30, 6, ""},
		{"upstreams-requests", 100, 12, "s"},
		{"tunnels-120x12", 120, 12, "t"},
		{"tunnels-80x12", 80, 12, "t"},
		{"tunnels-filter", 80, 12, "t/ali"},
		{"tunnels-filter-kept", 80, 12, "t/nobody\r"},
		{"destinations-120x12", 120, 12, "d"},
		{"paused", 80, 10, "p"},
		{"help", 80, 24, "?"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			golden(t, tc.name, strings.Join(at(tc.cols, tc.rows).pressed(tc.keys).frame(), "\n")+"\n")
		})
	}
}

// What is wrong stands on top.
func TestFrame_Trouble(t *testing.T) {
	m := at(110, 12)
	m.took(inEmergency(snapshot(3)))
	m.failed(errors.New("dial tcp: connection refused"), noon)
	m.failed(fmt.Errorf("no answer from the admin API: %w", errors.New("connection refused")), noon.Add(70*time.Second))
	golden(t, "trouble", strings.Join(m.frame(), "\n")+"\n")
	m.took(snapshot(4))
	if text := strings.Join(m.frame(), "\n"); strings.Contains(text, "NO CONNECTION") || strings.Contains(text, "EMERGENCY") {
		t.Errorf("it is over:\n%s", text)
	}
}

func TestWritePlain(t *testing.T) {
	var b bytes.Buffer
	if err := WritePlain(&b, "localhost:2019", snapshot(0), inEmergency(snapshot(2))); err != nil {
		t.Fatal(err)
	}
	golden(t, "plain", b.String())
	b.Reset()
	empty := &admin.Snapshot{Time: noon, Version: "v1.2.3"}
	if err := WritePlain(&b, "localhost:2019", nil, empty); err != nil {
		t.Fatal(err)
	}
	golden(t, "plain-empty", b.String())
}

// escapes are what the view itself writes between the characters of a line.
var escapes = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// Whatever the size and the view, a frame fits into the terminal, with colours as without.
func TestFrame_Fits(t *testing.T) {
	for _, colours := range []bool{false, true} {
		for cols := 1; cols <= 170; cols += 1 + cols/30 {
			for _, rows := range []int{1, 3, 5, 8, 40} {
				for _, keys := range []string{"", "t", "d", "?", "t/x", "p"} {
					m := at(cols, rows).pressed(keys)
					m.paint.colours = colours
					m.took(inEmergency(snapshot(3)))
					m.failed(errors.New("gone"), noon)
					frame := m.frame()
					if len(frame) > rows {
						t.Fatalf("%dx%d, keys %q: %d lines", cols, rows, keys, len(frame))
					}
					for _, line := range frame {
						if n := cellsOf(escapes.ReplaceAllString(line, "")); n > cols {
							t.Fatalf("%dx%d, keys %q: %d cells in %q", cols, rows, keys, n, line)
						}
					}
				}
			}
		}
	}
}

// Scrolling ends where the rows do.
func TestFrame_Scroll(t *testing.T) {
	m := at(80, 12).pressed("t")
	s := snapshot(3)
	s.Tunnels.Items, s.Tunnels.Total = nil, 1000
	for i := range 50 {
		s.Tunnels.Items = append(s.Tunnels.Items, admin.Tunnel{ID: uint64(i), Target: fmt.Sprintf("host%02d.example:443", i), RateUp: float64(50 - i)})
	}
	m.took(s)
	shown := func() (first, last string) {
		found := regexp.MustCompile(`host\d\d`).FindAllString(strings.Join(m.frame(), "\n"), -1)
		return found[0], found[len(found)-1]
	}
	for _, tc := range []struct{ keys, first, last string }{
		{"", "host00", "host05"},
		{"j", "host01", "host06"},
		{"\x1b[B", "host02", "host07"},
		{"\x1b[6~", "host08", "host13"},
		{"G", "host44", "host49"},
		{"jjj", "host44", "host49"},
		{"k", "host43", "host48"},
		{"\x1b[H", "host00", "host05"},
		{"kkk", "host00", "host05"},
		{"r", "host49", "host44"},
	} {
		m.pressed(tc.keys)
		if first, last := shown(); first != tc.first || last != tc.last {
			t.Errorf("after %q: %s to %s, want %s to %s", tc.keys, first, last, tc.first, tc.last)
		}
	}
	if text := strings.Join(m.frame(), "\n"); !strings.Contains(text, "only the first 50 of 1000 are here") {
		t.Errorf("it does not say that there are more:\n%s", text)
	}
}

// Text from elsewhere brings no control characters into the terminal, and takes no more
// cells than it is given.
func TestFrame_HostileText(t *testing.T) {
	evil := "\x1b]0;title\a\x1b[2J\r\n\u202e\u009b31m" + strings.Repeat("界e\u0301", 300) + "\xff\x00"
	s := snapshot(3)
	for i := range s.Upstreams.Items {
		u := &s.Upstreams.Items[i]
		u.ID, u.URL, u.Group, u.State, u.Why = evil, evil, evil, evil, evil
		u.LastError = &admin.UpstreamError{Error: evil}
		if u.Ordered != nil {
			u.Ordered.Reason, u.Ordered.By, u.Ordered.State, u.Ordered.Weight = evil, evil, evil, evil
		}
	}
	for i := range s.Tunnels.Items {
		u := &s.Tunnels.Items[i]
		u.User, u.Client, u.Target, u.Upstream = evil, evil, evil, evil
	}
	for i := range s.Destinations.Items {
		u := &s.Destinations.Items[i]
		u.Destination, u.Circuit, u.Upstream, u.Blame, u.Error = evil, evil, evil, evil, evil
	}
	s.Version = evil
	s.Emergency = admin.EmergencyState{On: true, Order: &admin.Order{By: evil, Reason: evil}}
	for _, cols := range []int{20, 80, 200, 5000} {
		for _, keys := range []string{"", "t", "d", "/" + evil} {
			m := at(cols, 30)
			m.address = evil
			m.pressed(keys)
			m.took(s)
			m.failed(errors.New(evil), noon)
			for _, line := range m.frame() {
				if strings.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }) {
					t.Fatalf("%q", line)
				}
				if n := cellsOf(line); n > cols {
					t.Fatalf("%d cells of %d: %q", n, cols, line)
				}
			}
		}
	}
	var b bytes.Buffer
	if err := WritePlain(&b, evil, nil, s); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsFunc(b.String(), func(r rune) bool { return r != '\n' && unicode.IsControl(r) }) {
		t.Errorf("%q", b.String())
	}
}

// States stand out by colour, and no colour is written where none is wanted.
func TestFrame_Colours(t *testing.T) {
	m := at(160, 12)
	if text := strings.Join(m.frame(), "\n"); strings.Contains(text, "\x1b") {
		t.Errorf("%q", text)
	}
	m.paint.colours = true
	text := strings.Join(m.frame(), "\n")
	for _, want := range []string{"\x1b[32mup", "\x1b[31;1mcircuit_open", "\x1b[33mdrain", "\x1b[7mUPSTREAM"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}
}
