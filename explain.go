package egress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/explain"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains the dry run of a request: its steps are those of ServeHTTP, with
// the same code behind them, but for the last. explain_path.go tells of paths and
// addresses, explain_group.go of upstreams, explain_rules.go of matchers,
// explain_limits.go of limits and local addresses, explain_text.go makes a text of it all.

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
	t, err := h.rehearse(ctx, asked)
	if err != nil {
		return nil, err
	}
	e := &explain.Explanation{
		Handler: h.place(), Running: h.running,
		Method: t.HTTP.Method, ClientIP: clientIP(t.HTTP),
	}
	if !h.running {
		e.Note("the configuration is not running: the use of limits, circuits and the addresses of Caddy's own listeners are not known")
	}
	if t.Use = t.classify(); t.Use == upstream.NotOurs {
		e.Kind, e.Verdict = "site", explain.Site
		e.Authentication = "not asked for: the request is for the site, and goes to the next handler"
		return e, nil
	}
	e.Kind = "exchange"
	if t.Use == upstream.Tunnel {
		e.Kind = "tunnel"
	}
	e.HTTPS, e.Authority = t.HTTPS, explain.ShownAuthority(t.authority)
	if t.HTTPS {
		e.Note("clients usually ask for https with a tunnel; explain host:port for that")
	}
	e.Conclude(&t.Request, t.explainSteps(e, asked))
	return e, nil
}

// steps takes the request through the steps of serve.
func (t *transaction) explainSteps(e *explain.Explanation, asked *explain.Request) error {
	if err := t.takeUser(e, asked); err != nil {
		return err
	}
	if err := t.checkEarly(); err != nil {
		return err
	}
	err := t.authorize()
	if t.Target.Host != "" {
		e.Destination = t.Target.String()
	}
	if err != nil {
		if d, ok := errors.AsType[*acl.Denial](err); ok {
			e.Rule = &explain.Rule{Verdict: explain.Denied, Rule: t.Proxy.Access.Now().Denied(d, t.Target.Port)}
		}
		return err
	}
	e.Rule = &explain.Rule{Verdict: explain.Allowed, Rule: t.Proxy.Access.Now().AllowedName(t.Target)}
	if t.Target.IsAddr() {
		e.Rule.Rule = t.Proxy.Access.Now().AllowedAddr(t.Target, t.Target.Addr)
	}
	if err := t.explainRoute(e); err != nil {
		return err
	}
	if err := t.CheckVia(); err != nil {
		return err
	}
	if n, ok := t.MaxForwards(); ok && n == 0 {
		e.Note("Max-Forwards is 0: this proxy would answer the request itself")
	}
	return e.Ways(&explain.Rehearsal{Request: &t.Request, Running: e.Running})
}

// takeUser takes the user as given, as far as there is such a user.
func (t *transaction) takeUser(e *explain.Explanation, asked *explain.Request) error {
	if !t.h.Auth.enabled() {
		e.Authentication = "nobody has to log in here"
		if asked.User != "" {
			e.User = asked.User
			e.Authentication += "; the user is taken as that of another handler"
			t.setUser(asked.User)
		}
		return nil
	}
	if asked.User == "" {
		e.Authentication = "users have to log in"
		return failure.Auth.Because(errors.New("no user was given"))
	}
	user, session, ok := t.h.Auth.users.Find(asked.User)
	if !ok {
		e.Authentication = "users have to log in"
		return failure.Auth.Because(fmt.Errorf("there is no user '%s'", plaintext.Escaped(asked.User)))
	}
	if asked.Session != "" {
		session = asked.Session
	}
	e.Authentication = "the user is taken as given; no password was checked"
	t.User, t.Session = user, session
	e.User, e.Session = t.User, t.Session
	t.setUser(t.User)
	return nil
}

// ChooseRoute finds the route, and tells what has matched.
func (t *transaction) explainRoute(e *explain.Explanation) error {
	r, err := t.h.findRoute(t.HTTP)
	if err != nil {
		return err
	}
	t.Route = &r.way
	out := &explain.Route{Index: slices.Index(t.h.Routes, r), To: r.To, Fallback: r.Fallback}
	e.Route = out
	if out.Index < 0 {
		out.To = core.ExitDirect
		if r.way.To.Group != nil {
			out.To = r.way.To.Group.Name
		}
		return nil
	}
	for i, before := range t.h.Routes[:out.Index] {
		out.Skipped = append(out.Skipped, fmt.Sprintf("routes[%d]: %s", i, strings.Join(before.written, " | ")))
	}
	for i, set := range r.matchers {
		if ok, err := set.MatchWithError(t.HTTP); err == nil && ok {
			out.Match = r.written[i]
			break
		}
	}
	return nil
}

// rehearse makes the request that is asked about, as Caddy would hand it to us from an
// HTTP/1.1 client. Directives of the site that come before the handler have not seen
// it.
func (h *Handler) rehearse(ctx context.Context, asked *explain.Request) (*transaction, error) {
	if asked.Session != "" && (!h.Auth.enabled() || h.Auth.Session == nil) {
		return nil, errors.New("session: logins have none here (auth.session is not configured)")
	}
	r, err := asked.HTTP(ctx)
	if err != nil {
		return nil, err
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, h.server)
	t := newTransaction(h, nil, r)
	t.Start, t.BodyRead = time.Now(), true
	return t, nil
}

// toldMatchers are the matchers whose settings are told. Of others only the name is:
// fields of requests, expressions and modules of others may hold what is secret.
var toldMatchers = []string{"client_ip", "host", "method", "path", "protocol", "remote_ip"}

// matcherTexts are matcher sets as people may read them. A set that matches
// everything is empty.
func matcherTexts(sets caddyhttp.RawMatcherSets) []string {
	var texts []string
	for _, set := range sets {
		var words []string
		for _, name := range slices.Sorted(maps.Keys(set)) {
			words = append(words, name+matcherSettings(name, set[name]))
		}
		texts = append(texts, strings.Join(words, ", "))
	}
	return texts
}

func matcherSettings(name string, raw json.RawMessage) string {
	var fields map[string]json.RawMessage
	switch {
	case slices.Contains(toldMatchers, name):
		var compact any
		if json.Unmarshal(raw, &compact) != nil {
			return "" // loading it says what is wrong
		}
		text, err := json.Marshal(compact)
		if err != nil {
			return ""
		}
		return " " + string(text)
	case name == "header" && json.Unmarshal(raw, &fields) == nil:
		return " " + strings.Join(slices.Sorted(maps.Keys(fields)), " ")
	}
	return ""
}
