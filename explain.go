package egress

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/explain"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains the dry run of a request: its steps are those of ServeHTTP, with
// the same code behind them, but for the last. internal/explain tells the rest.

// place is what people know a handler by: its name, or the addresses of its server,
// and which of the handlers there it is, counted from 1: `:8080#1`.
func (h *Handler) place() string { return h.proxy.Tunnels.Key }

// served is a handler as the admin API and the commands know it.
type served Handler

// Place implements admin.Entry.
func (s *served) Place() string { return (*Handler)(s).place() }

// Explain implements admin.Entry.
func (s *served) Explain(ctx context.Context, asked *explain.Request) (*explain.Explanation, error) {
	return (*Handler)(s).explain(ctx, asked)
}

// explain tells what would become of a request. Nothing is sent, and nothing of the
// handler changes but what its resolver remembers. The error is about what was asked.
func (h *Handler) explain(ctx context.Context, asked *explain.Request) (*explain.Explanation, error) {
	in, err := h.rehearse(ctx, asked)
	if err != nil {
		return nil, err
	}
	e := &explain.Explanation{
		Handler: h.place(), Running: h.running,
		Method: in.HTTP.Method, ClientIP: caddyserver.ClientIP(in.HTTP),
	}
	if !h.running {
		e.Note("the configuration is not running: the use of limits, circuits and the addresses of Caddy's own listeners are not known")
	}
	if in.Use = in.classify(); in.Use == upstream.NotOurs {
		e.Kind, e.Verdict = "site", explain.Site
		e.Authentication = "not asked for: the request is for the site, and goes to the next handler"
		return e, nil
	}
	e.Kind = "exchange"
	if in.Use == upstream.Tunnel {
		e.Kind = "tunnel"
	}
	e.HTTPS, e.Authority = in.HTTPS, explain.ShownAuthority(in.authority)
	if in.HTTPS {
		e.Note("clients usually ask for https with a tunnel; explain host:port for that")
	}
	e.Conclude(&in.Request, in.explainSteps(e, asked))
	return e, nil
}

// steps takes the request through the steps of serve.
func (in *incoming) explainSteps(e *explain.Explanation, asked *explain.Request) error {
	if err := in.takeUser(e, asked); err != nil {
		return err
	}
	if err := in.checkEarly(); err != nil {
		return err
	}
	err := in.authorize()
	if in.Target.Host != "" {
		e.Destination = in.Target.String()
	}
	if err != nil {
		if d, ok := errors.AsType[*acl.Denial](err); ok {
			e.Rule = &explain.Rule{Verdict: explain.Denied, Rule: in.Proxy.Access.Now().Denied(d, in.Target.Port)}
		}
		return err
	}
	e.Rule = &explain.Rule{Verdict: explain.Allowed, Rule: in.Proxy.Access.Now().AllowedName(in.Target)}
	if in.Target.IsAddr() {
		e.Rule.Rule = in.Proxy.Access.Now().AllowedAddr(in.Target, in.Target.Addr)
	}
	if err := in.explainRoute(e); err != nil {
		return err
	}
	if g := in.Route.To.Group; g != nil && g.Resolution()&upstream.Here == 0 && !in.Target.IsAddr() && !in.Proxy.ResolveNames {
		// The upstream resolves the name: no rule on addresses is asked.
		e.Rule.Rule = in.Proxy.Access.Now().AllowedUnresolved(in.Target)
	}
	if err := in.CheckVia(); err != nil {
		return err
	}
	if n, ok := in.MaxForwards(); ok && n == 0 {
		e.Note("Max-Forwards is 0: this proxy would answer the request itself")
	}
	return e.Ways(&explain.Rehearsal{Request: &in.Request, Running: e.Running})
}

// takeUser takes the user as given, as far as there is such a user.
func (in *incoming) takeUser(e *explain.Explanation, asked *explain.Request) error {
	if !in.h.Auth.enabled() {
		e.Authentication = "nobody has to log in here"
		if asked.User != "" {
			e.User = asked.User
			e.Authentication += "; the user is taken as that of another handler"
			in.setUser(asked.User)
		}
		return nil
	}
	if asked.User == "" {
		e.Authentication = "users have to log in"
		return failure.Auth.Because(errors.New("no user was given"))
	}
	user, session, ok := in.h.Auth.users.Find(asked.User)
	if !ok {
		e.Authentication = "users have to log in"
		return failure.Auth.Because(fmt.Errorf("there is no user '%s'", plaintext.Escaped(asked.User)))
	}
	if asked.Session != "" {
		session = asked.Session
	}
	e.Authentication = "the user is taken as given; no password was checked"
	in.User, in.Session = user, session
	e.User, e.Session = in.User, in.Session
	in.setUser(in.User)
	return nil
}

// ChooseRoute finds the route, and tells what has matched.
func (in *incoming) explainRoute(e *explain.Explanation) error {
	r, err := in.h.findRoute(in.HTTP)
	if errors.Is(err, core.ErrNoRoute) {
		e.Route = &explain.Route{Index: -1, Skipped: in.h.writtenRoutes(len(in.h.Routes))}
	}
	if err != nil {
		return err
	}
	in.Route = &r.way
	out := &explain.Route{Index: slices.Index(in.h.Routes, r), To: r.To, Fallback: r.Fallback}
	e.Route = out
	if out.Index < 0 {
		out.To = core.ExitDirect
		if r.way.To.Group != nil {
			out.To = r.way.To.Group.Name
		}
		return nil
	}
	out.Skipped = in.h.writtenRoutes(out.Index)
	for i, set := range r.matchers {
		if ok, err := set.MatchWithError(in.HTTP); err == nil && ok {
			out.Match = r.written[i]
			break
		}
	}
	return nil
}

// writtenRoutes are the matchers of the first n routes, for people.
func (h *Handler) writtenRoutes(n int) (texts []string) {
	for i, r := range h.Routes[:n] {
		texts = append(texts, fmt.Sprintf("routes[%d]: %s", i, strings.Join(r.written, " | ")))
	}
	return texts
}

// rehearse makes the request that is asked about, as Caddy would hand it to us from an
// HTTP/1.1 client. Directives of the site that come before the handler have not seen
// it.
func (h *Handler) rehearse(ctx context.Context, asked *explain.Request) (*incoming, error) {
	if asked.Session != "" && (!h.Auth.enabled() || h.Auth.Session == nil) {
		return nil, errors.New("session: logins have none here (auth.session is not configured)")
	}
	r, err := asked.HTTP(ctx)
	if err != nil {
		return nil, err
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, h.server)
	in := newIncoming(h, nil, r)
	in.Start, in.BodyRead = time.Now(), true
	return in, nil
}
