package exchange

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/upstream"
)

// setFields puts the end-to-end fields of a response head into header, and extra
// ones behind them. Values share one backing array, so that a head costs one
// allocation and not one a field.
func (t *Exchange) setFields(header http.Header, hd *h1.Head, extra []h1.Field) {
	options := optionsOf(hd)
	for name, have := range header {
		header[name] = slices.Clip(have) // others may hold what is behind it
	}
	values := make([]string, 0, len(hd.Fields)+len(extra))
	add := func(f *h1.Field) {
		if have, ok := header[f.Name]; ok {
			header[f.Name] = append(have, f.Value) // its room is its own
			return
		}
		values = append(values, f.Value)
		header[f.Name] = values[len(values)-1 : len(values) : len(values)]
	}
	for i := range hd.Fields {
		f := &hd.Fields[i]
		if hopByHop(f.Name) || f.Name == "Content-Length" || f.Name == "Trailer" || options.has(f.Name) {
			continue
		}
		add(f)
	}
	for i := range extra {
		add(&extra[i])
	}
}

// writeResponseHead sends the origin's head to the client: its end-to-end
// fields, our Via, and nothing that it does not have.
func (t *Exchange) writeResponseHead(hd *h1.Head, resp h1.Response) {
	header := t.Writer.Header()
	// Caddy's own Server and Alt-Svc speak for this server, not for the
	// origin: with Alt-Svc a client would look for the origin here.
	delete(header, "Server")
	delete(header, "Alt-Svc")
	var room [2]h1.Field
	extra := room[:0]
	if resp.Length >= 0 && hd.Status != http.StatusNoContent {
		extra = append(extra, h1.Field{Name: "Content-Length", Value: lengthText(hd, resp.Length)})
	}
	if !t.Proxy.HideVia {
		extra = append(extra, h1.Field{Name: "Via", Value: t.Proxy.Via.Response[hd.Minor]})
	}
	t.setFields(header, hd, extra)
	if hd.Status >= http.StatusInternalServerError {
		t.Observer.OthersFailed()
	}
	delete(header, "Proxy-Support")
	if t.bound {
		t.offerSessionAuth(hd, header)
	}
	t.changeResponse(header)
	if hd.Status == http.StatusUpgradeRequired && t.upgrade != nil {
		setUpgrade(header, hd) // RFC 9110 §15.5.22
	}
	t.CloseClient()
	if _, ok := header["Content-Type"]; !ok {
		header["Content-Type"] = nil // no guessing, also where the route has taken it away
	}
	if resp.Framing == h1.ByChunks && t.takesTrailers() {
		t.announceTrailer(header, hd)
	}
	t.Committed, t.Outcome.Status = true, uint16(hd.Status)
	t.Writer.WriteHeader(hd.Status)
}

// announceTrailer says which fields will come as a trailer, each once: as many as a trailer
// section may have, and none that will be left out. net/http's HTTP/2 server compares each
// name with all before it, and logs each that it does not take. Those that are in the header
// as well are left out: net/http would send their values there as a trailer. So are those
// that the route takes away.
func (t *Exchange) announceTrailer(header http.Header, hd *h1.Head) {
	var names []string
	seen := make(http.Header)
	for i := range hd.Fields {
		if hd.Fields[i].Name != "Trailer" {
			continue
		}
		for name := range strings.SplitSeq(hd.Fields[i].Value, ",") {
			name = http.CanonicalHeaderKey(strings.Trim(name, " \t"))
			if _, ok := header[name]; ok || seen[name] != nil || len(names) == h1.MaxFields || !mayBeAnnounced(name) {
				continue
			}
			seen[name] = []string{""}
			names = append(names, name)
		}
	}
	changeTrailer(seen, t.responseChange(), t.HTTP)
	names = slices.DeleteFunc(names, func(name string) bool { return seen[name] == nil })
	if len(names) > 0 {
		header["Trailer"] = []string{strings.Join(names, ", ")}
	}
}

func mayBeAnnounced(name string) bool {
	return allowedInTrailer(name) && h1.ValidField(name, "") && httpguts.ValidTrailerHeader(name)
}

// offerSessionAuth tells the client of a challenge that authenticates the
// connection that its own connection to this proxy will do for that (RFC 4559
// §6): it does not try otherwise. Through an upstream it does not do: the next request
// may go over another connection to the upstream, and on from there over any.
func (t *Exchange) offerSessionAuth(hd *h1.Head, header http.Header) {
	// A connection of HTTP/1.0 ends with the answer.
	if hd.Status != http.StatusUnauthorized || !t.Ways.Current.Direct() || t.clientConn() == nil || !t.HTTP.ProtoAtLeast(1, 1) || !authenticatesConnection(hd) {
		return
	}
	header["Proxy-Support"] = []string{"Session-Based-Authentication"}
	header["Connection"] = []string{"Proxy-Support"}
}

// lengthText is the one canonical form of the length: the origin's own text
// where it is that already.
func lengthText(hd *h1.Head, length int64) string {
	var room [20]byte
	canonical := strconv.AppendInt(room[:0], length, 10)
	if s := hd.Get("Content-Length"); s == string(canonical) {
		return s
	}
	return string(canonical)
}

// writeInformational forwards a 1xx response. Fields that are meant for the
// final one are kept out of it. HTTP/1.0 has no 1xx (RFC 9110 §15.2).
func (t *Exchange) writeInformational(hd *h1.Head) {
	if !t.HTTP.ProtoAtLeast(1, 1) {
		return
	}
	header := t.Writer.Header()
	final := maps.Clone(header)
	clear(header)
	t.setFields(header, hd, nil)
	delete(header, "Proxy-Support") // see offerSessionAuth
	t.changeResponse(header)        // what a route takes away is not let out here
	if t.HTTP.ProtoMajor == 2 {
		// The server encodes the header in another goroutine, which may go
		// on after WriteHeader has returned because the client has reset
		// the stream. A Content-Length, which does not belong here, makes it
		// take a copy without one.
		header["Content-Length"] = []string{"0"}
	}
	t.Writer.WriteHeader(hd.Status)
	clear(header)
	maps.Copy(header, final)
}

// writeContinue sends the client the 100 that it waits for, once, before its body is
// read. Left to net/http, the 100 would be written by whoever reads the body
// first, beside other informational responses; on HTTP/3 nobody would. Only the
// HTTP/2 server puts it in order by itself.
func (t *Exchange) writeContinue(up *upload) {
	if !up.continued && t.HTTP.ProtoMajor != 2 {
		up.continued = true
		t.writeInformational(&h1.Head{Status: http.StatusContinue})
	}
}

// takesTrailers reports whether the client can take a trailer section: always on
// HTTP/2 and HTTP/3, on HTTP/1.1 if it says so (RFC 9110 §6.5.1).
func (t *Exchange) takesTrailers() bool {
	return t.HTTP.ProtoMajor >= 2 || t.HTTP.ProtoAtLeast(1, 1) && wantsTrailers(t.HTTP.Header)
}

// writeTrailer forwards the trailer fields of a response that has been read to
// its end.
func (t *Exchange) writeTrailer(c *h1.Conn, hd *h1.Head) {
	trailer := c.Trailer()
	if len(trailer) == 0 || !t.takesTrailers() {
		return
	}
	// A short body that has not left yet would get a Content-Length, with
	// which there can be no trailers.
	t.Flush()
	header := t.Writer.Header()
	for name, values := range t.responseTrailer(trailer, hd) {
		header[http.TrailerPrefix+name] = values
	}
}

// lingerTimeout and lingerBytes bound how long, and for how much, a client is
// listened to that still sends what nobody wants.
const (
	lingerTimeout = time.Second
	lingerBytes   = 256 << 10
)

// CloseClient makes an HTTP/1 connection close after the answer where
// what follows on it must not be parsed as a request: the rest of a body that
// was not read to its end, or bytes behind a refused CONNECT (RFC 9112 §9.3,
// RFC 9931). With HTTP/1.0 that is always so: net/http drops its Transfer-Encoding, so
// what follows may be a body (§6.1), and a proxy does not persist with 1.0 (§9.3). It
// reports whether the client may still be sending a body.
func (t *Exchange) CloseClient() (sending bool) {
	if t.HTTP.ProtoMajor != 1 {
		return false
	}
	refusedTunnel := t.Use == upstream.Tunnel
	if !refusedTunnel && t.BodyRead && t.HTTP.ProtoAtLeast(1, 1) {
		return false
	}
	t.Writer.Header()["Connection"] = []string{"close"}
	return !refusedTunnel && !t.BodyRead && t.HTTP.Header["Expect"] == nil
}

// Linger delivers the answer and then drops what the client is still sending,
// for a while: closing at once would reset the connection, and the client might
// never see the answer (RFC 9112 §9.6).
func (t *Exchange) Linger() {
	if t.upload != nil {
		return // which listens
	}
	rc := http.NewResponseController(t.Writer)
	if rc.Flush() != nil || rc.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, t.Reader, lingerBytes)
}
