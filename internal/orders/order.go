package orders

import (
	"time"

	"github.com/caddy-egress/egress/internal/health"
)

// Given is who has given an order, and for how long.
type Given struct {
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // zero: until it is taken back
}

// isOver reports whether the time of the order is over.
func (g *Given) isOver(now time.Time) bool { return !g.Until.IsZero() && !now.Before(g.Until) }

// Order is what is ordered of an upstream.
type Order struct {
	Given

	Admin  health.Admin // ready, drain or maint
	Weight float64      // the share of its weight that it has, above 0 to 1

	Group, Upstream string // for people, who read of it when it is no longer there
	Holder          Holder // whom it was given to
}

// Holder is which of several accounts an upstream is: those of one user at one address
// differ in nothing that people may read. The zero value is the only one.
type Holder struct {
	Number int    `json:"number,omitempty"` // part of what it is known by
	Mark   string `json:"mark,omitempty"`   // of its login, too short to find that by
	Alone  bool   `json:"alone,omitempty"`  // it is the only one, whatever its login becomes
}

// asConfigured is what holds for an upstream of which nothing is ordered.
var asConfigured = Order{Admin: health.Ready, Weight: 1}

// ChangesNothing reports whether an upstream is as configured under the order.
func (o *Order) ChangesNothing() bool {
	return o.Admin == asConfigured.Admin && o.Weight == asConfigured.Weight
}

// Emergency is an order by which everything new is denied.
type Emergency struct{ Given }

// Change is what has become of an order, for the log, events and people.
type Change struct {
	ID        string     // of the upstream; "" for the emergency
	Order     *Order     // nil for the emergency
	Emergency *Emergency // nil for an upstream
	Ended     bool       // the order holds no longer: its time was over, or it was taken back
	By        string     // who has changed it; "" where its time was over, and for what follows
	TakenUp   bool       // it was in storage, and holds again
	Left      bool       // the upstream is gone; the order stays
}
