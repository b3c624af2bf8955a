package explain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// Request is a request to be explained. Who asks is taken as given.
type Request struct {
	User     string      `json:"user,omitempty"`      // default: nobody has logged in
	Session  string      `json:"session,omitempty"`   // default: that in User, if there is one
	ClientIP string      `json:"client_ip,omitempty"` // default 127.0.0.1
	Method   string      `json:"method,omitempty"`    // default GET with url, CONNECT with target
	URL      string      `json:"url,omitempty"`       // of an exchange
	Target   string      `json:"target,omitempty"`    // host:port of a tunnel
	Headers  http.Header `json:"headers,omitempty"`   // default: none
}

// HTTP is the request as net/http would read it from an HTTP/1.1 client.
func (asked *Request) HTTP(ctx context.Context) (*http.Request, error) {
	method, requestTarget, err := asked.line()
	if err != nil {
		return nil, err
	}
	u := &url.URL{Host: requestTarget} // as net/http has it for CONNECT
	if method != http.MethodConnect {
		if u, err = parseURL(requestTarget); err != nil {
			return nil, err
		}
	}
	client := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if asked.ClientIP != "" {
		if client, err = netip.ParseAddr(asked.ClientIP); err != nil {
			return nil, fmt.Errorf("client_ip: '%s' is not an IP address", plaintext.Escaped(asked.ClientIP))
		}
	}
	header, err := asked.header()
	if err != nil {
		return nil, err
	}
	r := &http.Request{
		Method: method, URL: u, Host: u.Host, RequestURI: requestTarget,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: http.NoBody,
		RemoteAddr: net.JoinHostPort(client.String(), "0"),
	}
	return r.WithContext(ctx), nil
}

// line returns the method and the request target.
func (asked *Request) line() (method, requestTarget string, err error) {
	method = asked.Method
	switch {
	case asked.URL == "" && asked.Target == "":
		return "", "", errors.New("neither url nor target says where the request goes")
	case asked.URL != "" && asked.Target != "":
		return "", "", errors.New("url is for exchanges and target for tunnels; one request has one of them")
	case asked.URL != "":
		method = cmp.Or(method, http.MethodGet)
		requestTarget = asked.URL
	default:
		method = cmp.Or(method, http.MethodConnect)
		requestTarget = asked.Target
	}
	switch {
	case !plaintext.IsToken(method):
		return "", "", fmt.Errorf("method: '%s' is not a token", plaintext.Escaped(method))
	case method == http.MethodConnect && asked.URL != "":
		return "", "", errors.New("method: CONNECT takes host:port, not a URL")
	case asked.URL == "" && !hasPort(asked.Target):
		return "", "", fmt.Errorf("target: %s has no port; write host:port", plaintext.Escaped(asked.Target[strings.LastIndexByte(asked.Target, '@')+1:]))
	case method != http.MethodConnect && asked.URL == "":
		return "", "", fmt.Errorf("method: %s takes a URL, not host:port", method)
	}
	return method, requestTarget, nil
}

// hasPort reports whether something stands behind the colon of host:port.
func hasPort(authority string) bool {
	colon := strings.LastIndexByte(authority, ':')
	return colon > strings.LastIndexByte(authority, ']') && colon < len(authority)-1
}

// parseURL parses a URL in absolute form. Errors do not repeat it: it may have a
// password.
func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		if strings.Contains(text, "@") {
			err = errors.New("it is malformed")
		}
		return nil, fmt.Errorf("url: %w", err)
	}
	if u.Scheme == "" || u.Host == "" {
		return nil, errors.New("url: not of the form http://host/path")
	}
	return u, nil
}

func (asked *Request) header() (http.Header, error) {
	header := make(http.Header, len(asked.Headers))
	for name, values := range asked.Headers {
		if !plaintext.IsToken(name) {
			return nil, fmt.Errorf("headers: '%s' is no field name", plaintext.Escaped(name))
		}
		name = http.CanonicalHeaderKey(name)
		if name == "Proxy-Authorization" {
			return nil, errors.New("headers: credentials are not asked for; user is taken as given")
		}
		header[name] = append(header[name], values...)
	}
	return header, nil
}
