package dial

import (
	"context"
	"crypto/tls"
	"fmt"
	"unique"
)

// sessionScope is what TLS sessions are kept apart by: who sees one resumed knows that it
// is the same client, so they go where connections are not shared either.
type sessionScope struct {
	via  uint64                // the key of the member that the way leads through; 0: none
	slot uint32                // of sources that are kept apart by user
	from unique.Handle[string] // where a route leaves in a way of its own
}

// viaKey is where a context carries the member that a way leads through.
type viaKey struct{}

// WithVia makes a handshake one on the way through a member with this key.
func WithVia(ctx context.Context, member uint64) context.Context {
	return context.WithValue(ctx, viaKey{}, member)
}

// Sessions is the part of a cache of TLS sessions for a handshake, whose context ctx is:
// that of its slot, and of the member that it goes through.
func Sessions(ctx context.Context, all tls.ClientSessionCache) tls.ClientSessionCache {
	return sessionsOf(ctx, all, unique.Handle[string]{})
}

func sessionsOf(ctx context.Context, all tls.ClientSessionCache, from unique.Handle[string]) tls.ClientSessionCache {
	scope := sessionScope{from: from}
	scope.via, _ = ctx.Value(viaKey{}).(uint64)
	scope.slot, _ = ctx.Value(slotKey{}).(uint32)
	if all == nil || scope == (sessionScope{}) {
		return all
	}
	prefix := fmt.Sprintf("%d %d ", scope.via, scope.slot)
	if from != (unique.Handle[string]{}) {
		prefix += from.Value()
	}
	return &sessions{all, prefix + "\x00"}
}

// sessions are those of one scope in a cache that holds those of all, so that it bounds
// them together.
type sessions struct {
	all    tls.ClientSessionCache
	prefix string
}

// Get implements tls.ClientSessionCache.
func (s *sessions) Get(key string) (*tls.ClientSessionState, bool) { return s.all.Get(s.prefix + key) }

// Put implements tls.ClientSessionCache.
func (s *sessions) Put(key string, state *tls.ClientSessionState) { s.all.Put(s.prefix+key, state) }

// Interface guards
var _ tls.ClientSessionCache = (*sessions)(nil)
