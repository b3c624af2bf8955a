package egress

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/testkit/netns"
)

// An upstream is dialed by an interface of its own, instead of the transport's.
func TestInterface_Upstream(t *testing.T) {
	if !netns.In(t, "link add eth9 type veth peer name eth10", "addr add 192.0.2.1/24 dev eth9", "link set eth9 up") {
		return
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, tc := range []struct {
		transport, upstream string
		reached             bool
	}{
		{``, `"interface": "lo"`, true},
		{``, `"interface": "eth9"`, false},
		{`"interface": "eth9"`, `"interface": "lo"`, true},
		{`"interface": "lo"`, `"interface": "eth9"`, false},
		{`"interface": "lo"`, `"interface": "eth9", "local_addresses": ["127.0.0.1"]`, false},
		{`"interface": "eth9"`, `"interface": "lo", "prefer_ip": "4"`, true},
		{`"local_addresses": ["192.0.2.1"]`, `"interface": "lo"`, true},
		{`"interface": "eth9"`, `"local_addresses": ["127.0.0.1"]`, false}, // it holds for addresses of the upstream's own too
		{`"interface": "eth9"`, `"weight": 1`, false},
	} {
		h, end := mustLoadWithApps(t, fmt.Sprintf(`{"transport": {%s}, "groups": {"default": {"upstreams": [{"url": "http://%s", %s}]}}}`,
			tc.transport, ln.Addr(), tc.upstream))
		m := h.groups["default"].Members()[0]
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if !tc.reached { // nobody is there, and nobody answers
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		}
		conn, _, err := m.Conns.Dialer.DialProxy(ctx, proxydial.Client{}, 0)
		if reached := err == nil; reached != tc.reached {
			t.Errorf("transport %s, upstream %s: %v", tc.transport, tc.upstream, err)
		}
		if err == nil {
			conn.Close()
		}
		cancel()
		end()
	}
}

// What an upstream is dialed by decides which connections it shares over a reload, and
// is told.
func TestInterface_UpstreamIdentity(t *testing.T) {
	h, cleanUp := groupHandler(t, `{"upstreams": [{"url": "http://127.0.0.1:1", "interface": "lo"}]}`)
	defer cleanUp()
	h.proxy.Direct.Sources = transportSources(t, Transport{LocalAddresses: []string{"192.0.2.1"}})
	e := explainTunnel(t, h)
	if p := e.Paths[0]; p.Source != nil || p.Group.Upstreams[0].Source.String() != "interface lo" {
		t.Errorf("from %v, %v", p.Source, p.Group.Upstreams[0].Source)
	}
}
