package egress

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"slices"

	"github.com/caddy-egress/egress/internal/h1"
)

// viaNames are the elements that this proxy adds to Via, by the protocol version
// that a message was received with.
type viaNames struct {
	token    string // random; recognises our own element in a request that comes back
	request  [4]string
	response [2]string
}

// viaVersions are the received-protocol values by the index of version.
var viaVersions = [4]string{"1.0", "1.1", "2", "3"}

// viaHTTP11 is the index of requests that we make by ourselves.
const viaHTTP11 = 1

func newViaNames(serverName string) viaNames {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	v := viaNames{token: "egress-" + hex.EncodeToString(random[:])}
	for i, version := range viaVersions {
		v.request[i] = version + " " + serverName + " (" + v.token + ")"
	}
	for i := range v.response {
		v.response[i] = viaVersions[i] + " " + serverName
	}
	return v
}

func versionIndex(r *http.Request) int {
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
func (t *request) connectFields() []h1.Field {
	via := t.r.Header["Via"]
	change := t.requestChange()
	if change == nil {
		return t.p.viaFields(via, versionIndex(t.r))
	}
	header := make(http.Header)
	if len(via) > 0 {
		header["Via"] = slices.Clone(via)
	}
	change(header, t.r)
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
	return append(fields, t.p.viaFields(via, versionIndex(t.r))...)
}

// requestChange is what the route changes of the header of requests; nil for nothing.
func (t *request) requestChange() func(http.Header, *http.Request) {
	if t.route == nil {
		return nil
	}
	return t.route.changes.request
}

// viaFields are the Via fields (RFC 9110 §7.6.3) of a CONNECT that we make for a request
// that was received with these, in the given version.
func (p *proxy) viaFields(received []string, version int) []h1.Field {
	fields := make([]h1.Field, 0, len(received)+1)
	for _, v := range received {
		if h1.ValidField("Via", v) {
			fields = append(fields, h1.Field{Name: "Via", Value: v})
		}
	}
	if !p.hideVia {
		fields = append(fields, h1.Field{Name: "Via", Value: p.via.request[version]})
	}
	return fields
}
