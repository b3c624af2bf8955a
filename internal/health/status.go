package health

// Admin is what the operator wants of an upstream.
type Admin uint8

// The administrative states.
const (
	Ready Admin = iota // in rotation, if its health allows
	Drain              // no new requests; what is under way goes on, and so do checks
	Maint              // no new requests, no checks
)

func (a Admin) String() string { return [...]string{"ready", "drain", "maint", "invalid"}[min(a, 3)] }

// ParseAdmin returns what a word means.
func ParseAdmin(word string) (Admin, bool) {
	for a := Ready; a <= Maint; a++ {
		if a.String() == word {
			return a, true
		}
	}
	return 0, false
}

// Active is what active checks found.
type Active uint8

// The results of active checks.
const (
	Unknown Active = iota // not checked yet: in rotation
	Up
	Down
)

func (a Active) String() string { return [...]string{"unknown", "up", "down", "invalid"}[min(a, 3)] }

// Status is the health of an upstream at one moment.
type Status struct {
	Admin   Admin
	Active  Active
	Circuit State

	// AuthFault: the circuit is open because the upstream refused our credentials.
	AuthFault bool

	// ConnectFailed and CheckFailed tell whether the last connect and the last
	// active check failed. They matter in panic only.
	ConnectFailed bool
	CheckFailed   bool

	// Spared: it should be ejected, but the group cannot do without it. It is in
	// rotation, and used last.
	Spared bool
}

// InRotation reports whether the upstream may be picked, leaving panic aside.
func (s Status) InRotation() bool {
	return s.Admin == Ready && s.Active != Down && s.Circuit == Closed
}

// ejected reports whether it was taken out for its failures, which is what the
// cap counts and panic ignores.
func (s Status) ejected() bool { return s.Circuit != Closed && !s.AuthFault }

// probeable reports whether a probe could bring it back.
func (s Status) probeable() bool {
	return s.Admin == Ready && s.Active != Down && s.Circuit != Closed
}

// The bits of a packed status.
const (
	bitAuthFault = 1 << (6 + iota)
	bitConnectFailed
	bitCheckFailed
	bitSpared
)

func (s Status) pack() uint32 {
	w := uint32(s.Admin) | uint32(s.Active)<<2 | uint32(s.Circuit)<<4
	for _, b := range [...]struct {
		set bool
		bit uint32
	}{{s.AuthFault, bitAuthFault}, {s.ConnectFailed, bitConnectFailed}, {s.CheckFailed, bitCheckFailed}, {s.Spared, bitSpared}} {
		if b.set {
			w |= b.bit
		}
	}
	return w
}

func unpack(w uint32) Status {
	return Status{
		Admin:         Admin(w & 3),
		Active:        Active(w >> 2 & 3),
		Circuit:       State(w >> 4 & 3),
		AuthFault:     w&bitAuthFault != 0,
		ConnectFailed: w&bitConnectFailed != 0,
		CheckFailed:   w&bitCheckFailed != 0,
		Spared:        w&bitSpared != 0,
	}
}

// Event is what a transition is called in logs and events.
type Event string

// The events. Transitions that are none of these (a first check that passes, what
// the operator asked for, half-open and back) have EventNone.
const (
	EventNone          Event = ""
	EventHealthy       Event = "healthy"        // active checks: down → up
	EventUnhealthy     Event = "unhealthy"      // active checks: unknown or up → down
	EventCircuitOpen   Event = "circuit_open"   // ejected
	EventCircuitClosed Event = "circuit_closed" // back, also after an authentication fault
	EventAuthFailed    Event = "auth_failed"    // out of rotation: credentials refused
)

// Events are all of them, but for none.
var Events = [...]Event{EventHealthy, EventUnhealthy, EventCircuitOpen, EventCircuitClosed, EventAuthFailed}

// Reason is why a transition happened.
type Reason string

// The reasons.
const (
	ReasonFailures    Reason = "consecutive_failures"
	ReasonSuccessRate Reason = "success_rate"
	ReasonSuspicion   Reason = "suspicion_check_failed" // suspected, and the check it asked for failed
	ReasonElsewhere   Reason = "suspicion_other_path"   // suspected, and its destinations answer on another path
	ReasonAuth        Reason = "credentials_refused"
	ReasonProbePassed Reason = "probe_passed"
	ReasonCheckPassed Reason = "check_passed"
	ReasonCheckFailed Reason = "check_failed"
	ReasonDestination Reason = "destination_failed" // what opened the circuit was a destination's doing
	ReasonAdmin       Reason = "admin"
	ReasonUnchecked   Reason = "checks_ended" // the configuration has no active checks any more
)

// Transition is a change of an upstream's health. The zero value is none.
type Transition struct {
	Upstream *Upstream
	From, To Status
	Reason   Reason
}

// Changed reports whether there was one.
func (t Transition) Changed() bool { return t.Upstream != nil }

// Event returns what the transition is called.
func (t Transition) Event() Event {
	switch {
	case t.To.AuthFault && !t.From.AuthFault:
		return EventAuthFailed
	case t.To.Circuit != Closed && t.From.Circuit == Closed:
		return EventCircuitOpen
	case t.To.Circuit == Closed && t.From.Circuit != Closed:
		return EventCircuitClosed
	case t.To.Active == Down && t.From.Active != Down:
		return EventUnhealthy
	case t.To.Active == Up && t.From.Active == Down:
		return EventHealthy
	}
	return EventNone
}

// edge reports whether From and To differ in what an operator sees. Open and
// half-open are the same to them: out, until a probe passes.
func edge(from, to Status) bool {
	return from.Admin != to.Admin || from.Active != to.Active || from.AuthFault != to.AuthFault ||
		(from.Circuit == Closed) != (to.Circuit == Closed)
}
