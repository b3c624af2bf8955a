//go:build linux

package main

import (
	"fmt"
	"strings"

	"github.com/caddy-egress/egress/internal/pattern"
)

// subject is something that is measured. Add peers here.
type subject struct {
	name  string
	start func(*lab) (*proxy, error)

	// absent says why it cannot be measured on this machine; nil where it can.
	// A nil function: it always can.
	absent func(*lab) error
	// version is what the report says about it; a nil function: nothing.
	version func(*lab) string

	fixed    bool // answers by itself: the origin sees nothing
	bare     bool // no proxy, but an entry to each of the origin's listeners
	closes   bool // ends the client's connection after each response
	http2    bool // its clients speak HTTP/2 over TLS with it
	scraped  bool // somebody reads its metrics each second while it is measured
	optional bool // may be absent even where peers are required
}

// The names of the subjects.
const (
	egress       = "egress"
	egressKeeps  = "egress, idle limits raised"
	egressHTTP2  = "egress, HTTP/2"
	egressBehind = "egress through egress"
	egressBeside = "egress through egress, HTTP/2"
	egressSilent = "egress, in a build that counts nothing"
	egressQuiet  = "egress, not scraped"
	egressWatch  = "egress, scraped each second"
	transport    = "http.Transport + io.Copy"
	noReadFrom   = "the same, ReadFrom hidden"
	reverseProxy = "Caddy reverse_proxy"
	caddyRespond = "Caddy respond"
	bareRelay    = "bare relay"
	squid        = "Squid"
	trafficSrv   = "Traffic Server"
	tinyproxy    = "tinyproxy"
	goProxy      = "goproxy"
	nghttpxSquid = "nghttpx + Squid, HTTP/2"
)

// egressRules opens what is closed unless a rule says so: the origin is on this
// machine.
const egressRules = "acl {\nallow 127.0.0.0/8\n}\n"

// egressKeeping lets egress hold as many idle connections as there are, for
// long enough to be measured, and lets thousands of requests at once wait until
// it has dialed for them.
const egressKeeping = `transport {
keepalive 5m
keepalive_idle_conns 8192
keepalive_idle_conns_per_host 8192
max_conns_per_host off
max_pending 8192
max_pending_per_host 8192
pending_timeout 1m
}
`

// subjects returns all of them.
func subjects() []subject {
	return []subject{
		{name: egress, start: caddy("egress {\n" + egressRules + "}"), version: egressVersion},
		{name: egressKeeps, start: caddy("egress {\n" + egressRules + egressKeeping + "}")},
		{name: egressHTTP2, http2: true, start: startCaddyTLS},
		{name: egressBehind, start: startBehind, absent: noUpstreams, optional: true},
		{name: egressBeside, start: startBehindHTTP2},
		{name: egressSilent, start: startSilent},
		{name: egressQuiet, start: startObserved},
		{name: egressWatch, start: startObserved, scraped: true},
		{name: transport, start: caddy("bench_reference"), version: caddyVersion},
		{name: noReadFrom, start: caddy("bench_reference hide_read_from")},
		{name: reverseProxy, start: startReverseProxy},
		{name: caddyRespond, fixed: true, start: caddy("respond " + string((&pattern.Body{ID: pattern.NoID}).Append(nil, getSize)))},
		{name: bareRelay, bare: true, start: startRelay},
		{name: squid, start: startSquid, absent: missing("squid"), version: output("squid", "-v")},
		{name: trafficSrv, start: startTrafficServer, absent: missing("traffic_server"), version: output("traffic_server", "-V"), optional: true},
		{name: tinyproxy, closes: true, start: startTinyproxy, absent: missing("tinyproxy"), version: output("tinyproxy", "-v")},
		{name: goProxy, start: startGoproxy, absent: noGoproxy, version: goproxyVersion},
		{name: nghttpxSquid, http2: true, start: startNghttpx, absent: missing("nghttpx", "squid"), version: output("nghttpx", "--version")},
	}
}

func subjectNamed(name string) subject {
	for _, s := range subjects() {
		if s.name == name {
			return s
		}
	}
	panic("no subject " + name)
}

// proxy is a subject that runs.
type proxy struct {
	subject
	pids       []int // whose cost counts, with their descendants
	stop       func()
	settle     func() error                 // gives free memory back; nil where there is no such thing
	entry      func(listener string) string // where to connect for one of the origin's listeners
	goroutines func() (int, error)          // the goroutines it has; nil where it is not known
	admin      string                       // the address of its admin endpoint; empty for none
}

// start starts a subject.
func (l *lab) start(name string) (*proxy, error) {
	s := subjectNamed(name)
	p, err := s.start(l)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", strings.ToLower(name), err)
	}
	p.subject = s
	return p, nil
}

// present says whether a subject can be measured here. Why it cannot is
// remembered for the report.
func (l *lab) present(name string) bool {
	why, known := l.absent[name]
	if !known {
		if s := subjectNamed(name); s.absent != nil {
			why = s.absent(l)
		}
		l.absent[name] = why
		if why != nil {
			l.skip(name, why)
		}
	}
	return why == nil
}

// skip notes what is not measured, and says so at once.
func (l *lab) skip(what string, why error) {
	text := fmt.Sprintf("%s: %v", what, why)
	l.skipped = append(l.skipped, text)
	progress("not measured: " + text)
}
