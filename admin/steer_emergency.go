package admin

import (
	"time"

	"github.com/caddy-egress/egress/internal/orders"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// This file contains the emergency: an order by which everything new is denied.

// EmergencyOrder is how the emergency is ordered.
type EmergencyOrder struct {
	EndTunnels bool `json:"end_tunnels,omitempty" doc:"Whether tunnels that are open end as well. Default: false."`
	giving
}

// EmergencyState is the emergency at a moment.
type EmergencyState struct {
	On    bool   `json:"on" doc:"Whether all new requests are denied."`
	Order *Order `json:"order,omitempty" doc:"By whom and until when; absent if it is off."`
	Ended *int   `json:"tunnels_ended,omitempty" doc:"Only in the answer to a change: how many tunnels it has ended."`
}

func viewEmergency(*call) (EmergencyState, error) { return emergencyState(), nil }

func emergencyState() (s EmergencyState) {
	if e := orders.Of.Emergency(); e != nil {
		o := orderOf(&e.Given)
		s.On, s.Order = true, &o
	}
	return s
}

func orderEmergency(c *call) (any, error) {
	var asked EmergencyOrder
	if err := c.decode("emergency", &asked); err != nil {
		return nil, err
	}
	given, err := c.given(asked.giving)
	if err != nil {
		return nil, err
	}
	saving := orders.Of.SetEmergency(&orders.Emergency{Given: given}, given.By)
	state := EmergencyState{On: true}
	if asked.EndTunnels {
		books, err := c.books()
		if err != nil {
			return nil, err
		}
		n := 0
		each(books, func(e tunnels.Entry, _ carried) {
			e.End(relay.ReasonAdmin)
			n++
		})
		state.Ended = &n
	}
	o := orderOf(&given)
	o.Stored = keep(saving, false)
	state.Order = &o
	return &state, nil
}

func endEmergency(c *call) (any, error) {
	state := EmergencyState{}
	if saving := orders.Of.SetEmergency(nil, c.who()); saving != nil {
		state.Order = &Order{By: c.who(), Since: time.Now(), Stored: keep(saving, true)}
	}
	return &state, nil
}
