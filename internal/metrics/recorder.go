package metrics

import (
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/upstream"
)

// Recorder counts the requests of the handler at one place. It is one of recorders, and
// outlives configurations. It is safe for concurrent use.
type Recorder struct {
	handler  string
	inFlight [2]prometheus.Gauge // by upstream.Use
	lookups  [dial.Lookups]prometheus.Counter
	clients  *clientSeries

	mu     sync.Mutex     // held to change ways
	groups map[string]int // how many configurations have each group; guarded by mu
	users  map[string]int // and each user that is told apart, OtherUsers among them; guarded by mu
	ways   atomic.Pointer[map[way]*series]
	last   [2]atomic.Pointer[series] // by upstream.Use: the way that the next one most likely goes
}

// recorders are those of all handlers, by place, and of handlers that are gone and have
// requests or tunnels.
var recorders = shared.NewPool[*Recorder]()

func newRecorder(handler string) *Recorder {
	r := &Recorder{handler: handler, groups: make(map[string]int), users: make(map[string]int), clients: newClientSeries(handler)}
	for _, use := range []upstream.Use{upstream.Exchange, upstream.Tunnel} {
		r.inFlight[kindIndex(use)] = inFlight.WithLabelValues(handler, kindOf(use))
	}
	for i := range r.lookups {
		r.lookups[i] = lookups.WithLabelValues(handler, dial.Lookup(i).String())
	}
	r.ways.Store(new(map[way]*series))
	return r
}

// Destruct forgets what was counted: no handler stands at the place any more, and nothing
// of one goes on.
func (r *Recorder) Destruct() error {
	for _, f := range families {
		f.DeletePartialMatch(prometheus.Labels{"handler": r.handler})
	}
	others.forgetHandler(r.handler)
	return nil
}

func kindIndex(use upstream.Use) int {
	if use == upstream.Tunnel {
		return 1
	}
	return 0
}

func kindOf(use upstream.Use) string { return [...]string{"exchange", "tunnel"}[kindIndex(use)] }

// way is how requests left. There are as many as the configuration has groups, and some
// more.
type way struct {
	tunnel      bool
	path, group string
}

func wayOf(t *core.Request) way {
	path := t.Outcome.Path()
	if path == "" {
		path = "none" // it did not leave
	}
	return way{t.Use == upstream.Tunnel, path, t.Outcome.Group}
}

// series are the metrics of one way, found once.
type series struct {
	of                *Recorder
	kind, path, group string

	requests   [otherClass + 1][2]atomic.Pointer[counter] // by class of the code, and whether it failed
	duration   prometheus.Observer
	ttfb, dial prometheus.Observer
	reuses     prometheus.Counter
	up, down   prometheus.Counter
	open       prometheus.Gauge   // of tunnels
	opened     prometheus.Counter // of tunnels
	life       prometheus.Observer
	reasons    [relay.Reasons]atomic.Pointer[counter] // of tunnels that have ended
	pool       atomic.Pointer[pool]                   // of exchanges; nil before the first dial
}

// counter is a prometheus.Counter that an atomic pointer can hold.
type counter struct{ prometheus.Counter }

// series finds the metrics of a way.
func (r *Recorder) series(w way) *series {
	last := &r.last[0]
	if w.tunnel {
		last = &r.last[1]
	}
	s := last.Load()
	if s == nil || s.path != w.path || s.group != w.group {
		s = r.find(w)
		last.Store(s)
	}
	return s
}

func (r *Recorder) find(w way) *series {
	if s := (*r.ways.Load())[w]; s != nil {
		return s
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := *r.ways.Load()
	if s := old[w]; s != nil {
		return s
	}
	s := r.newSeries(w)
	ways := maps.Clone(old)
	if ways == nil {
		ways = make(map[way]*series)
	}
	ways[w] = s
	r.ways.Store(&ways)
	return s
}

func (r *Recorder) newSeries(w way) *series {
	kind := kindOf(upstream.Exchange)
	if w.tunnel {
		kind = kindOf(upstream.Tunnel)
	}
	h, path, group := r.handler, w.path, w.group
	s := &series{
		of: r, kind: kind, path: path, group: group,
		duration: requestDuration.WithLabelValues(h, kind, path, group),
		dial:     dialDuration.WithLabelValues(h, path, group),
		up:       bytesMoved.WithLabelValues(h, kind, "up", path, group),
		down:     bytesMoved.WithLabelValues(h, kind, "down", path, group),
	}
	if w.tunnel {
		s.open = tunnelsOpen.WithLabelValues(h, path, group)
		s.opened = tunnelsOpened.WithLabelValues(h, path, group)
		s.life = tunnelDuration.WithLabelValues(h, path, group)
	} else {
		s.ttfb = ttfb.WithLabelValues(h, path, group)
		s.reuses = poolReuses.WithLabelValues(h, path, group)
	}
	return s
}

// outcomes are what requests_total tells beside the code.
var outcomes = [2]string{"ok", "failed"}

// otherClass is the class of the codes from 600 on, which HTTP has no meaning for.
const otherClass = 6

// The stages of failures_total.
const (
	stageRequest = "request"
	stageTunnel  = "tunnel"
)

// answered counts a request with the code that its client got, 0 where it got none.
func (s *series) answered(code int, failed bool) {
	class, i := min(code/100, otherClass), 0
	if failed {
		i = 1
	}
	c := s.requests[class][i].Load()
	if c == nil {
		text := "none"
		switch {
		case class == otherClass:
			text = "other"
		case class > 0:
			text = strconv.Itoa(class) + "xx"
		}
		c = &counter{requests.WithLabelValues(s.of.handler, door, s.kind, s.path, s.group, text, outcomes[i])}
		s.requests[class][i].Store(c) // who else came gets the same one from the family
	}
	c.Inc()
}

func (r *Recorder) begin(use upstream.Use) { r.inFlight[kindIndex(use)].Inc() }

func (r *Recorder) ended(t *core.Request) {
	r.inFlight[kindIndex(t.Use)].Dec()
	o := &t.Outcome
	s := r.series(wayOf(t))
	s.answered(int(o.Status), o.Failure != nil)
	trace := t.TraceID()
	observe(s.duration, o.Duration, trace)
	switch {
	case o.Reused && s.reuses != nil:
		s.reuses.Inc()
	case o.Dial > 0 && !o.Reused:
		s.dial.Observe(o.Dial.Seconds())
	}
	if o.Attempts > 1 {
		s.repeated(o)
	}
	if o.Queue > 0 {
		queueDuration.WithLabelValues(r.handler, s.path, s.group, resultOf(o.Failure)).Observe(o.Queue.Seconds())
	}
	if o.TTFB > 0 && s.ttfb != nil {
		observe(s.ttfb, o.TTFB, trace)
	}
	if t.Use != upstream.Tunnel {
		s.moved(o.BytesUp, o.BytesDown)
	}
	if o.Failure != nil {
		failures.WithLabelValues(r.handler, s.kind, stageRequest, string(o.Failure.Blame), o.Reason()).Inc()
		if limit := core.LimitOf(o.Failure, o.Err); limit != "" {
			limited.WithLabelValues(r.handler, limit).Inc()
		}
	}
	switch {
	case o.AuthFailure != "":
		logins.WithLabelValues(r.handler, string(o.AuthFailure)).Inc()
	case t.User != "":
		logins.WithLabelValues(r.handler, "ok").Inc()
	}
}

// observe notes a time, with the trace of the request as an example, if it has one.
func observe(to prometheus.Observer, d time.Duration, trace string) {
	if trace == "" {
		to.Observe(d.Seconds())
		return
	}
	to.(prometheus.ExemplarObserver).ObserveWithExemplar(d.Seconds(), prometheus.Labels{"trace_id": trace})
}

func (s *series) moved(up, down int64) {
	if up > 0 {
		s.up.Add(float64(up))
	}
	if down > 0 {
		s.down.Add(float64(down))
	}
}

func (r *Recorder) stands(t *core.Request) *series {
	w := wayOf(t)
	w.tunnel = true // also where it was an exchange before
	s := r.series(w)
	s.opened.Inc()
	s.open.Inc()
	return s
}

// closed counts the end of a tunnel.
func (s *series) closed(reason relay.Reason, took time.Duration) {
	s.open.Dec()
	s.life.Observe(took.Seconds())
	s.closes(reason).Inc()
}

// closes finds the counter of the tunnels that ended for a reason.
func (s *series) closes(reason relay.Reason) prometheus.Counter {
	if int(reason) >= len(s.reasons) {
		reason = 0
	}
	c := s.reasons[reason].Load()
	if c == nil {
		c = &counter{tunnelsClosed.WithLabelValues(s.of.handler, s.path, s.group, reason.String())}
		s.reasons[reason].Store(c)
	}
	return c
}
