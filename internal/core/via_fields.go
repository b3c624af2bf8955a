package core

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"slices"

	"github.com/caddy-egress/egress/internal/h1"
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

// connectFields are the fields of the CONNECT request to an upstream: the client's Via
// with our element behind it, by which each proxy on the way recognises a request that
// comes back to it, and what the route adds. All others of the client's own CONNECT end
// here.
func (t *Request) connectFields() []h1.Field {
	via := t.HTTP.Header["Via"]
	change := t.RequestChange()
	if change == nil {
		return t.Proxy.ViaFields(via, VersionIndex(t.HTTP))
	}
	header := make(http.Header)
	if len(via) > 0 {
		header["Via"] = slices.Clone(via)
	}
	change(header, t.HTTP)
	via = header["Via"]
	delete(header, "Via")
	var fields []h1.Field
	for name, values := range header {
		for _, v := range values {
			if h1.ValidField(name, v) {
				fields = append(fields, h1.Field{Name: name, Value: v})
			}
		}
	}
	return append(fields, t.Proxy.ViaFields(via, VersionIndex(t.HTTP))...)
}

// RequestChange is what the route changes of the header of requests; nil for nothing.
func (t *Request) RequestChange() func(http.Header, *http.Request) {
	if t.Route == nil {
		return nil
	}
	return t.Route.Changes.Request
}

// ViaFields are the Via fields (RFC 9110 §7.6.3) of a CONNECT that we make for a request
// that was received with these, in the given version.
func (p *Proxy) ViaFields(received []string, version int) []h1.Field {
	fields := make([]h1.Field, 0, len(received)+1)
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
