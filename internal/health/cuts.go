package health

// This file contains the suspicion of upstreams that cut requests which must not be sent
// twice, such as POST: nobody else is asked for these, and answers to others would forgive
// each of them.

// observeUnsafe records how one went. Several distinct hosts that fail so through m, and are
// answered through other members for enough clients, take m out.
func (g *Group) observeUnsafe(now instant, m *Member, o *Observation, ts []Transition) []Transition {
	cfg := &g.cfg.UpstreamConfig
	switch {
	case o.Kind == Failure && o.Relayed:
		g.cut.add(o.Destination)
		return changed(ts, m.Upstream.cutsOff(now, cfg, o))
	case o.Kind != Success || !o.Reached:
		return ts
	}
	if m.Upstream.cutting.Load() {
		m.Upstream.answersUnsafe()
	}
	if !g.cut.take(o.Destination) {
		return ts
	}
	for _, other := range g.Members() {
		if u := other.Upstream; u != m.Upstream && u.cutting.Load() {
			ts = changed(ts, u.cutElsewhere(now, cfg, o.Destination))
		}
	}
	return ts
}

// cutsOff records a request that the upstream has cut.
func (u *Upstream) cutsOff(now instant, cfg *UpstreamConfig, o *Observation) Transition {
	return u.step(now, func() Reason {
		u.cutting.Store(true)
		u.cut.add(now, o.Destination, o.Client)
		return u.convictCuts(now, cfg)
	})
}

// cutElsewhere records that a destination that was cut here was answered elsewhere.
func (u *Upstream) cutElsewhere(now instant, cfg *UpstreamConfig, destination uint64) Transition {
	return u.step(now, func() Reason {
		u.cut.answeredElsewhere(now, destination)
		return u.convictCuts(now, cfg)
	})
}

func (u *Upstream) convictCuts(now instant, cfg *UpstreamConfig) Reason {
	yes, networks, by := u.cut.convicted(now)
	if !yes || u.breaker.state != Closed || !u.believes(now, networks, by) {
		return ""
	}
	return u.eject(now, cfg, ReasonElsewhere)
}

// answersUnsafe forgets the cuts: an answer to one is the only thing that disproves them.
func (u *Upstream) answersUnsafe() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.cut.clear()
	u.cutting.Store(false)
}
