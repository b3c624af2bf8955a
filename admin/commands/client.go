package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains how the admin API is asked. Caddy's own AdminAPIRequest has neither a
// limit nor the status of an error, and a connection for each request.

// root is what the paths of the endpoints begin with.
const root = "/egress/"

const (
	answerTime = 10 * time.Second
	maxAnswer  = 64 << 20 // far more than a list of the greatest limit takes
	maxProblem = 2 << 10
)

// client asks the admin API at one address.
type client struct {
	address string // for people
	origin  string
	unix    bool
	http    *http.Client
}

func newClient(address string) (*client, error) {
	addr, err := caddy.ParseNetworkAddress(address)
	if err != nil || addr.PortRangeSize() > 1 {
		return nil, fmt.Errorf("--address: '%s' is not an address such as localhost:2019 or unix//run/caddy-admin.sock", plaintext.Printable(address))
	}
	origin := "http://" + addr.JoinHostPort(0)
	if addr.IsUnixNetwork() {
		origin = "http://127.0.0.1"
		addr.Host, _, _ = strings.Cut(addr.Host, "|") // the permissions of the socket
	}
	return &client{address, origin, addr.IsUnixNetwork(), &http.Client{Timeout: answerTime, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, addr.Network, addr.JoinHostPort(0))
		},
	}}}, nil
}

// answer is what the API has answered.
type answer struct {
	body  []byte
	total int // what the list has in all, where the field X-Total-Count says it; else -1
}

// read decodes the answer.
func (a *answer) read(into any) error {
	if err := json.Unmarshal(a.body, into); err != nil {
		return fmt.Errorf("the answer of the admin API is not what this command knows; are both of the same version? %w", err)
	}
	return nil
}

// ask sends a request to an endpoint below /egress/, with body as JSON unless it is nil.
func (c *client) ask(ctx context.Context, method, path string, query url.Values, body any) (*answer, error) {
	uri := c.origin + root + path
	if len(query) > 0 {
		uri += "?" + query.Encode()
	}
	var send io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		send = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, uri, send)
	if err != nil {
		return nil, err
	}
	if !c.unix {
		r.Header.Set("Origin", c.origin)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err // without the URL, which nobody has written
		}
		return nil, fmt.Errorf("no answer from the admin API at %s (is Caddy running? --address says where its admin API is): %w", c.address, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the answer of the admin API at %s broke off: %w", c.address, err)
	case len(text) > maxAnswer:
		return nil, fmt.Errorf("the answer of the admin API at %s is longer than %d bytes; --limit makes it shorter", c.address, maxAnswer)
	case resp.StatusCode != http.StatusOK:
		return nil, c.problem(resp.StatusCode, text)
	}
	a := &answer{text, -1}
	if n, err := strconv.Atoi(resp.Header.Get("X-Total-Count")); err == nil {
		a.total = n
	}
	return a, nil
}

// problem is an answer that is an error.
func (c *client) problem(status int, body []byte) error {
	var told struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &told) != nil || told.Error == "" {
		if status == http.StatusNotFound {
			return &refusal{status, fmt.Sprintf("the Caddy at %s does not have this endpoint: it was built without this module, or with an older version of it", c.address)}
		}
		told.Error = fmt.Sprintf("the admin API at %s answered with status %d: %s", c.address, status, strings.TrimSpace(string(body)))
	}
	return &refusal{status, plaintext.Short(told.Error, maxProblem)}
}

// refusal is an error that the API has answered.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }
