package health

import "time"

// Kind is what the end of a request tells about the upstream it went through.
type Kind uint8

// The kinds of observations. A request gives exactly one.
const (
	// Success: the upstream did its job. CONNECT answered with 2xx, any response
	// relayed, a 403, and errors whose Proxy-Status names DNS, the destination or
	// the connection to it.
	Success Kind = iota

	// ConnectFailure: the connection or the TLS handshake to the upstream failed.
	ConnectFailure

	// Failure: it failed after that. End of stream or garbage before its reply,
	// Proxy-Status: proxy_internal_error.
	Failure

	// AuthFault: 407.
	AuthFault

	// Overload: 429, or 503 with Retry-After.
	Overload

	// SoftFail: 502, 503 or 504 to CONNECT that tells no more. Neutral, but
	// suspicious when there are many destinations.
	SoftFail

	// ReplyTimeout: no reply to CONNECT in time. As SoftFail; and if nothing else
	// was answered since Started, an active check is asked for.
	ReplyTimeout

	// Neutral: nothing can be said. Denied by policy, our own limit.
	Neutral

	// Cancelled: the client went away first, or had an answer from elsewhere.
	Cancelled

	// Kinds is how many there are.
	Kinds
)

// String returns the word for logs and metrics.
func (k Kind) String() string {
	return [...]string{
		"success", "connect_failure", "failure", "auth_fault", "overload", "soft_failure", "reply_timeout", "neutral", "cancelled", "invalid",
	}[min(k, Kinds)]
}

// Observation is how a request through an upstream ended.
type Observation struct {
	Kind Kind

	// Destination is the number of the destination (see [Destination]); 0 if it
	// does not matter.
	Destination uint64

	// Client is the number of who has sent the request (see [ClientOf]); 0 if nobody knows.
	Client Client

	// RetryAfter is how long an Overload lasts. Between 1 second and MaxOpenFor.
	RetryAfter time.Duration

	// Reached marks a Success that proves that the destination was reached: CONNECT
	// 2xx, or a response of the origin. That an upstream says what is wrong with a
	// destination is a success of the upstream and no such proof.
	Reached bool

	// Absolute marks a Success of an exchange that left in absolute form: no tunnel was
	// opened.
	Absolute bool

	// LoggedIn tells, whatever the Kind, that the upstream has accepted a login before it
	// was told the destination.
	LoggedIn bool

	// Anonymous marks an AuthFault of an upstream that was sent no credentials: none can be
	// locked.
	Anonymous bool

	// ToldClient marks an AuthFault of an upstream that was told for which client it is asked:
	// it may be that one which it refuses.
	ToldClient bool

	// Refused marks a Relayed Failure that may say that the upstream refuses our credentials.
	Refused bool

	// Served marks an AuthFault while other members reach destinations. Set by
	// [Group.Observe].
	Served bool

	// Named marks a Success that says itself that the destination cannot be reached. So may
	// an upstream whose uplink is dead: it counts towards suspicion.
	Named bool

	// Started is when the request was sent; zero where its time says nothing about
	// the latency of the upstream. A ReplyTimeout needs it.
	Started time.Time

	// Relayed marks a Failure or an AuthFault that may be the destination's, which the
	// upstream has only passed on: of an exchange or a CONNECT whose connection ended,
	// or of an exchange that was answered in this way. See [Group.Observe].
	Relayed bool

	// Alone marks a Relayed one of a request that no other member is asked for, such as a
	// POST: nothing will tell whose failure it was.
	Alone bool

	// Unsafe marks that of an exchange in absolute form that must not be sent twice, such as a
	// POST.
	Unsafe bool

	// Unsent marks a Neutral one that got no further than us: a limit of ours, or a name
	// that does not resolve. Where it was the probe, the next request is.
	Unsent bool

	// Overtaken marks a Cancelled one whose client is still there: another attempt beside
	// it was faster.
	Overtaken bool

	// Probe is the token of the probe, if the request was one.
	Probe Token

	again bool // a Reached one of what was known before
}

// Doubt is what an observation says that is no failure yet.
type Doubt uint8

// The doubts.
const (
	NoDoubt      Doubt = iota
	Suspect            // many distinct destinations failed, none succeeded
	StillSuspect       // the same, which was told as Suspect before, or a moment ago
	Unanswered         // no reply in time, and no other one since the request was sent
	Withheld           // credentials are refused often, and nothing tells whether they are wrong
	Slow               // so often that others are asked first
)

// CheckOutcome is what an active check found out.
type CheckOutcome uint8

// The outcomes of active checks.
const (
	Passed       CheckOutcome = iota
	Failed                    // the upstream is to blame
	Inconclusive              // every member failed: the target is to blame; or no check was possible
	Unauthorized              // the upstream refused the credentials (407)

	CheckOutcomes // is how many there are
)

func (o CheckOutcome) String() string {
	return [...]string{"passed", "failed", "inconclusive", "unauthorized", "invalid"}[min(o, CheckOutcomes)]
}
