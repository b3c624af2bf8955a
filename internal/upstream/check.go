package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/timing"
)

// This file contains the active checks of upstream proxies: what is asked of them,
// and what counts as an answer.

// prepareChecks reads the checks of the configuration, if it has any. They begin when
// all apps run.
func (g *Group) prepareChecks() error {
	checks := g.cfg.Checks
	if checks == nil {
		return nil
	}
	if checks.Type == CheckTLS {
		for _, m := range g.health.Members() {
			if m := m.Value.(*Member); m.Spec.Addr.Scheme != HTTPS {
				return fmt.Errorf("health_checks.active.type: %s has no TLS to check", m.Name)
			}
		}
	}
	g.targets = make(map[string]*CheckTarget, len(checks.Targets))
	for i := range checks.Targets {
		t := &checks.Targets[i]
		g.targets[t.Text] = t
	}
	cfg := g.checkerConfig()
	return cfg.Validate()
}

// checkerConfig is what the settings mean to the checker.
func (g *Group) checkerConfig() health.CheckerConfig {
	cfg := health.DefaultCheckerConfig()
	cfg.Identity = g.checkID()
	cfg.Interval = g.cfg.Checks.Interval
	cfg.FastInterval = min(cfg.FastInterval, cfg.Interval)
	cfg.MaxInterval = max(cfg.MaxInterval, cfg.Interval)
	cfg.IdleInterval = max(cfg.IdleInterval, cfg.Interval)
	cfg.Timeout = g.cfg.Checks.Timeout
	cfg.Rise, cfg.Fall = g.cfg.Checks.Passes, g.cfg.Checks.Fails
	cfg.ProvesAuth = g.cfg.Checks.Type == CheckConnect || g.cfg.Checks.Type == CheckHTTP
	cfg.Heir = func(m *health.Member) bool { return m.Value.(*Member).Health.checking.Load() > 1 }
	cfg.Prepare, cfg.Check, cfg.CheckSelf = g.lookUpTarget, g.check, g.checkSelf
	cfg.OnSpared = func(m *health.Member, err error) {
		g.cfg.Logger.Warn("no check target is reached through the last upstream in rotation, which answers itself: it stays",
			zap.String("upstream", m.Value.(*Member).Name), zap.Error(err))
	}
	cfg.OnResult = func(m *health.Member, r health.CheckResult) {
		h := m.Value.(*Member).Health
		h.counts.checks[min(r.Outcome, health.CheckOutcomes-1)].Add(1)
		h.answer(g, r)
	}
	cfg.OnUnchecked = func(c *health.Checker, m *health.Member) { m.Value.(*Member).Health.unanswered(c) }
	cfg.OnTransition = func(m *health.Member, t health.Transition) { g.tellOne(m.Value.(*Member), t) }
	for i := range g.cfg.Checks.Targets {
		cfg.Targets = append(cfg.Targets, g.cfg.Checks.Targets[i].Text)
	}
	return cfg
}

// checkID is the same for checks that ask the same and expect the same. Behind a handshake
// with a target, that hangs on what requests trust.
func (g *Group) checkID() string {
	c, trust := g.cfg.Checks, ""
	targets := make([]string, len(c.Targets))
	for i := range c.Targets {
		targets[i] = c.Targets[i].Text
		if c.Targets[i].TLS {
			trust = g.cfg.Transport
		}
	}
	return shared.Digest(c.Type, targets, c.Timeout, c.ExpectStatus, c.ExpectBody, c.Headers, trust)
}

// Start begins with what a configuration does by itself: checks, connections dialed
// ahead, events.
func (g *Group) Start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || !g.events.Start() {
		return
	}
	g.begin()
	for _, m := range g.members {
		m.start()
	}
	g.tellBegin()
	if g.cfg.Checks == nil {
		return
	}
	checker, err := health.StartChecker(g.health, g.checkerConfig())
	if err != nil {
		g.cfg.Logger.Error("upstreams are not checked", zap.Error(err)) // it was validated: a bug
		return
	}
	g.checker = checker
}

// targetTold is the key in the context of a check of what the upstream is told of its
// target, where that is looked up here.
type targetTold struct{}

// lookUpTarget finds out what a socks5 upstream is told of a target: that is no matter of
// the upstream's. That a target has no address is told once, until it has one.
func (g *Group) lookUpTarget(ctx context.Context, hm *health.Member, text string) (context.Context, error) {
	m, t := hm.Value.(*Member), g.targets[text]
	if t == nil || !m.TakesAddrs() || t.Dest.IsAddr() {
		return ctx, nil
	}
	told := m.Conns.tell(t.Dest, &m.Conns.through)
	_, err := told.Next(ctx)
	if err == nil {
		g.unknown.Delete(text)
		return context.WithValue(ctx, targetTold{}, told), nil
	}
	if ctx.Err() != nil {
		return ctx, err
	}
	if _, told := g.unknown.LoadOrStore(text, true); !told {
		g.cfg.Logger.Warn("target of health checks cannot be looked up: socks5 upstreams are not checked with it and stay what they are",
			zap.String("target", text), zap.Error(err))
	}
	return ctx, err
}

// check makes one check, and takes its times.
func (g *Group) check(ctx context.Context, hm *health.Member, text string) error {
	m := hm.Value.(*Member)
	ctx, clock := timing.With(ctx)
	err := g.checkOne(ctx, m, text)
	times := clock.Times()
	m.Health.timings.Store(&times)
	return err
}

func (g *Group) checkOne(ctx context.Context, m *Member, text string) error {
	switch g.cfg.Checks.Type {
	case CheckTCP:
		conn, err := m.Conns.dial(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", health.ErrUnreachable, err)
		}
		return conn.Close()
	case CheckTLS:
		return checkError(m.Conns.Dialer.CheckTLS(ctx))
	}
	return g.checkTarget(ctx, m, g.targets[text])
}

// checkTarget asks for a target, through the upstream.
func (g *Group) checkTarget(ctx context.Context, m *Member, t *CheckTarget) (err error) {
	began := time.Now()
	defer func() { timing.Of(ctx).SinceRest(began, err == nil) }()
	conn, err := m.checkPath(ctx, t)
	if err != nil {
		return checkError(err)
	}
	raw := conn
	defer layers.Close(raw)
	defer context.AfterFunc(ctx, func() { _ = layers.Close(raw) })()
	if t.TLS {
		// As for requests: what they trust is what proves that the path works.
		if conn, err = g.cfg.Dialer.Handshake(dial.WithVia(ctx, m.Key()), conn, t.Dest.Host); err != nil {
			return err
		}
	}
	if t.URL == nil {
		return nil
	}
	err = g.cfg.Checks.get(ctx, conn, t, m)
	if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("no answer to the request within %s: %w", g.cfg.Checks.Timeout, context.Cause(ctx)) // closed above
	}
	return err
}

// checkSelf finds out whether the upstream itself can be connected to.
func (g *Group) checkSelf(ctx context.Context, hm *health.Member) error {
	m := hm.Value.(*Member)
	if m.Spec.Addr.Scheme == HTTPS {
		return m.Conns.Dialer.CheckTLS(ctx)
	}
	conn, err := m.Conns.dial(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}

// overProxy reports whether a page is asked of the upstream itself, in absolute
// form.
func (t *CheckTarget) overProxy(m *Member) bool {
	return t.URL != nil && !t.TLS && m.SpeaksHTTP()
}

// checkPath gets a connection over which the target is asked: a tunnel to it, or a
// connection to the upstream.
func (m *Member) checkPath(ctx context.Context, t *CheckTarget) (net.Conn, error) {
	if t.overProxy(m) {
		conn, _, err := m.Conns.Dialer.DialProxy(ctx, proxydial.Client{}, -1) // one that has waited may be dead for that
		return conn, err
	}
	to := proxydial.Target{Host: t.Dest.Host, Port: t.Dest.Port, Addr: t.Dest.Addr, Header: m.Group.cfg.Via}
	told, _ := ctx.Value(targetTold{}).(*dial.Told)
	if told != nil {
		to.Addr = told.Addr()
	}
	tunnel, err := m.DialTunnel(ctx, to, told, proxydial.Client{})
	if err != nil {
		return nil, err
	}
	if len(tunnel.Early) > 0 {
		return h1.WithEarly(tunnel.Conn, tunnel.Early), nil
	}
	return tunnel.Conn, nil
}

// checkError tells what the checker must know of an error: that the upstream itself
// could not be reached, or that it refused our credentials.
func checkError(err error) error {
	e, ok := errors.AsType[*proxydial.Error](err)
	switch {
	case !ok:
		return err
	case e.Stage == proxydial.StageAuth:
		return fmt.Errorf("%w: %w", health.ErrUnauthorized, err)
	case e.Stage < proxydial.StageReply:
		return fmt.Errorf("%w: %w", health.ErrUnreachable, err)
	}
	return err
}

// maxCheckBody is how much of a page is looked at.
const maxCheckBody = 64 << 10

// get asks for the page and looks at the answer.
func (c *Checks) get(ctx context.Context, conn net.Conn, t *CheckTarget, m *Member) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, t.URL.String(), http.NoBody)
	if err != nil {
		return err
	}
	r.Close = true
	r.Header.Set("User-Agent", "Caddy-Egress-Health-Check")
	for name, values := range c.Headers {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	write := r.Write
	if t.overProxy(m) {
		write = r.WriteProxy
		for _, f := range m.Group.cfg.Via {
			r.Header.Add(f.Name, f.Value)
		}
		m.setFields(r.Header)
	}
	if err := write(conn); err != nil {
		return err
	}
	resp, err := readFinalResponse(bufio.NewReader(io.LimitReader(conn, maxCheckBody+16<<10)), r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case t.overProxy(m) && refusesCheck(resp):
		return fmt.Errorf("%w: status %d", health.ErrUnauthorized, resp.StatusCode)
	case c.ExpectStatus < 10 && resp.StatusCode/100 != c.ExpectStatus, c.ExpectStatus >= 100 && resp.StatusCode != c.ExpectStatus:
		return fmt.Errorf("status %d", resp.StatusCode)
	case c.ExpectBody == "":
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxCheckBody))
	if err != nil && len(body) == 0 {
		return err
	}
	if !c.Body.Match(body) {
		return fmt.Errorf("body does not match %q", c.ExpectBody)
	}
	return nil
}

// refusesCheck reports whether an answer in absolute form says that the upstream refuses our
// credentials. Behind a Via it may be the target's, relayed.
func refusesCheck(r *http.Response) bool {
	reply := proxydial.Reply{Status: r.StatusCode, Server: r.Header.Get("Server"), Via: r.Header.Get("Via")}
	return reply.Status == http.StatusProxyAuthRequired && reply.Via == "" || refusedByTinyproxy(&reply)
}

// readFinalResponse reads responses up to the final one: informational ones tell nothing
// (RFC 9110 §15.2). What bounds the reading bounds them too.
func readFinalResponse(br *bufio.Reader, r *http.Request) (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(br, r)
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
	}
}
