package core

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/orders"
)

// CheckEmergency denies the request where the operator has ordered that everything new is.
func (t *Request) CheckEmergency() error {
	e := orders.Of.Emergency()
	if e == nil {
		return nil
	}
	text := "ordered by the operator"
	if e.Reason != "" {
		text += fmt.Sprintf(": %q", e.Reason)
	}
	if !e.Until.IsZero() {
		text += ", until " + e.Until.UTC().Format(time.RFC3339)
	}
	return failure.Emergency.Because(errors.New(text))
}
