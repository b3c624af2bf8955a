package admin

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/orders"
)

// This file contains how upstreams are taken out of rotation, and weighed otherwise.

// UpstreamChange is what can be ordered of an upstream.
type UpstreamChange struct {
	State  string `json:"state,omitempty" doc:"ready: its health decides; drain: no new requests, checks go on; maint: no new requests, no checks. Default: as it is."`
	Weight string `json:"weight,omitempty" doc:"The share of its configured weight, from 1% to 100%. Default: as it is."`
	giving
}

// UpstreamOrder is what the operator has ordered of an upstream.
type UpstreamOrder struct {
	ID       string `json:"id" doc:"What the upstream is known by."`
	Group    string `json:"group" doc:"Its group."`
	Upstream string `json:"upstream" doc:"Its URL without credentials."`
	State    string `json:"state" doc:"ready, drain or maint."`
	Weight   string `json:"weight" doc:"The share of its configured weight."`
	Order
}

func upstreamOrderOf(id string, o *orders.Order) UpstreamOrder {
	return UpstreamOrder{id, o.Group, o.Upstream, o.Admin.String(), percent(o.Weight), orderOf(&o.Given)}
}

// percent writes a share.
func percent(share float64) string { return strconv.FormatFloat(share*100, 'f', -1, 64) + "%" }

// parsePercent reads a share from 1% to 100%.
func parsePercent(s string) (share float64, ok bool) {
	digits, ok := strings.CutSuffix(s, "%")
	n, err := strconv.ParseUint(digits, 10, 8)
	return float64(n) / 100, ok && err == nil && n >= 1 && n <= 100
}

// changeUpstream replaces what is ordered of an upstream, in all handlers that have it.
func changeUpstream(c *call) (any, error) {
	var asked UpstreamChange
	if err := c.decode("change of an upstream", &asked); err != nil {
		return nil, err
	}
	start, err := c.orderOfUpstream()
	if err != nil {
		return nil, err
	}
	given, err := c.given(asked.giving)
	if err != nil {
		return nil, err
	}
	o, saving, err := orders.Of.Change(c.path["id"], start, func(o *orders.Order) error {
		o.Given = given
		return asked.change(o)
	})
	if err != nil {
		return nil, err
	}
	answer := upstreamOrderOf(c.path["id"], &o)
	if saving != nil {
		answer.Stored = keep(saving, o.ChangesNothing())
	}
	return &answer, nil
}

// change makes an order what was asked for.
func (asked *UpstreamChange) change(o *orders.Order) error {
	if asked.State == "" && asked.Weight == "" {
		return apiError(http.StatusBadRequest, errors.New("change of an upstream: say what is to be changed: state, weight or both"))
	}
	if asked.State != "" {
		admin, ok := health.ParseAdmin(asked.State)
		if !ok {
			return badField("state", asked.State, "one of ready, drain, maint")
		}
		o.Admin = admin
	}
	if asked.Weight != "" {
		share, ok := parsePercent(asked.Weight)
		if !ok {
			return badField("weight", asked.Weight, "a share from 1% to 100%")
		}
		o.Weight = share
	}
	if asked.For != "" && o.ChangesNothing() {
		return apiError(http.StatusBadRequest, errors.New("change of an upstream: field 'for' has no meaning where the upstream is as configured: there is no order that could end"))
	}
	return nil
}

// orderOfUpstream is what holds for the upstream that is meant, whether it is there or only
// ordered about.
func (c *call) orderOfUpstream() (orders.Order, error) {
	id := c.path["id"]
	o, ordered := orders.Of.Upstream(id)
	if ordered {
		return o, nil
	}
	handlers, err := c.handlers()
	if err != nil {
		return o, err
	}
	for _, h := range reports(handlers) {
		for g := range h.Groups {
			for m := range h.Groups[g].Members {
				if member := &h.Groups[g].Members[m]; member.ID == id {
					return orders.Order{Admin: health.Ready, Weight: 1, Group: h.Groups[g].Name, Upstream: member.Name}, nil
				}
			}
		}
	}
	return o, noUpstream(id)
}
