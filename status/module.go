package status

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/plaintext"
)

func init() {
	caddy.RegisterModule(new(Status))
}

// Status is a page for operators: how the forward proxies of this process are, who is to
// blame for what fails, upstreams, tunnels, users, destinations, rules and the last reload.
// It is live, and changes nothing. Requests for other paths go to the next handler.
//
// It is shown to clients on this machine: the address that the connection comes from is
// loopback and that of the client, the host that is asked for is `localhost` or a loopback
// address, and no field says that a proxy has passed the request on, trusted or not. Others
// get status 403, unless they are allowed.
type Status struct {
	// Path is where the page is; what it needs is below. A slash at the end changes nothing.
	// Default: `/egress-status`.
	Path string `json:"path,omitempty"`

	// Allow are further clients that may see the page: IP addresses and networks (CIDR).
	// The address of a client is that of Caddy's `{client_ip}`: behind trusted proxies it is
	// as good as what they say, so set `trusted_proxies_strict` there. Default: none.
	Allow []string `json:"allow,omitempty"`

	// AllowUsers are users that may see the page from anywhere, if a handler before it, such
	// as `basic_auth` of Caddy, has authenticated them; `*` is for all of these. Default:
	// none.
	AllowUsers []string `json:"allow_users,omitempty"`

	logger   *zap.Logger
	networks []netip.Prefix
	end      chan struct{} // closed when the server shuts down
	release  func()
	viewers  viewers
}

const defaultPath = "/egress-status"

// CaddyModule returns the Caddy module information.
func (*Status) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.egress_status",
		New: func() caddy.Module { return new(Status) },
	}
}

// Provision sets up the handler.
func (s *Status) Provision(ctx caddy.Context) error {
	s.logger = ctx.Logger()
	repl := caddy.NewReplacer()
	for _, text := range s.Allow {
		n, err := parseNetwork(repl.ReplaceKnown(text, ""))
		if err != nil {
			return err
		}
		s.networks = append(s.networks, n)
	}
	if err := s.checkPath(); err != nil {
		return err
	}
	s.end = make(chan struct{})
	finish := sync.OnceFunc(func() { close(s.end) })
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterOnShutdown(finish)
	}
	ctx.OnCancel(finish)
	if admin.RegistryOf(ctx) == &admin.Handlers {
		s.release = samples.use()
	}
	return nil
}

// Validate checks the settings.
func (s *Status) Validate() error {
	for _, user := range s.AllowUsers {
		if user == "" {
			return errors.New("allow_users: a user without a name; '*' is for all who are authenticated")
		}
	}
	return nil
}

// Cleanup releases what Provision acquired.
func (s *Status) Cleanup() error {
	if s.release != nil {
		s.release()
	}
	return nil
}

func (s *Status) path() string {
	if s.Path == "" {
		return defaultPath
	}
	return cmp.Or(strings.TrimSuffix(s.Path, "/"), "/")
}

func (s *Status) checkPath() error {
	p := s.path()
	if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "*{}?#%\\ ") || strings.Contains(p, "//") || strings.Contains(p, "/.") || plaintext.HasControl(p) {
		return fmt.Errorf("path '%s' is not a path such as %s", plaintext.Escaped(p), defaultPath)
	}
	return nil
}

// below is the part of a request's path below the page: "" at its address without a slash,
// "/" for the page.
func (s *Status) below(path string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, strings.TrimSuffix(s.path(), "/"))
	return rest, ok && (rest == "" || rest[0] == '/')
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (s *Status) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	rest, ok := s.below(r.URL.Path)
	if !ok || r.Method == http.MethodConnect {
		return next.ServeHTTP(w, r)
	}
	harden(w.Header())
	if !s.mayLook(r) {
		return caddyhttp.Error(http.StatusForbidden, fmt.Errorf("egress_status: client %s may not see the page", clientOf(r)))
	}
	if r.Method == http.MethodPost && rest == "/" {
		return s.serveAnswer(w, r)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return caddyhttp.Error(http.StatusMethodNotAllowed, errors.New("egress_status: only GET and HEAD are allowed, and POST to ask what would become of a request"))
	}
	switch rest {
	case "":
		// Relative, for a directive around that has taken a prefix off.
		path := s.path()
		w.Header().Set("Location", path[strings.LastIndexByte(path, '/')+1:]+"/")
		w.WriteHeader(http.StatusPermanentRedirect)
		return nil
	case "/":
		return s.servePage(w, r, ask{})
	case "/live":
		return s.serveLive(w, r)
	}
	if a := assets[rest]; a != nil {
		a.serve(w, r)
		return nil
	}
	return caddyhttp.Error(http.StatusNotFound, errors.New("egress_status: there is nothing"))
}

// policy lets a browser load nothing from elsewhere, and run nothing that stands in the
// page.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func harden(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin") // with no-referrer, forms would not say where they come from
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Status)(nil)
	_ caddy.Validator             = (*Status)(nil)
	_ caddy.CleanerUpper          = (*Status)(nil)
	_ caddyhttp.MiddlewareHandler = (*Status)(nil)
)
