package egress

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// The groups of a configuration begin once it runs, also beside a reverse_proxy that
// emits events while handlers are still provisioned.
func TestStart_BesideEvents(t *testing.T) {
	s := startLive(t)
	const checked = `{"handler":"reverse_proxy","upstreams":[{"dial":"127.0.0.1:1"}],"health_checks":{"active":{"uri":"/","interval":"1h"}}}`
	all := []string{strings.Replace(checked, ":1\"", fmt.Sprintf(":%d\"", 1000+time.Now().Nanosecond()%9000), 1)}
	for range 7 {
		all = append(all, egressJSON(s.dir, ""))
	}
	parent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	all = append(all, strings.Replace(egressJSON(s.dir, ""), "127.0.0.1:1", parent.Addr().String(), 1))
	if err := caddy.Load(liveConfig(liveServer(s.addr, all...)), true); err != nil {
		t.Fatal(err)
	}
	// A group that has begun checks its members, and dials ahead for them.
	_ = parent.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	conn, err := parent.Accept()
	if err != nil {
		t.Fatalf("the group has not begun: %v", err)
	}
	_ = conn.Close()
}
