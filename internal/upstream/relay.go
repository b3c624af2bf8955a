package upstream

import (
	"net/http"
	"strings"

	"github.com/caddy-egress/egress/internal/h1"
)

// This file contains which upstreams may go on relaying behind a response in absolute form,
// as tinyproxy does (seen in 1.11.1) behind one that has no Content-Length or none but 0, or
// is informational: an origin that keeps its connection open would get the next request on
// this one, whoever it is for. Nothing is lost by not using it again: where the origin
// closes, tinyproxy does.
//
// An origin can write the Via of tinyproxy to make connections to its parent be used once,
// and leaves none out of what a parent relays that adds its own. That costs others time; the
// opposite would cost them their requests.

// What is known of the Via of an upstream.
const (
	viaUnknown uint32 = iota
	viaAdded          // each response had one
	viaMissing        // one had none: what others have is their origins'
)

// NoteRelay takes from the head of a response in absolute form what it says of the upstream.
func (m *Member) NoteRelay(hd *h1.Head) {
	via := nearestVia(hd)
	switch {
	case strings.Contains(via, "(tinyproxy/"):
		m.Health.single.Store(true)
	case hd.Status < http.StatusOK || hd.Status >= http.StatusBadRequest:
		// Not all add one to what is informational, or to pages of their own.
	case via == "":
		if m.Health.via.Load() != viaMissing { // or each response would write to what others read
			m.Health.via.Store(viaMissing)
		}
	case m.Health.via.Load() == viaUnknown:
		m.Health.via.CompareAndSwap(viaUnknown, viaAdded)
	}
}

// nearestVia is the last element of Via; "" where there is none.
func nearestVia(hd *h1.Head) string {
	nearest := ""
	for i := range hd.Fields {
		if f := &hd.Fields[i]; f.Name == "Via" && f.Value != "" {
			nearest = f.Value[strings.LastIndexByte(f.Value, ',')+1:]
		}
	}
	return nearest
}

// Single reports whether the connections to the upstream carry one exchange each: it has
// named itself tinyproxy.
func (m *Member) Single() bool { return m.Health.single.Load() }

// Named reports whether the upstream is known to be another program than tinyproxy, by the
// Via that it adds to whatever it relays.
func (m *Member) Named() bool { return m.Health.via.Load() == viaAdded && !m.Single() }
