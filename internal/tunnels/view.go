package tunnels

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/relay"
)

// This file contains what is told of tunnels one by one, for people and programs that look.

// lastID is the ID of the last tunnel of this process that was listed.
var lastID atomic.Uint64

// Entry is a tunnel that is listed.
type Entry struct {
	*live
	book *Book
}

// Each calls f for the tunnels that are listed now, but for those that go meanwhile. Nobody
// who opens or closes one waits for that.
func (b *Book) Each(f func(Entry)) {
	b.Live.each(func(l *live) { f(Entry{l, b}) })
}

// ID is that of the tunnel.
func (e Entry) ID() uint64 { return e.live.id }

// Handler is the handler that it is counted for.
func (e Entry) Handler() string { return e.book.Handler }

// User is whose it is; empty for nobody.
func (e Entry) User() string { return e.asked.User }

// Client is who has asked for it.
func (e Entry) Client() netip.Addr { return e.asked.Client }

// Target is the destination that was asked for.
func (e Entry) Target() (host string, port uint16) {
	if e.asked.Target.IsAddr() {
		return e.asked.Target.Addr.String(), e.asked.Target.Port
	}
	return e.asked.Target.Host, e.asked.Target.Port
}

// Via is the upstream that it goes through; nil for none.
func (e Entry) Via() *Via { return e.asked.Via }

// Began is when it was opened.
func (e Entry) Began() time.Time { return e.began }

// Bytes are those that were delivered so far.
func (e Entry) Bytes() (up, down int64) { return e.relay.Counts() }

// Rates are bytes a second over relay.RateWindow.
func (e Entry) Rates() (up, down float64) { return e.relay.Rates() }

// End ends it.
func (e Entry) End(reason relay.Reason) { e.relay.End(reason) }

// Remote is the address of the destination that it leads to; not valid where an upstream was
// told a name.
func (e Entry) Remote() netip.Addr { return e.addr }

// HTTPMajor is the version of HTTP that it was asked for in.
func (e Entry) HTTPMajor() uint8 { return e.asked.Major }
