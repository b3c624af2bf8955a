package egress

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/self"
	"github.com/caddy-egress/egress/internal/testkit/freeport"
)

// Caddy names its listeners as IsSelf expects it to.
func TestIsSelfWithListenersOfCaddy(t *testing.T) {
	for _, tc := range []struct{ listen, reaches string }{
		{"127.0.0.1:0", "127.0.0.1"},
		{"tcp4/127.0.0.1:0", "127.0.0.1"},
		{"localhost:0", "127.0.0.1"},
		{":0", "127.0.0.1"},
		{"0.0.0.0:0", "127.0.0.1"},
		{"0.0.0.0:0", "0.0.0.0"},
		{"[::]:0", "127.0.0.1"},
	} {
		t.Run(tc.listen+" "+tc.reaches, func(t *testing.T) {
			na, err := caddy.ParseNetworkAddress(tc.listen)
			if err != nil {
				t.Fatal(err)
			}
			port := freePort(t)
			na.StartPort, na.EndPort = uint(port), uint(port)
			s := self.New(self.Config{Usage: caddy.ListenerUsage, Active: activeConfig})
			reaches := netip.MustParseAddr(tc.reaches)
			if s.IsSelf(reaches, port) {
				t.Error("recognised before anything listens")
			}
			ln, err := na.Listen(t.Context(), 0, net.ListenConfig{})
			if err != nil {
				t.Skip(err)
			}
			if !s.IsSelf(reaches, port) {
				t.Error("not recognised")
			}
			if err := ln.(net.Listener).Close(); err != nil {
				t.Error(err)
			}
			if s.IsSelf(reaches, port) {
				t.Error("recognised after the listener was closed")
			}
		})
	}
}

// freePort is a TCP port on which nothing listens.
func freePort(t *testing.T) uint16 {
	t.Helper()
	port, err := freeport.Get()
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port)
}

// Listeners of all sites are known, however their addresses are written: other
// spellings of an IP address, and names.
func TestIsSelf_SpellingsOfSites(t *testing.T) {
	for _, tc := range []struct{ host, reaches string }{
		{"[0:0:0:0:0:0:0:1]", "::1"},
		{"[::0001]", "::1"},
		{"[::ffff:127.0.0.1]", "127.0.0.1"},
		{"[::FFFF:127.0.0.1]", "127.0.0.1"},
		{"[::0]", "127.0.0.1"},
		{"[0:0::0]", "::1"},
		{"LOCALHOST", "127.0.0.1"},
		{"{env.EGRESS_TEST_BIND}", "::1"},
	} {
		t.Run(tc.host, func(t *testing.T) {
			t.Setenv("EGRESS_TEST_BIND", "[0:0:0:0:0:0:0:1]")
			port := freePort(t)
			config := fmt.Sprintf(`{"apps":{"http":{"servers":{
				"proxy":{"listen":["127.0.0.1:8080"],"automatic_https":{"disable":true},"routes":[{"handle":[{"handler":"egress"}]}]},
				"site":{"listen":["%s:%d-%d"],"automatic_https":{"disable":true}}}}}}`, tc.host, port, port+1)
			found, cleanUp, err := provisionDry([]byte(config))
			if err != nil {
				t.Fatal(err)
			}
			defer cleanUp()
			h, err := found.find("")
			if err != nil {
				t.Fatal(err)
			}
			self, reaches := h.proxy.Direct.Self, netip.MustParseAddr(tc.reaches)
			if self.IsSelf(reaches, port) {
				t.Error("recognised before anything listens")
			}
			na, err := caddy.ParseNetworkAddress(fmt.Sprintf("%s:%d", caddy.NewReplacer().ReplaceAll(tc.host, ""), port))
			if err != nil {
				t.Fatal(err)
			}
			ln, err := na.Listen(t.Context(), 0, net.ListenConfig{})
			if err != nil {
				t.Skip(err)
			}
			defer ln.(net.Listener).Close()
			if !self.IsSelf(reaches, port) {
				t.Error("not recognised")
			}
			if self.IsSelf(reaches, port+1) || self.IsSelf(netip.MustParseAddr("192.0.2.77"), port) {
				t.Error("something else is taken for our own")
			}
		})
	}
}
