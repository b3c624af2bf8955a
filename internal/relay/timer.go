package relay

import "time"

// One timer serves all limits of a relay. A byte that comes in only stores
// the time (touch); the timer looks at it when it fires and arms itself anew
// for what is left. So a busy tunnel pays one clock reading per read, and the
// timer heap is touched twice per idle period.
//
// A peer that reads slowly may take bytes from a socket for long before the socket takes
// more from the relay. So half of the time before a tunnel would be idle, the timer looks
// at how far both directions have come (look); if one of them has come further at the
// end, that counts as bytes that came in then.

// touch notes that bytes came in, and returns when.
func (r *Relay) touch() (now time.Duration) {
	now = time.Since(r.start)
	r.last.Store(int64(now))
	return now
}

// arm sets the timer for the earliest limit, given the time since start.
// r.mu is held.
func (r *Relay) arm(now time.Duration) {
	at, reason := r.deadline()
	if at < 0 {
		return
	}
	if r.mustLook() {
		at -= r.quietTime(reason) / 2
	}
	wait := max(at-now, 0)
	switch {
	case r.timer == nil:
		r.ticks.Add(1)
		r.timer = time.AfterFunc(wait, r.tick)
	default:
		r.disarm()
		r.ticks.Add(1)
		r.timer.Reset(wait)
	}
}

// disarm stops the timer. A tick that runs already is not affected. r.mu is
// held.
func (r *Relay) disarm() {
	if r.timer != nil && r.timer.Stop() {
		r.ticks.Done()
	}
}

// deadline returns the earliest limit as time since start, and which one it
// is; -1 if there is none. r.mu is held.
func (r *Relay) deadline() (time.Duration, Reason) {
	if r.draining != 0 {
		return r.drainBy, r.draining // soon, and the others do not matter any more
	}
	at, reason := time.Duration(-1), Reason(0)
	consider := func(t time.Duration, why Reason) {
		if at < 0 || t < at {
			at, reason = t, why
		}
	}
	if r.lifetime > 0 {
		consider(r.lifetime, ReasonLifetime)
	}
	if r.idle > 0 {
		consider(time.Duration(r.last.Load())+r.idle, ReasonIdle)
	}
	if r.lingering && r.halfClose > 0 {
		consider(max(r.lingerFrom, time.Duration(r.last.Load()))+r.halfClose, ReasonHalfClose)
	}
	return at, reason
}

// quietTime is the limit that a reason stands for, if it counts from the last byte.
func (r *Relay) quietTime(reason Reason) time.Duration {
	switch reason {
	case ReasonIdle:
		return r.idle
	case ReasonHalfClose:
		return r.halfClose
	}
	return 0
}

// mustLook reports whether nothing was looked at since the last byte. r.mu is held.
func (r *Relay) mustLook() bool { return r.looked < time.Duration(r.last.Load()) }

// look notes how far the directions have come, and reports whether that is further than
// at the last look. r.mu is held.
func (r *Relay) look(now time.Duration) (further bool) {
	r.looked = now
	up := r.up.goesOn(&r.up.timed)
	return r.down.goesOn(&r.down.timed) || up
}

// linger starts the half-close limit, once. r.mu is held.
func (r *Relay) linger() {
	if r.lingering {
		return
	}
	r.lingering = true
	r.watchLocked()
	if r.halfClose > 0 {
		r.lingerFrom = time.Since(r.start)
		r.arm(r.lingerFrom)
	}
}

// tick runs when the timer fires.
func (r *Relay) tick() {
	defer r.ticks.Done()
	r.mu.Lock()
	if r.phase != phaseRunning {
		r.mu.Unlock()
		return
	}
	now := time.Since(r.start)
	at, reason := r.deadline()
	quiet := r.quietTime(reason)
	switch {
	case quiet == 0:
	case at <= now:
		if r.look(now) {
			r.last.Store(int64(now))
			at = now + quiet
		}
	case r.mustLook() && at-quiet/2 <= now:
		r.look(now)
	}
	if at > now {
		r.arm(now)
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()

	// The tunnel may be ending for another reason already and only be slow
	// to deliver its last bytes; that reason stays, but the limit holds.
	r.force(reason)
	r.closeStreams()
}
