package explain

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains the explanation as people read it.

// labelWidth is the column in which what labels are about begins.
const labelWidth = 14

// textWriter writes lines with a label in front.
type textWriter struct{ strings.Builder }

func (w *textWriter) line(label, format string, args ...any) {
	fmt.Fprintf(w, "%-*s%s\n", labelWidth, label, fmt.Sprintf(format, args...))
}

// WriteText writes the explanation as a text.
func (e *Explanation) WriteText(out io.Writer) error {
	var w textWriter
	w.line("request", "%s", e.title())
	w.line("handler", "%s", e.Handler)
	w.line("client", "%s", e.who())
	w.line("login", "%s", e.Authentication)
	if e.Rule != nil {
		w.line("rules", "%s: %s", e.Rule.Verdict, e.Rule.Rule)
	}
	if e.Route != nil {
		e.Route.write(&w)
	}
	for i := range e.Paths {
		label := "path"
		if i > 0 {
			label = "fallback"
		}
		e.Paths[i].write(&w, label)
	}
	for _, note := range e.Notes {
		w.line("note", "%s", note)
	}
	if len(e.Limits) > 0 {
		w.line("limits", "%s", e.Limits)
	}
	verdict := e.Verdict
	if e.Status != 0 {
		verdict = fmt.Sprintf("%s (%d): %s", e.Verdict, e.Status, e.Reason)
	}
	w.line("verdict", "%s", verdict)
	_, err := io.WriteString(out, w.String())
	return err
}

func (e *Explanation) title() string {
	to := e.Destination
	if to == "" {
		to = e.Authority
	}
	if e.HTTPS {
		to += " over TLS"
	}
	return fmt.Sprintf("%s %s (%s)", e.Method, to, e.Kind)
}

func (e *Explanation) who() string {
	who := e.ClientIP
	if e.User != "" {
		who += ", user " + e.User
	}
	if e.Session != "" {
		who += ", session " + e.Session
	}
	return who
}

func (r *Route) write(w *textWriter) {
	to := r.To
	if r.Fallback != "" {
		to += ", else " + r.Fallback
	}
	for _, text := range r.Skipped {
		w.line("not", "%s", text)
	}
	switch {
	case r.Index < 0 && r.To == "":
		w.line("route", "none matches")
		return
	case r.Index < 0:
		w.line("route", "to %s (there are no routes)", to)
		return
	}
	match := r.Match
	if match == "" {
		match = "every request"
	}
	w.line("route", "routes[%d]: to %s (matches %s)", r.Index, to, match)
}

func (p *Path) write(w *textWriter, label string) {
	text := p.To + ": " + p.Verdict
	if p.Reason != "" {
		text += ": " + p.Reason
	}
	w.line(label, "%s", text)
	if p.Rule != "" {
		where := "by the upstream"
		if len(p.Addresses) > 0 {
			where = "by the upstream, for socks5 here"
		}
		w.line("  name", "resolved %s; %s", where, p.Rule)
	}
	for _, a := range p.Addresses {
		text := fmt.Sprintf("%s %s: %s", a.Address, a.Verdict, a.Rule)
		if a.FailedLately {
			text += " (failed lately: tried last)"
		}
		w.line("  address", "%s", text)
	}
	if p.Circuit != "" {
		w.line("  circuit", "%s", p.Circuit)
	}
	if p.Source != nil {
		w.line("  from", "%s", p.Source)
	}
	if len(p.Limits) > 0 {
		w.line("  limits", "%s", p.Limits)
	}
	if p.Group != nil {
		p.Group.write(w)
	}
}

func (g *Group) write(w *textWriter) {
	text := g.Policy
	if g.Panic {
		text += "; too few upstreams are in rotation, so circuits are ignored"
	}
	w.line("  policy", "%s", text)
	for i := range g.Upstreams {
		w.line("  upstream", "%s", g.Upstreams[i].text())
	}
	switch {
	case g.Probe:
		w.line("  next", "%s, as the probe of its circuit", g.Next[0])
	case len(g.Next) == 1:
		w.line("  next", "%s", g.Next[0])
	case len(g.Next) > 1:
		w.line("  next", "one of %s", strings.Join(g.Next, ", "))
	}
}

func (u *Upstream) text() string {
	text := fmt.Sprintf("%s: %s; priority %d, weight %d", u.Upstream, u.State, u.Priority, u.Weight)
	s := u.Details
	if s != nil {
		if s.Factor < 1 {
			text += fmt.Sprintf("×%g", s.Factor)
		}
		text += fmt.Sprintf("; %d exchanges, %d tunnels", s.Exchanges, s.Tunnels)
	}
	if len(u.Limits) > 0 {
		text += "; " + u.Limits.String()
	}
	if u.Source != nil {
		text += "; from " + u.Source.String()
	}
	if u.ToldLast != "" {
		text += "; told of " + u.ToldLast + " last"
	}
	if s != nil && s.Latency > 0 {
		text += "; latency " + time.Duration(s.Latency*float64(time.Second)).Round(10*time.Microsecond).String()
	}
	if s != nil && s.LastError != "" {
		text += "; last check: " + plaintext.Escaped(s.LastError)
	}
	return text
}
