package explain

import (
	"strings"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// Verdicts of an explanation, a path or an address.
const (
	Allowed     = "allowed"
	Denied      = "denied"      // by authentication, rules, routes, or as no request that is served
	Unavailable = "unavailable" // nothing forbids it, but it would fail now
	Site        = "site"        // the request goes to the next handler
)

// Explanation is what would become of a request.
type Explanation struct {
	Handler string `json:"handler"` // its place
	Running bool   `json:"running"` // false where only a configuration was asked
	Method  string `json:"method"`  // of the request
	Kind    string `json:"kind"`    // exchange, tunnel or site
	HTTPS   bool   `json:"https"`   // an exchange that goes to its origin over TLS

	Authority   string `json:"authority"`             // as it was asked for
	Destination string `json:"destination,omitempty"` // host:port in canonical form
	ClientIP    string `json:"client_ip"`             // as Caddy's {client_ip} has it
	User        string `json:"user,omitempty"`        // without the session
	Session     string `json:"session,omitempty"`     // in the user name, where logins have one

	Authentication string `json:"authentication"`  // what was made of the user, in words
	Rule           *Rule  `json:"rule,omitempty"`  // on the destination as it was asked for
	Route          *Route `json:"route,omitempty"` // that matches
	Paths          []Path `json:"paths,omitempty"` // the target of the route, then its fallback

	// Limits are those of the client and the handler, whatever the path.
	Limits Limits `json:"limits,omitempty"`

	Verdict string   `json:"verdict"`          // allowed, denied, unavailable or site
	Status  int      `json:"status,omitempty"` // that the client would get, where it would be refused
	Reason  string   `json:"reason,omitempty"` // of a refusal
	Notes   []string `json:"notes,omitempty"`  // what else to know, in words
}

// Rule is what the access rules say.
type Rule struct {
	Verdict string `json:"verdict"` // allowed or denied
	Rule    string `json:"rule"`    // which of them, or that none does
}

// Route is the route of a request.
type Route struct {
	Index    int      `json:"index"`              // in routes; -1 where there are none, or none matches
	Match    string   `json:"match,omitempty"`    // the matcher set that matched; empty: every request
	Skipped  []string `json:"skipped,omitempty"`  // the matcher sets of the routes before it, or of all where none matches
	To       string   `json:"to"`                 // direct, deny or a group; empty where none matches
	Fallback string   `json:"fallback,omitempty"` // the same, where To is a group without a usable member
}

// Conclude fills in how the request would end.
func (e *Explanation) Conclude(t *core.Request, err error) {
	e.Verdict = endsAs(err)
	if err != nil {
		e.Status, e.Reason = failure.Of(err).Status, t.Proxy.Access.Now().Reason(err, t.Target.Port)
	}
}

// endsAs sorts errors into refusals, which are the same tomorrow, and what only
// fails now.
func endsAs(err error) string {
	if err == nil {
		return Allowed
	}
	switch f := failure.Of(err); {
	case f == failure.Holding, f == failure.NoName, f == failure.NoNameCircuit:
		return Unavailable
	case f.Blame == failure.BlameClient, f.Blame == failure.BlamePolicy:
		return Denied
	}
	return Unavailable
}

// ShownAuthority is an authority as it may be shown: without the password that does
// not belong there.
func ShownAuthority(authority string) string {
	return plaintext.Escaped(authority[strings.LastIndexByte(authority, '@')+1:])
}

// Note adds a note.
func (e *Explanation) Note(text string) { e.Notes = append(e.Notes, text) }
