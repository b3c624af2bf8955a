package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddy-egress/egress/internal/testkit/testcert"
)

// lab is all that a run needs, on one machine:
//
//	clients ──┬─────────┬── egress ──┬──────────────────────────┬─────────┬── origin
//	          └─ links ─┘            └─┬─────────┬── parents  ──┴─ links ─┘
//	                                   └─ links ─┘
//
// The proxies are processes; the rest is this one.
type lab struct {
	options
	plan    plan
	cert    testcert.Files
	roots   *x509.CertPool
	origin  *origin
	egress  *caddy
	parents [2]*caddy
	links   links
	clients map[string]*client // by kind, with a ~ behind it where a link is between
	times   timeline
	broken  *violations
}

// links are what fails. They are there without faults too, but nobody uses them.
type links struct {
	client, clientTLS *link // to the proxy under test
	parent, parentTLS *link // from there to the first upstream proxy
	origin, echo, tls *link // to the listeners of the origin
}

func (l *links) all() []*link {
	all := []*link{l.client, l.clientTLS, l.parent, l.parentTLS, l.origin, l.echo, l.tls}
	return slices.DeleteFunc(all, func(l *link) bool { return l == nil })
}

// newLab starts everything.
func newLab(ctx context.Context, o options) (_ *lab, err error) {
	l := &lab{options: o, plan: plan{seed: o.seed, faults: o.mode == modeFaults}, broken: new(violations), clients: make(map[string]*client)}
	defer func() {
		if err != nil {
			_ = l.stop()
		}
	}()
	if l.cert, l.roots, err = testcert.New(l.dir); err != nil {
		return l, err
	}
	pair, err := tls.LoadX509KeyPair(l.cert.Cert, l.cert.Key)
	if err != nil {
		return l, err
	}
	if l.origin, err = startOrigin(pair, l.broken); err != nil {
		return l, err
	}
	for i, at := range []**caddy{&l.egress, &l.parents[0], &l.parents[1]} {
		name := [...]string{"egress", "parent1", "parent2"}[i]
		if *at, err = newCaddy(name, l.binary, l.dir); err != nil {
			return l, err
		}
	}
	if err = l.startLinks(); err != nil {
		return l, err
	}
	for _, c := range l.parents {
		c.config = l.parentConfig(c)
		if err = c.start(ctx); err != nil {
			return l, err
		}
	}
	l.egress.config = l.egressConfig(0)
	if err = l.egress.start(ctx); err != nil {
		return l, err
	}
	for _, kind := range clientKinds {
		addr, bad := l.egress.secure, l.links.clientTLS.addr
		if kind == "h1" {
			addr, bad = l.egress.plain, l.links.client.addr
		}
		l.clients[kind] = newClient(kind, addr, l.roots)
		l.clients[kind+"~"] = newClient(kind, bad, l.roots)
	}
	return l, nil
}

func (l *lab) startLinks() (err error) {
	for _, of := range []struct {
		at           **link
		name, target string
		kind         linkKind
	}{
		{&l.links.client, "client > egress", l.egress.plain, carriesHTTP},
		{&l.links.clientTLS, "client > egress (TLS)", l.egress.secure, carriesTLS},
		{&l.links.parent, "egress > parent", l.parents[0].plain, carriesHTTP},
		{&l.links.parentTLS, "egress > parent (TLS)", l.parents[0].secure, carriesTLS},
		{&l.links.origin, "> origin", l.origin.httpAddr, carriesHTTP},
		{&l.links.echo, "> echo", l.origin.echoAddr, carriesBytes},
		{&l.links.tls, "> echo (TLS)", l.origin.tlsAddr, carriesTLS},
	} {
		if *of.at, err = startLink(of.name, of.target, l.plan.seed, of.kind); err != nil {
			return err
		}
	}
	return nil
}

// stop ends all that was started. Whether the proxies ended as they should is what
// it returns.
func (l *lab) stop() error {
	var errs []error
	l.closeIdle()
	for _, c := range []*caddy{l.egress, l.parents[0], l.parents[1]} {
		if c != nil {
			errs = append(errs, c.stop())
		}
	}
	for _, link := range l.links.all() {
		link.stop()
	}
	if l.origin != nil {
		l.origin.stop()
	}
	return errors.Join(errs...)
}

// closeIdle closes the clients' connections that carry nothing.
func (l *lab) closeIdle() {
	for _, c := range l.clients {
		c.idle()
	}
}

// client is who makes a request.
func (l *lab) client(q request) *client {
	if q.badClient {
		return l.clients[q.client+"~"]
	}
	return l.clients[q.client]
}

// links are those on the way of a request.
func (l *lab) linksOf(q request) (on []*link) {
	if q.badClient && q.client == "h1" {
		on = append(on, l.links.client)
	} else if q.badClient {
		on = append(on, l.links.clientTLS)
	}
	if q.parents && l.plan.faults {
		on = append(on, l.links.parent, l.links.parentTLS)
	}
	switch {
	case !q.badOrigin:
	case q.method != "CONNECT":
		on = append(on, l.links.origin)
	case q.tls:
		on = append(on, l.links.tls)
	default:
		on = append(on, l.links.echo)
	}
	return on
}

// build compiles cmd/caddy into a directory.
func build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "caddy")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/caddy-egress/egress/cmd/caddy")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("building cmd/caddy: %w: %s", err, strings.TrimSpace(said.String()))
	}
	_, err := os.Stat(binary)
	return binary, err
}
