package selection

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// policyNamespace is the module namespace of selection policies.
const policyNamespace = "http.egress.selection_policies"

// Policy chooses the upstream proxy of a request. A policy is a Caddy
// module in the namespace `http.egress.selection_policies`; to be written in a
// Caddyfile it implements caddyfile.Unmarshaler.
//
// One policy serves one group: Select is called by many requests at once, and
// for one priority tier of the group at a time.
type Policy interface {
	// Select returns the index into s.Members of the member to use, or -1 if
	// none is eligible. It must neither block nor keep s, and should not
	// allocate.
	Select(s *Choice) int
}

// Member is one upstream proxy as a policy sees it. Its methods are called for
// every request, some of them for every member of a group: they must be cheap,
// must not block, and may be called by many goroutines.
type Member interface {
	// Key is a hash of the identity of the upstream proxy: distinct within a
	// group, and the same after a reload and in every process with the same
	// configuration, so that what is sticky stays where it is.
	Key() uint64

	// Weight is the configured weight, the same for as long as the member lives: one
	// whose weight has changed is another member, in another slice. What is below 1
	// counts as 1.
	Weight() int

	// Factor is the part of its share that the member may have now, from 0 to
	// 1: slow start and overload shrink it. Near 0 a member is the last
	// resort; one that must not be picked at all is not Available.
	Factor() float64

	// InFlight is the number of exchanges and tunnels on the member now.
	InFlight() int

	// Latency is the mean time it takes to answer a CONNECT or to begin a response,
	// 0 if unknown. A failure makes it longer for a while, also where nothing is
	// answered meanwhile: a member that is not picked for its latency has no answers
	// that would show that it recovered.
	Latency() time.Duration

	// Available reports whether the member may be picked now: by its health,
	// its circuit and its own limits. It changes nothing; the one probe of a
	// half-open circuit, say, is taken after Select, not by asking.
	Available() bool
}

// Choice is what a policy decides on: the members, and whose request it is.
// It holds what is to be remembered between the attempts of one request, and
// costs no allocation where it is part of something larger. The zero value is
// ready to use; it is not for concurrent use.
type Choice struct {
	// Members of one priority tier, in configured order. The slice is never
	// modified once it was used: a group that changes gets a new one.
	Members []Member

	// Request is the request of the client, for policies that look at its
	// fields. For a tunnel that is the CONNECT request.
	Request *http.Request

	// User is the authenticated user, empty without authentication.
	User string

	// Session is the part of the user name that only tells sessions of one
	// user apart, empty if there is none.
	Session string

	// ClientIP is the address of the client without a port, as Caddy's
	// {client_ip}.
	ClientIP string

	// Destination is host:port of the request, the host in lower case.
	Destination string

	Bodyless bool // no more of the request comes from the client

	// Keys of the members that were tried, not indices: Members may be
	// replaced between two attempts, by the next tier or by a group that
	// changed. Few requests try more than fit without allocation.
	tried     [4]uint64
	triedLen  int
	triedMore []uint64
	passed    int // of them, that were only passed over
}

// MarkTried makes the member with index i ineligible for the rest of the
// request, in whatever Members it appears.
func (s *Choice) MarkTried(i int) { s.MarkTriedKey(s.Members[i].Key()) }

// MarkTriedKey is MarkTried for a member that need not be among Members.
func (s *Choice) MarkTriedKey(key uint64) {
	if s.wasTried(key) {
		return
	}
	if s.triedLen < len(s.tried) {
		s.tried[s.triedLen] = key
	} else {
		s.triedMore = append(s.triedMore, key)
	}
	s.triedLen++
}

// PassOver makes a member ineligible that was not tried, and will not be.
func (s *Choice) PassOver(key uint64) {
	if !s.wasTried(key) {
		s.MarkTriedKey(key)
		s.passed++
	}
}

// Tried returns how many members were tried.
func (s *Choice) Tried() int { return s.triedLen - s.passed }

// PassesOver reports whether any member was passed over.
func (s *Choice) PassesOver() bool { return s.passed > 0 }

// Excludes reports whether a member was tried or passed over.
func (s *Choice) Excludes(key uint64) bool { return s.triedLen > 0 && s.wasTried(key) }

func (s *Choice) wasTried(key uint64) bool {
	return slices.Contains(s.tried[:min(s.triedLen, len(s.tried))], key) || slices.Contains(s.triedMore, key)
}

// Eligible reports whether the member with index i may be selected: it is
// available and this request has not tried it. The answer may change from one
// call to the next.
func (s *Choice) Eligible(i int) bool {
	m := s.Members[i]
	return m.Available() && (s.triedLen == 0 || !s.wasTried(m.Key()))
}

// minFactor keeps the share of a member above zero, so that shares can be
// divided by, and a group of which nobody has a share still serves.
const minFactor = 1e-6

// factor is the factor of a member within its bounds.
func factor(m Member) float64 {
	if f := m.Factor(); f > minFactor { // false for NaN
		return min(f, 1)
	}
	return minFactor
}

func weight(m Member) int { return max(m.Weight(), 1) }

// share is what a member may have of the load, relative to the others.
func share(m Member) float64 { return float64(weight(m)) * factor(m) }

// Load returns the policy of a module's field with a `policy` inline key,
// or absent if there is nothing in raw, the value of that field.
func Load(ctx caddy.Context, structPointer any, field string, raw json.RawMessage, absent Policy) (Policy, error) {
	if raw == nil {
		return absent, nil
	}
	module, err := ctx.LoadModule(structPointer, field)
	if err != nil {
		return nil, err
	}
	policy, ok := module.(Policy)
	if !ok {
		return nil, fmt.Errorf("module of type %T is no selection policy", module)
	}
	return policy, nil
}
