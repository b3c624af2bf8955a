package upstream

import (
	"hash"
	"hash/fnv"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/selection"
)

// Member is an upstream proxy of a group: with the settings of one configuration, beside
// the state that outlives it.
type Member struct {
	Group *Group // that it belongs to
	Spec  *Spec  // its settings
	Name  string // for people: the URL without credentials

	Health *Health // which outlives a configuration
	Conns  *Conns  // which do too

	key    uint64
	fields []h1.Field // told the upstream beside a request
	ref    health.Member

	connsUse  *shared.Use[*Conns]
	healthUse *shared.Use[*Health]
}

// newMember makes a member, or takes up the state that one of the same identity has
// left. It is called with the lock of the group held, and identities.giving.
func (g *Group) newMember(s *Spec, healthID string, key uint64) (*Member, error) {
	m := &Member{Group: g, Spec: s, Name: s.Addr.String(), key: key, fields: s.proxyFields()}
	var err error
	m.connsUse, err = SharedConns.Use(s.connsID(g.Name, g.cfg.Transport), func() (*Conns, error) { return g.connect(s) })
	if err != nil {
		return nil, err
	}
	m.healthUse, err = SharedHealth.Use(healthID, func() (*Health, error) { return newHealth(s.account(g.Name), healthID), nil })
	if err != nil {
		_ = m.connsUse.Release()
		return nil, err
	}
	m.Conns, m.Health = m.connsUse.Value, m.healthUse.Value
	m.ref = health.Member{Upstream: &m.Health.Upstream, Priority: s.Priority, Value: m}
	if g.cfg.Checks != nil {
		m.Health.checking.Add(1)
	}
	return m, nil
}

// start lets connections be dialed ahead, if any are wanted.
func (m *Member) start() { m.Health.follow(m) }

// release gives the state back. What is under way through the member goes on.
// identities.giving is held.
func (m *Member) release() {
	m.Health.unfollow(m)
	if m.Group.cfg.Checks != nil {
		if t, last := m.Health.endChecks(); last && t.Upstream != nil {
			m.Health.cameOrWent()
		}
	}
	_, _ = m.connsUse.Release(), m.healthUse.Release()
}

// memberKeys finds the keys of the members of a group, by which sticky policies and circuits
// of destinations know them. A key is that of the address, so that another password moves
// nothing. Of those at one address, the user is part of it; and what differs in neither, in
// the order in which they are written. Keys hang on the configuration alone, so that all
// instances with the same one choose the same member.
type memberKeys struct {
	users map[string]map[string]bool // by address
	last  map[string]hash.Hash64     // that was taken of what differs in neither
	taken map[uint64]bool
}

func keysOf(lists ...[]*Spec) memberKeys {
	k := memberKeys{users: make(map[string]map[string]bool), last: make(map[string]hash.Hash64), taken: make(map[uint64]bool)}
	for _, s := range slices.Concat(lists...) {
		addr := s.Addr.String()
		if k.users[addr] == nil {
			k.users[addr] = make(map[string]bool, 1)
		}
		k.users[addr][s.user()] = true
	}
	return k
}

// take returns the key of the next member.
func (k *memberKeys) take(s *Spec) uint64 {
	id := s.Addr.String()
	if len(k.users[id]) > 1 {
		id += "\x00" + s.user()
	}
	h := k.last[id]
	if h == nil {
		h = fnv.New64a()
		_, _ = h.Write([]byte(id))
		k.last[id] = h
	}
	for k.taken[h.Sum64()] {
		_, _ = h.Write([]byte{0})
	}
	key := h.Sum64()
	k.taken[key] = true
	return key
}

// SpeaksHTTP reports whether exchanges go through the upstream in absolute form.
func (m *Member) SpeaksHTTP() bool { return m.Spec.Addr.Scheme == HTTP || m.Spec.Addr.Scheme == HTTPS }

// Authenticates reports whether the upstream is sent credentials of the operator's.
func (m *Member) Authenticates() bool {
	return slices.ContainsFunc(m.fields, func(f h1.Field) bool { return http.CanonicalHeaderKey(f.Name) == "Proxy-Authorization" })
}

// AppendFields appends the fields that the upstream is told beside a request.
func (m *Member) AppendFields(b []byte) []byte {
	for i := range m.fields {
		b = h1.AppendField(b, m.fields[i].Name, m.fields[i].Value)
	}
	return b
}

func (m *Member) setFields(header http.Header) {
	for _, f := range m.fields {
		header.Add(f.Name, f.Value)
	}
}

// Full reports whether the member cannot take another request of a use for its limits.
func (m *Member) Full(use Use) bool {
	switch use {
	case Upgrade:
		return m.Full(Exchange) || m.Full(Tunnel)
	case Tunnel:
		return m.Spec.MaxTunnels > 0 && m.Health.Tunnels() >= int64(m.Spec.MaxTunnels)
	}
	return m.Spec.MaxConns > 0 && m.Health.Exchanges() >= int64(m.Spec.MaxConns+max(m.Spec.MaxPending, 0))
}

// StartTunnel takes a slot for a tunnel, if there is one. EndTunnel of its health gives
// it back.
func (m *Member) StartTunnel() bool {
	if m.Spec.MaxTunnels <= 0 {
		m.Health.StartTunnel()
		return true
	}
	m.Health.slots.Lock() // or two could refuse each other the last one
	defer m.Health.slots.Unlock()
	if m.Full(Tunnel) {
		return false
	}
	m.Health.StartTunnel()
	return true
}

// Enter counts a tunnel that is being opened through the upstream, until Leave is called.
// Where there are too many it returns an error, and does not.
func (m *Member) Enter(of Opening) error { return m.Health.openings.enter(of) }

// Leave ends what Enter has begun.
func (m *Member) Leave(of Opening) { m.Health.openings.leave(of) }

// Report is what is known of the health of the member.
func (m *Member) Report(now time.Time) health.Report {
	return m.Health.Report(now, m.Group.health.Config())
}

// ID is what people and programs know the member by.
func (m *Member) ID() string { return *m.Health.id.Load() }

// Key implements selection.Member.
func (m *Member) Key() uint64 { return m.key }

// Weight implements selection.Member.
func (m *Member) Weight() int { return m.Spec.Weight }

// Factor implements selection.Member.
func (m *Member) Factor() float64 { return m.Health.Factor(time.Now(), m.Group.health.Config()) }

// InFlight implements selection.Member.
func (m *Member) InFlight() int { return int(m.Health.InFlight()) }

// Latency implements selection.Member.
func (m *Member) Latency() time.Duration { return m.Health.Latency(time.Now()) }

// forExchange, forTunnel and forUpgrade are a member as requests of these uses see it: they
// have different limits.
type (
	forExchange struct{ *Member }
	forTunnel   struct{ *Member }
	forUpgrade  struct{ *Member }
)

// Available implements selection.Member. The members that are given to a policy are in
// rotation; what is left are their limits.
func (m forExchange) Available() bool { return !m.Full(Exchange) }

// Available implements selection.Member.
func (m forTunnel) Available() bool { return !m.Full(Tunnel) }

// Available implements selection.Member.
func (m forUpgrade) Available() bool { return !m.Full(Upgrade) }

// Interface guards
var (
	_ selection.Member = forExchange{}
	_ selection.Member = forTunnel{}
	_ selection.Member = forUpgrade{}
)
