package upstream

import (
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/caddy-egress/egress/internal/target"
)

// Types of checks.
const (
	CheckTCP     = "tcp"
	CheckTLS     = "tls"
	CheckConnect = "connect"
	CheckHTTP    = "http"
)

// Checks are active checks, with everything filled in and valid.
type Checks struct {
	Type     string // what is asked
	Targets  []CheckTarget
	Interval time.Duration // between two checks of a member
	Timeout  time.Duration // of one check
	Passes   int           // in a row bring a member back
	Fails    int           // in a row take it out

	ExpectStatus int    // a status, or its first digit
	ExpectBody   string // a regular expression; empty for any body
	Body         *regexp.Regexp
	Headers      http.Header // of the request
}

// CheckTarget is a target as a check needs it.
type CheckTarget struct {
	Text string // as the operator has written it
	Dest target.Target
	TLS  bool
	URL  *url.URL // nil where nothing is asked of the target itself
}
