package egress

import (
	"fmt"
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
	for range 8 {
		all = append(all, egressJSON(s.dir, ""))
	}
	if err := caddy.Load(liveConfig(liveServer(s.addr, all...)), true); err != nil {
		t.Fatal(err)
	}
	serving := servingHandlers()
	g := serving[len(serving)-1].groups["parents"]
	for end := time.Now().Add(10 * time.Second); !g.Started(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the group has not begun")
		}
	}
}
