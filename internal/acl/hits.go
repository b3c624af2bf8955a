package acl

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains how often rules decide. Who asks them for a real request says so when
// that is over: a dry run asks the same questions and counts for nothing.

// hits is how often a rule has decided.
type hits struct {
	n    atomic.Uint64
	last atomic.Int64 // Unix time; 0: never
}

func (h *hits) count(now time.Time) {
	h.n.Add(1)
	if at := now.Unix(); h.last.Load() != at { // most times nothing is written
		h.last.Store(at)
	}
}

// Hits are those of the rules of one handler. They outlive configurations: a rule keeps its
// count for as long as its text is in one of them. It is safe for concurrent use.
type Hits struct {
	mu       sync.Mutex
	rules    map[string]*heldHits // guarded by mu: by text, without the position
	defaults map[string]*hits     // what decides without a rule; it is not changed
}

type heldHits struct {
	hits
	holders int
}

// SharedHits are the hits of all handlers, by their place.
var SharedHits = shared.NewPool[*Hits]()

// NewHits returns those of rules that have never decided.
func NewHits() *Hits {
	h := &Hits{rules: make(map[string]*heldHits), defaults: make(map[string]*hits)}
	for _, d := range defaultDenials {
		h.defaults[d.Rule] = new(hits)
	}
	return h
}

// Destruct forgets them.
func (*Hits) Destruct() error { return nil }

// hold returns the hits by text, until release is called with the same texts.
func (h *Hits) hold(texts []string) map[string]*hits {
	h.mu.Lock()
	defer h.mu.Unlock()
	held := make(map[string]*hits, len(texts))
	for _, text := range texts {
		r := h.rules[text]
		if r == nil {
			r = new(heldHits)
			h.rules[text] = r
		}
		r.holders++
		held[text] = &r.hits
	}
	return held
}

func (h *Hits) release(texts []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, text := range texts {
		if r := h.rules[text]; r != nil {
			if r.holders--; r.holders == 0 {
				delete(h.rules, text)
			}
		}
	}
}

// textsOf are the texts of rules that hits are kept by.
func textsOf(rules []Rule) (texts []string) {
	for i := range rules {
		for _, s := range rules[i].Subjects {
			texts = append(texts, verb(rules[i].Allow)+" "+plaintext.Printable(s))
		}
		for _, path := range rules[i].Files {
			texts = append(texts, verb(rules[i].Allow)+"_file "+plaintext.Printable(path))
		}
	}
	return texts
}

// CountRefused counts the rule, or the default, that has refused a request, as err says.
func (r *Rules) CountRefused(err error, now time.Time) {
	d, ok := errors.AsType[*Denial](err)
	switch {
	case !ok:
	case d.hits != nil:
		d.hits.count(now)
	case r.hits != nil && r.hits.defaults[d.Rule] != nil:
		r.hits.defaults[d.Rule].count(now)
	}
}

// CountPassed counts the rule that has let a request pass, if there was one: to a target at
// an address, which is not valid where an upstream has resolved the name.
func (r *Rules) CountPassed(t target.Target, addr netip.Addr, now time.Time) {
	l := r.Now()
	if len(l.hits) == 0 {
		return
	}
	if t.IsAddr() {
		addr = t.Addr
	}
	var pos uint32
	if addr.IsValid() {
		pos = l.allowedAddr(t, addr)
	} else {
		pos = l.matchName(t)
	}
	if pos != noMatch && l.verdicts[pos] == nil {
		l.hits[pos].count(now)
	}
}

// Report is what access rules have done, and what they are made of.
type Report struct {
	Rules    []RuleReport // in their order
	Defaults []RuleReport // those that have decided
	Loaded   time.Time    // when the files were read
	Failed   time.Time    // when they could not be read again, since then; zero: they could
	Error    string       // why not
}

// RuleReport is how often a subject or a file of a rule has decided.
type RuleReport struct {
	Text  string // as explain tells it: "acl[2]: deny 10.0.0.0/8"
	Allow bool
	Hits  uint64
	Last  time.Time // zero: never; to the second
	File  *File     // nil for a subject
}

// File is a file with subjects.
type File struct {
	Path    string
	Entries int
}

// Report tells what the rules have done up to now.
func (r *Rules) Report() Report {
	l := r.Now()
	out := Report{Loaded: l.made}
	var before *hits
	for i, h := range l.hits {
		if h == before && i > 0 && l.texts[i] == l.texts[i-1] {
			continue // of the two positions of a file
		}
		before = h
		told := h.report(l.texts[i], l.verdicts[i] == nil)
		told.File = l.read[i]
		out.Rules = append(out.Rules, told)
	}
	for _, d := range defaultDenials {
		if told := r.hits.defaults[d.Rule].report(d.Rule, false); told.Hits > 0 {
			out.Defaults = append(out.Defaults, told)
		}
	}
	if f := r.failed.Load(); f != nil {
		out.Failed, out.Error = f.at, f.err
	}
	return out
}

func (h *hits) report(text string, allow bool) RuleReport {
	out := RuleReport{Text: text, Allow: allow, Hits: h.n.Load()}
	if at := h.last.Load(); at != 0 {
		out.Last = time.Unix(at, 0)
	}
	return out
}

// reloadFailure is why files could not be read again.
type reloadFailure struct {
	at  time.Time
	err string
}
