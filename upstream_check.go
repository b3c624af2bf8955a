package egress

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

	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains the active checks of upstream proxies: what is asked of them,
// and what counts as an answer.

// prepareChecks reads the checks of the configuration, if it has any. They begin when
// all apps run.
func (g *group) prepareChecks() error {
	if !g.cfg.checked() {
		return nil
	}
	checks, err := g.cfg.HealthChecks.Active.prepare()
	if err != nil {
		return fmt.Errorf("health_checks.active.%w", err)
	}
	if checks.Type == checkTLS {
		for _, m := range g.health.Members() {
			if m := m.Value.(*member); m.spec.addr.Scheme != upstream.HTTPS {
				return fmt.Errorf("health_checks.active.type: %s has no TLS to check", m.name)
			}
		}
	}
	g.checks = checks
	g.targets = make(map[string]*checkTarget, len(checks.targets))
	for i := range checks.targets {
		t := &checks.targets[i]
		g.targets[t.text] = t
	}
	cfg := g.checkerConfig()
	return cfg.Validate()
}

// checkerConfig is what the settings mean to the checker.
func (g *group) checkerConfig() health.CheckerConfig {
	cfg := health.DefaultCheckerConfig()
	cfg.Interval = time.Duration(g.checks.Interval)
	cfg.FastInterval = min(cfg.FastInterval, cfg.Interval)
	cfg.MaxInterval = max(cfg.MaxInterval, cfg.Interval)
	cfg.IdleInterval = max(cfg.IdleInterval, cfg.Interval)
	cfg.Timeout = time.Duration(g.checks.Timeout)
	cfg.Rise, cfg.Fall = g.checks.Passes, g.checks.Fails
	cfg.ProvesAuth = g.checks.Type == checkConnect || g.checks.Type == checkHTTP
	cfg.Check, cfg.CheckSelf = g.check, g.checkSelf
	cfg.OnSpared = func(m *health.Member, err error) {
		g.logger.Warn("no check target is reached through the last upstream in rotation, which answers itself: it stays",
			zap.String("upstream", m.Value.(*member).name), zap.Error(err))
	}
	cfg.OnTransition = func(m *health.Member, t health.Transition) { g.tellOne(m.Value.(*member), t) }
	for i := range g.checks.targets {
		cfg.Targets = append(cfg.Targets, g.checks.targets[i].text)
	}
	return cfg
}

// start begins with what a configuration does by itself: checks, connections dialed
// ahead, events.
func (g *group) start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || !g.events.start() {
		return
	}
	for _, m := range g.members {
		m.start()
	}
	if g.checks == nil {
		return
	}
	checker, err := health.StartChecker(g.health, g.checkerConfig())
	if err != nil {
		g.logger.Error("upstreams are not checked", zap.Error(err)) // it was validated: a bug
		return
	}
	g.checker = checker
}

// checkNow has a member checked at once.
func (g *group) checkNow(m *member) {
	g.mu.Lock()
	checker := g.checker
	g.mu.Unlock()
	if checker != nil {
		checker.CheckNow(&m.ref)
	}
}

// checked reports whether the configuration has active checks.
func (g *UpstreamGroup) checked() bool { return g.HealthChecks != nil && g.HealthChecks.Active != nil }

// check makes one check.
func (g *group) check(ctx context.Context, hm *health.Member, text string) error {
	m := hm.Value.(*member)
	switch g.checks.Type {
	case checkTCP:
		conn, err := m.conns.dial(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", health.ErrUnreachable, err)
		}
		return conn.Close()
	case checkTLS:
		return checkError(m.conns.dialer.CheckTLS(ctx))
	}
	t := g.targets[text]
	conn, err := m.checkPath(ctx, t)
	if err != nil {
		return checkError(err)
	}
	raw := conn
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
	if t.useTLS {
		// As for requests: what they trust is what proves that the path works.
		if conn, err = g.factory.h.dialer.Handshake(ctx, conn, t.dest.Host); err != nil {
			return err
		}
	}
	if t.url == nil {
		return nil
	}
	return g.checks.get(ctx, conn, t, m)
}

// checkSelf finds out whether the upstream itself can be connected to.
func (g *group) checkSelf(ctx context.Context, hm *health.Member) error {
	m := hm.Value.(*member)
	if m.spec.addr.Scheme == upstream.HTTPS {
		return m.conns.dialer.CheckTLS(ctx)
	}
	conn, err := m.conns.dial(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}

// overProxy reports whether a page is asked of the upstream itself, in absolute
// form.
func (t *checkTarget) overProxy(m *member) bool {
	return t.url != nil && !t.useTLS && m.speaksHTTP()
}

// speaksHTTP reports whether exchanges go through the upstream in absolute form.
func (m *member) speaksHTTP() bool {
	return m.spec.addr.Scheme == upstream.HTTP || m.spec.addr.Scheme == upstream.HTTPS
}

// checkPath gets a connection over which the target is asked: a tunnel to it, or a
// connection to the upstream.
func (m *member) checkPath(ctx context.Context, t *checkTarget) (net.Conn, error) {
	if t.overProxy(m) {
		return m.conns.dialer.DialProxy(ctx, proxydial.Client{})
	}
	to := proxydial.Target{Host: t.dest.Host, Port: t.dest.Port, Addr: t.dest.Addr, Header: m.group.factory.h.viaFields(nil, viaHTTP11)}
	if m.spec.addr.Scheme == upstream.SOCKS5 && !t.dest.IsAddr() {
		addr, err := m.conns.lookup(ctx, t.dest.Host)
		if err != nil {
			return nil, err
		}
		to.Addr = addr
	}
	tunnel, err := m.conns.dialer.DialTunnel(ctx, to, proxydial.Client{})
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
func (c *activeChecks) get(ctx context.Context, conn net.Conn, t *checkTarget, m *member) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url.String(), http.NoBody)
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
		for _, f := range m.group.factory.h.viaFields(nil, viaHTTP11) {
			r.Header.Add(f.Name, f.Value)
		}
		m.setProxyFields(r.Header)
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
	case resp.StatusCode == http.StatusProxyAuthRequired && t.overProxy(m):
		return fmt.Errorf("%w: status 407", health.ErrUnauthorized)
	case c.ExpectStatus < 10 && resp.StatusCode/100 != c.ExpectStatus, c.ExpectStatus >= 100 && resp.StatusCode != c.ExpectStatus:
		return fmt.Errorf("status %d", resp.StatusCode)
	case c.ExpectBody == "":
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxCheckBody))
	if err != nil && len(body) == 0 {
		return err
	}
	if !c.body.Match(body) {
		return fmt.Errorf("body does not match %q", c.ExpectBody)
	}
	return nil
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
