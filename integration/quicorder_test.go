package integration

import (
	"encoding/json"
	"net"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// Caddy may start its HTTP servers before its TLS app has written its last field,
// and nothing but the network lies between that write and a QUIC handshake that
// reads it. The packets that a test sends come after its configuration has been
// loaded; quicOrder tells the race detector so.
type quicOrder struct{}

// loaded is held for a moment when a configuration has been loaded, and when a
// packet has been read.
var loaded sync.Mutex

func init() {
	caddy.RegisterModule(quicOrder{})
}

func (quicOrder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.packetconns.quic_order", New: func() caddy.Module { return new(quicOrder) }}
}

func (quicOrder) WrapPacketConn(pc net.PacketConn) net.PacketConn { return orderedConn{pc} }

type orderedConn struct{ net.PacketConn }

func (c orderedConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, addr, err := c.PacketConn.ReadFrom(p)
	afterLoad()
	return n, addr, err
}

func afterLoad() {
	loaded.Lock()
	//lint:ignore SA2001 the order is all that is wanted
	loaded.Unlock() //nolint:staticcheck // the order is all that is wanted
}

// withQUICOrder puts quicOrder into every server of a configuration.
func withQUICOrder(config []byte) ([]byte, error) {
	var root map[string]any
	if err := json.Unmarshal(config, &root); err != nil {
		return nil, err
	}
	apps, _ := root["apps"].(map[string]any)
	http, _ := apps["http"].(map[string]any)
	servers, _ := http["servers"].(map[string]any)
	for _, server := range servers {
		server.(map[string]any)["packet_conn_wrappers"] = []any{map[string]string{"wrapper": "quic_order"}}
	}
	return json.Marshal(root)
}

// Interface guards
var _ caddy.PacketConnWrapper = quicOrder{}
