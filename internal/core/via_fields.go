package core

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"slices"

	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/tracing"
)

// Via are the elements that this proxy adds to Via, by the protocol version
// that a message was received with.
type Via struct {
	token    string // random; recognises our own element in a request that comes back
	Request  [4]string
	Response [2]string
}

// viaVersions are the received-protocol values by the index of version.
var viaVersions = [4]string{"1.0", "1.1", "2", "3"}

// ViaHTTP11 is the index of requests that we make by ourselves.
const ViaHTTP11 = 1

// NewVia makes the elements of a proxy of that name.
func NewVia(serverName string) Via {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	v := Via{token: "egress-" + hex.EncodeToString(random[:])}
	for i, version := range viaVersions {
		v.Request[i] = version + " " + serverName + " (" + v.token + ")"
	}
	for i := range v.Response {
		v.Response[i] = viaVersions[i] + " " + serverName
	}
	return v
}

// VersionIndex is the index, in Via, of the version that a request was received with.
func VersionIndex(r *http.Request) int {
	switch {
	case r.ProtoMajor >= 3:
		return 3
	case r.ProtoMajor == 2:
		return 2
	case r.ProtoMinor >= 1:
		return 1
	}
	return 0
}

// handedOn are the fields of a client's CONNECT that are for whoever is on the way: by Via
// each proxy recognises a request that comes back to it, and the others say whose request
// it is.
var handedOn = [...]string{"Via", "Forwarded", tracing.ParentField, tracing.StateField}

// connectFields are the fields of the CONNECT request to an upstream: those of the client's
// own that are handed on, what the route changes, and our elements of Via and Forwarded. All
// others of the client's CONNECT end here, and those that the operator gives the upstream.
//
// It is for a tunnel that is the client's own. One that exchanges share is opened with Via
// only (see ViaFields).
func (t *Request) connectFields(operators http.Header) []h1.Field {
	header := t.handedOn(operators)
	if change := t.RequestChange(); change != nil {
		if header == nil {
			header = make(http.Header)
		}
		change(header, t.HTTP)
	}
	via := header["Via"]
	delete(header, "Via")
	var fields []h1.Field
	for name, values := range header {
		for _, v := range values {
			if h1.ValidField(name, v) {
				fields = append(fields, h1.Field{Name: name, Value: v})
			}
		}
	}
	if t.Proxy.TellsOfClients() {
		fields = append(fields, h1.Field{Name: "Forwarded", Value: string(t.AppendForwarded(nil))})
	}
	return t.Proxy.appendVia(fields, via, VersionIndex(t.HTTP))
}

// handedOn are the fields of the client's CONNECT that are handed on; nil for none.
func (t *Request) handedOn(operators http.Header) (header http.Header) {
	for _, name := range handedOn {
		if t.HidesTrace(name) {
			continue
		}
		if values := t.HTTP.Header[name]; len(values) > 0 && operators[name] == nil {
			if header == nil {
				header = make(http.Header)
			}
			header[name] = slices.Clone(values)
		}
	}
	return header
}

// RequestChange is what the route changes of the header of requests; nil for nothing.
func (t *Request) RequestChange() func(http.Header, *http.Request) {
	if t.Route == nil {
		return nil
	}
	return t.Route.Changes.Request
}

// ViaFields are the Via fields (RFC 9110 §7.6.3) of a CONNECT that we make for a request
// that was received with these, in the given version. Where the tunnel is for exchanges,
// they are all that it has of the request: others will share it, and neither a client nor a
// trace of one of them is theirs. Each exchange tells its own within.
func (p *Proxy) ViaFields(received []string, version int) []h1.Field {
	return p.appendVia(nil, received, version)
}

func (p *Proxy) appendVia(fields []h1.Field, received []string, version int) []h1.Field {
	for _, v := range received {
		if h1.ValidField("Via", v) {
			fields = append(fields, h1.Field{Name: "Via", Value: v})
		}
	}
	if !p.HideVia {
		fields = append(fields, h1.Field{Name: "Via", Value: p.Via.Request[version]})
	}
	return fields
}
