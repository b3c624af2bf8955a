package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/holdings"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains the limits that are not of one pool: what one client or
// user may hold, and what all connections of the process may.

// holdingError refuses a request because its client or user holds as much as
// it may.
type holdingError struct {
	setting string // that says so
}

func (e *holdingError) Error() string {
	return fmt.Sprintf("client has as many requests under way as it may (%s)", e.setting)
}

// holding is what a request counts against.
type holding struct {
	taken        bool
	client, user string // "" where none is counted
}

// hold counts the request against the limits of its client and its user, once
// however often it is called. letGo ends it.
func (t *transaction) hold() error {
	p := t.h.pool
	if t.held.taken || p.clients == nil && p.users == nil {
		return nil
	}
	held := holding{taken: true}
	if p.clients != nil {
		held.client = clientIP(t.r)
	}
	if p.users != nil {
		held.user = t.authenticatedUser()
	}
	if !acquireHolding(p.clients, held.client) {
		return &holdingError{"max_per_client"}
	}
	if !acquireHolding(p.users, held.user) {
		releaseHolding(p.clients, held.client)
		return &holdingError{"max_per_user"}
	}
	t.held = held
	return nil
}

// clientIP is the address of the client as Caddy's {client_ip} has it.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// letGo ends what hold has begun, if it has.
func (t *transaction) letGo() {
	if t.held.taken {
		releaseHolding(t.h.pool.clients, t.held.client)
		releaseHolding(t.h.pool.users, t.held.user)
		t.held = holding{}
	}
}

// acquireHolding counts a holder where there is a limit and the holder is known.
func acquireHolding(c *holdings.Counter[string], holder string) bool {
	return c == nil || holder == "" || c.Acquire(holder)
}

func releaseHolding(c *holdings.Counter[string], holder string) {
	if c != nil && holder != "" {
		c.Release(holder)
	}
}

// idleShare is the part of the process's file descriptors that idle connections
// may have: a quarter.
const idleShare = 4

// idleBudget bounds the idle connections of all pools of the process.
var idleBudget = connpool.NewBudget(descriptorLimit() / idleShare)

// reclaimBatch is how many idle connections are closed when a dial finds no
// descriptor: more than its own few, because it will not be the only one.
const reclaimBatch = 16

// dialMakingRoom connects to the destination, as dial does. Where the process or the
// system has no descriptor left, it closes idle connections and tries once more.
func (d *dialer) dialMakingRoom(ctx context.Context, dest target.Target, useTLS bool) (net.Conn, error) {
	conn, err := d.dial(ctx, dest, useTLS)
	if err != nil && makeRoom(err) {
		return d.dial(ctx, dest, useTLS)
	}
	return conn, err
}

// makeRoom closes idle connections where a dial has failed for want of a descriptor,
// and reports whether it is worth trying again.
func makeRoom(err error) bool {
	return outOfDescriptors(err) && idleBudget.Reclaim(reclaimBatch) > 0
}

// reserveShare is the part of the process's file descriptors that dials leave free, a
// sixteenth: clients must be accepted to be told that there is no connection for them.
const reserveShare = 16

// dialable is the first descriptor that is not for dials, 0 where there is no limit.
var dialable = uintptr(descriptorLimit() - descriptorLimit()/reserveShare)

// keepReserve refuses a socket for a dial that would take of the reserve. A new
// descriptor is the lowest that is free, so its number tells how many are taken.
func keepReserve(_, _ string, c syscall.RawConn) error {
	reserved := false
	err := c.Control(func(fd uintptr) { reserved = dialable > 0 && fd >= dialable })
	if err == nil && reserved {
		err = os.NewSyscallError("socket", syscall.EMFILE)
	}
	return err
}

// outOfDescriptors reports whether an error is a lack of file descriptors.
func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
