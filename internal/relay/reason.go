package relay

// Reason is why a tunnel ended. The zero value means it has not.
type Reason uint8

// Reasons. The first two are orderly: both sides ended, this one first.
const (
	ReasonClient      Reason = iota + 1 // the client ended first
	ReasonOrigin                        // the origin ended first
	ReasonIdle                          // Config.IdleTimeout
	ReasonHalfClose                     // Config.HalfCloseTimeout
	ReasonLifetime                      // Config.Lifetime
	ReasonClosed                        // End, without a particular reason
	ReasonDrain                         // End: the process or the configuration goes away
	ReasonPolicy                        // End: the access rules now forbid the tunnel
	ReasonAdmin                         // End: an operator asked for it
	ReasonStalled                       // Cut: its client's bytes were left unread, and starved other tunnels
	ReasonClientError                   // the client's side broke: reset, protocol error
	ReasonOriginError                   // the origin's side broke
)

var reasonNames = [...]string{
	0:                 "none",
	ReasonClient:      "client",
	ReasonOrigin:      "origin",
	ReasonIdle:        "idle",
	ReasonHalfClose:   "half_close_timeout",
	ReasonLifetime:    "lifetime",
	ReasonClosed:      "closed",
	ReasonDrain:       "drain",
	ReasonPolicy:      "policy",
	ReasonAdmin:       "admin",
	ReasonStalled:     "stalled",
	ReasonClientError: "client_error",
	ReasonOriginError: "origin_error",
}

// Reasons is one more than the highest reason: the length of a table of them.
const Reasons = len(reasonNames)

// String returns the word for logs and metrics.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}

// broken returns the error reason of a side given as ReasonClient or
// ReasonOrigin.
func (r Reason) broken() Reason {
	if r == ReasonClient {
		return ReasonClientError
	}
	return ReasonOriginError
}

// other returns the opposite side.
func (r Reason) other() Reason {
	if r == ReasonClient {
		return ReasonOrigin
	}
	return ReasonClient
}
