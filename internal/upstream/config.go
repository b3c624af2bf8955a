package upstream

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/events"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/selection"
)

// Config is what a group is made of. All of it is mandatory, but where it says so.
type Config struct {
	Name      string             // of the group, for people
	Handler   string             // that has it: its name or its place
	Policy    selection.Policy   // that chooses among the members
	Balancing Balancing          // and what follows when one fails
	Health    health.GroupConfig // passive health of the members
	Checks    *Checks            // nil for none

	// Static are the members that are always there.
	Static []*Spec
	// File is the path of a list of members; empty for none.
	File string
	// Scheme is that of the lines in File that have none, and of what Sources tell.
	Scheme string
	// Sources tell where the members are that come and go; empty for none. They are asked
	// until Context ends.
	Sources []Source
	// At completes a member of File or Sources. It is called from several goroutines.
	At func(Address, Rank) (*Spec, error)

	// Configuration is the same for all groups of one configuration of Caddy, and for no others.
	// nil where none is known.
	Configuration any
	// State is what is known of the group from before.
	State *State
	// Destinations are those that were asked for through the group.
	Destinations *destination.Path

	// Dialer is the door that members are reached through.
	Dialer *dial.Dialer
	// Pool is that of a member for exchanges, where the settings of a member say nothing else.
	Pool connpool.Config
	// Transport is the identity of the settings that Dialer and Pool are made of.
	Transport string
	// Via are the fields of CONNECT requests that checks make.
	Via []h1.Field
	// WarnOfSources is told from where members are dialed that say so.
	WarnOfSources func(*dial.Sources)

	// Events take what changes; they are asked for no event before Start.
	Events events.Sink
	// Context ends with the configuration.
	Context context.Context
	Logger  *zap.Logger
}

// Balancing says how requests are shared among the members, and what follows when one
// fails.
type Balancing struct {
	Retries        int           // further members that are tried for a request
	RetryBudget    float64       // share of the requests that may be retried at once
	TryDuration    time.Duration // after which no further member is tried
	TryInterval    time.Duration // between two attempts; 0 for none
	AttemptTimeout time.Duration // of one attempt to connect
	Hedge          float64       // quantile of the time to connect after which a second one is tried beside; 0 for never
}
