package connpool

// Reason is why the pool has closed a connection, or let it go.
type Reason uint8

// The reasons. A connection that its user has discarded was of no further use to it: it has
// failed, or its peer has said that this exchange is the last one.
const (
	Discarded Reason = iota
	Idle             // it was idle for too long
	Aged             // it was at the end of its life
	Dead             // its peer had closed it while it was idle
	Evicted          // others needed its place
	Retired          // the pool keeps nothing idle any more
	Detached         // it was not: it has become something else, such as a tunnel
	Reasons          // how many there are
)

// String is the word for it.
func (r Reason) String() string {
	return [Reasons]string{"discarded", "idle", "lifetime", "dead", "evicted", "retired", "detached"}[r]
}

// tell tells a connection why it is closed, if it wants to know: see [Requester].
func (l *Lease[K, C]) tell() {
	if c, ok := any(l.conn).(interface{ ClosedFor(Reason) }); ok {
		c.ClosedFor(l.reason)
	}
}
