package upstreams

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/settings"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/upstream"
)

// HealthChecks are the checks of upstream proxies. (What requests meet counts
// as well: see Circuit.)
type HealthChecks struct {
	// Active are the checks that are made whether or not there are requests.
	// Default: none.
	Active *ActiveHealthChecks `json:"active,omitempty"`
}

// ActiveHealthChecks asks each member of a group regularly whether it works. A
// member that has not been asked yet counts as well; the first result decides.
// When all members of a group fail the same target in the same round, it is the
// target that is down, and nobody is charged.
type ActiveHealthChecks struct {
	// Type is what is asked: `tcp`, to connect to the upstream; `tls`, to
	// connect and finish the TLS handshake (https upstreams); `connect`, to
	// open a tunnel through it to a target; `http`, to get a page through it.
	Type string `json:"type"`

	// Targets are what is asked for, for `connect` and `http`; one that works
	// is enough. For `connect` `host:port`, or a URL: https means a TLS
	// handshake inside the tunnel as well. For `http` a URL. They are asked
	// for as they stand here; access rules do not apply to them. Those two need
	// at least one, and with the other types targets are an error.
	Targets []string `json:"targets,omitempty"`

	// Interval is the time between checks of a member, ±20%. It is longer
	// while a member stays down (up to a minute), and when no requests come
	// (a minute); shorter (a second) while results change. Default: 10s.
	Interval caddy.Duration `json:"interval,omitempty"`

	// Timeout bounds one check. Default: 3s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Passes is how many checks in a row bring a member back. Default: 2.
	Passes int `json:"passes,omitempty"`

	// Fails is how many checks in a row take it out. Default: 3.
	Fails int `json:"fails,omitempty"`

	// ExpectStatus is the status that `http` wants: a code, or a class as
	// its first digit. Default: 2, any 2xx.
	ExpectStatus int `json:"expect_status,omitempty"`

	// ExpectBody is a regular expression that must match in the first 64 KiB
	// of the page, for `http`; with other types it is an error. Default: none.
	ExpectBody string `json:"expect_body,omitempty" placeholders:"refused"`

	// Headers are sent with the request, for `http`; with other types they are
	// an error. Default: none.
	Headers http.Header `json:"headers,omitempty"`
}

var checkTypes = []string{upstream.CheckTCP, upstream.CheckTLS, upstream.CheckHTTP, upstream.CheckConnect}

// leastInterval is the shortest ActiveHealthChecks.Interval.
const leastInterval = 100 * time.Millisecond

// activeChecks is ActiveHealthChecks after defaults and validation.
type activeChecks struct {
	ActiveHealthChecks
	targets []upstream.CheckTarget
	body    *regexp.Regexp
}

// Checks are the active checks of the group; nil for none.
func (g *Group) Checks() (*upstream.Checks, error) {
	if g.HealthChecks == nil || g.HealthChecks.Active == nil {
		return nil, nil
	}
	c, err := g.HealthChecks.Active.prepare()
	if err != nil {
		return nil, fmt.Errorf("health_checks.active.%w", err)
	}
	return &upstream.Checks{
		Type: c.Type, Targets: c.targets, Interval: time.Duration(c.Interval), Timeout: time.Duration(c.Timeout),
		Passes: c.Passes, Fails: c.Fails,
		ExpectStatus: c.ExpectStatus, ExpectBody: c.ExpectBody, Body: c.body, Headers: c.Headers,
	}, nil
}

func (c *ActiveHealthChecks) prepare() (*activeChecks, error) {
	out := &activeChecks{ActiveHealthChecks: *c}
	settings.Default(&out.Interval, caddy.Duration(10*time.Second))
	settings.Default(&out.Timeout, caddy.Duration(3*time.Second))
	settings.Default(&out.Passes, 2)
	settings.Default(&out.Fails, 3)
	settings.Default(&out.ExpectStatus, 2)
	for _, t := range c.Targets {
		parsed, err := out.parseTarget(t)
		if err != nil {
			return nil, fmt.Errorf("targets: '%s': %w", plaintext.Escaped(t), err)
		}
		out.targets = append(out.targets, parsed)
	}
	return out, out.validate()
}

// validCheckTarget checks a target of the Caddyfile that has no placeholders.
func validCheckTarget(kind, t string) error {
	c := &activeChecks{ActiveHealthChecks: ActiveHealthChecks{Type: kind}}
	_, err := c.parseTarget(t)
	return err
}

func (c *activeChecks) parseTarget(s string) (upstream.CheckTarget, error) {
	if !strings.Contains(s, "://") {
		if c.Type == upstream.CheckHTTP {
			return upstream.CheckTarget{}, errors.New("not a URL")
		}
		dest, err := target.ParseAuthority(s)
		return upstream.CheckTarget{Text: dest.String(), Dest: dest}, err
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return upstream.CheckTarget{}, errors.New("not a URL of the form http(s)://host/path")
	}
	t := upstream.CheckTarget{Text: s, TLS: u.Scheme == "https"}
	if c.Type == upstream.CheckHTTP {
		t.URL = u
	}
	switch u.Scheme {
	case "http":
		t.Dest, err = target.ParseHostPort(u.Host, 80)
	case "https":
		t.Dest, err = target.ParseHostPort(u.Host, 443)
	default:
		err = errors.New("scheme is neither http nor https")
	}
	return t, err
}

func (c *activeChecks) validate() error {
	switch {
	case c.Type == "":
		return fmt.Errorf("type: is missing: one of %s", strings.Join(checkTypes, ", "))
	case !slices.Contains(checkTypes, c.Type):
		return fmt.Errorf("type: unknown check '%s': one of %s", plaintext.Escaped(c.Type), strings.Join(checkTypes, ", "))
	case c.checkTargetCount() != nil:
		return fmt.Errorf("targets: %w", c.checkTargetCount())
	case c.Interval < caddy.Duration(leastInterval):
		return fmt.Errorf("interval: %s is shorter than %s", time.Duration(c.Interval), leastInterval)
	case c.Timeout < 0:
		return errors.New("timeout: must be positive")
	case c.Passes < 1:
		return fmt.Errorf("passes: %d is below 1", c.Passes)
	case c.Fails < 1:
		return fmt.Errorf("fails: %d is below 1", c.Fails)
	case c.Type != upstream.CheckHTTP && (c.ExpectBody != "" || len(c.Headers) > 0 || c.ExpectStatus != 2):
		return fmt.Errorf("expect_status, expect_body and headers are for checks of type http, not %s", c.Type)
	case c.ExpectStatus < 1 || c.ExpectStatus > 5 && c.ExpectStatus < 100 || c.ExpectStatus > 599:
		return fmt.Errorf("expect_status: %d is neither a status nor its first digit", c.ExpectStatus)
	}
	for name, values := range c.Headers {
		if err := checkField(name, values...); err != nil {
			return fmt.Errorf("headers: %w", err)
		}
	}
	var err error
	if c.body, err = regexp.Compile(c.ExpectBody); err != nil {
		return fmt.Errorf("expect_body: %w", err)
	}
	return nil
}

// checkTargetCount refuses a type of check without a target that it needs, or with one.
func (c *ActiveHealthChecks) checkTargetCount() error {
	needsTarget := c.Type == upstream.CheckConnect || c.Type == upstream.CheckHTTP
	switch {
	case needsTarget && len(c.Targets) == 0:
		return fmt.Errorf("%s needs one", c.Type)
	case !needsTarget && len(c.Targets) > 0:
		return fmt.Errorf("%s has none: it asks the upstream itself", c.Type)
	}
	return nil
}
