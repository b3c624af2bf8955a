package admin

import (
	"cmp"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-egress/egress/internal/events"
	"github.com/caddy-egress/egress/internal/orders"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains what all endpoints that change something have in common: who has
// changed it is logged, and told as an event.

func init() {
	orders.Of.Tell(tellOrder)
	orders.Of.Failed(tellUnsaved)
}

// Order is what the operator has ordered, by whom and until when.
type Order struct {
	By     string    `json:"by" doc:"Who has ordered it: the address, and the TLS identity where there is one."`
	Reason string    `json:"reason,omitempty" doc:"Why."`
	Since  time.Time `json:"since" doc:"When."`
	Until  time.Time `json:"until,omitzero" doc:"When it ends by itself; absent if it does not."`
	Stored *bool     `json:"stored,omitempty" doc:"Only in the answer to a change: whether it is in storage, so that it outlives the process."`
}

func orderOf(g *orders.Given) Order {
	return Order{By: g.By, Reason: g.Reason, Since: g.Since, Until: g.Until}
}

// giving is what orders are given with.
type giving struct {
	For    string `json:"for,omitempty" doc:"How long it holds, such as 15m. Default: until it is taken back."`
	Reason string `json:"reason,omitempty" doc:"Why, for the log and for who looks; at most 200 characters."`
}

// maxReason is in bytes; maxFor is more than anybody can mean.
const (
	maxReason = 200
	maxFor    = 10 * 365 * 24 * time.Hour
)

// given checks what an order is given with.
func (c *call) given(g giving) (orders.Given, error) {
	out := orders.Given{By: c.who(), Reason: g.Reason, Since: time.Now()}
	if len(g.Reason) > maxReason {
		return out, badField("reason", g.Reason, "a text of at most 200 bytes")
	}
	if plaintext.HasControl(g.Reason) {
		return out, badField("reason", g.Reason, "a text without control characters")
	}
	if g.For != "" {
		d, err := caddy.ParseDuration(g.For)
		if err != nil || d <= 0 || d > maxFor {
			return out, badField("for", g.For, "a duration above 0 such as 90s, 15m or 2d")
		}
		out.Until = out.Since.Add(d)
	}
	return out, nil
}

// who is who asks: where from, and who the TLS of the admin endpoint says it is.
func (c *call) who() string {
	addr, _, err := net.SplitHostPort(c.r.RemoteAddr)
	if err != nil {
		addr = "unix socket"
	}
	if tls := c.r.TLS; tls != nil && len(tls.PeerCertificates) > 0 {
		return addr + " (" + plaintext.Short(identityOf(tls.PeerCertificates[0]), maxReason) + ")"
	}
	return addr
}

func identityOf(cert *x509.Certificate) string {
	names := append(append([]string{}, cert.DNSNames...), cert.EmailAddresses...)
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	return cmp.Or(cert.Subject.String(), strings.Join(names, ", "), "serial "+cert.SerialNumber.String())
}

// logger is that of the configuration that runs: the endpoints outlive configurations.
func logger() *zap.Logger { return caddy.Log().Named("admin.api.egress") }

// tell logs a change, and emits it as an event through the first handler that there is.
func tell(event, message string, fields ...zap.Field) {
	logger().Warn(message, fields...)
	data := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(data)
	}
	if all := Handlers.All(); len(all) > 0 {
		all[0].Emit(event, data.Fields)
		return
	}
	events.Recent.Add(event, data.Fields) // for those who look: without a handler, there is no events app
}

// changed tells a change that is no order.
func (c *call) changed(what string, fields ...zap.Field) {
	tell("admin_changed", "changed through the admin API", append([]zap.Field{zap.String("change", what), zap.String("by", c.who())}, fields...)...)
}

// tellOrder tells what has become of an order.
func tellOrder(c orders.Change) {
	switch {
	case c.Left && caddy.Exiting():
	case c.Emergency != nil && c.TakenUp:
		tell("emergency_on", "emergency goes on: all new requests are denied, as ordered before the start", givenFields(&c.Emergency.Given)...)
	case c.Emergency != nil && c.Ended:
		tell("emergency_off", "emergency ended: requests are served again", endFields(&c, &c.Emergency.Given)...)
	case c.Emergency != nil:
		tell("emergency_on", "emergency: all new requests are denied", givenFields(&c.Emergency.Given)...)
	default:
		o := c.Order
		of := []zap.Field{zap.String("change", "upstream"), zap.String("id", c.ID), zap.String("group", o.Group), zap.String("upstream", o.Upstream)}
		if c.Ended {
			tell("admin_changed", "upstream is as configured again", append(of, endFields(&c, &o.Given)...)...)
			return
		}
		of = append(of, zap.String("state", o.Admin.String()), zap.String("weight", percent(o.Weight)))
		of = append(of, givenFields(&o.Given)...)
		switch {
		case c.Left:
			logger().Warn("no handler has the upstream of an order any more; the order stays for when it comes back", of...)
		case c.TakenUp:
			tell("admin_changed", "upstream is as ordered before the start", of...)
		default:
			tell("admin_changed", "upstream changed through the admin API", of...)
		}
	}
}

func givenFields(g *orders.Given) []zap.Field {
	fields := []zap.Field{zap.String("by", g.By), zap.String("reason", g.Reason)}
	if !g.Until.IsZero() {
		fields = append(fields, zap.Time("until", g.Until))
	}
	return fields
}

// endFields tell who has ended an order; nobody where its time was over.
func endFields(c *orders.Change, was *orders.Given) []zap.Field {
	return []zap.Field{zap.String("by", cmp.Or(c.By, "its time was over")), zap.String("ordered_by", was.By), zap.String("ordered_for", was.Reason)}
}

// keep ends the answer to a change: it holds, and all has been done that follows, but it may
// not have been saved, which is waited for. ended is that it takes an order back.
func keep(saving orders.Saving, ended bool) *bool {
	unsaved := saving()
	stored := unsaved == nil
	switch {
	case unsaved == nil:
	case ended:
		logger().Error("the end of an order of the admin API was not saved, and is tried again: until it is, a restart brings the order back", zap.Error(unsaved))
	default:
		logger().Error("an order of the admin API was not saved, and is tried again: until it is, it ends with the process", zap.Error(unsaved))
	}
	return &stored
}

// tellUnsaved tells that a change was not saved of which nobody waits to hear, and with nil
// that all are saved again.
func tellUnsaved(err error) {
	if err == nil {
		logger().Info("orders of the admin API are saved again")
		return
	}
	logger().Error("orders of the admin API are not saved as they are, which is tried again", zap.Error(err))
}

func badField(name, value, allowed string) error {
	return apiError(http.StatusBadRequest, &fieldError{name, value, allowed})
}

// fieldError is a value that a field of a body may not have.
type fieldError struct{ name, value, allowed string }

func (e *fieldError) Error() string {
	return "field '" + e.name + "': '" + plaintext.Short(e.value, maxText) + "' is not " + e.allowed
}
