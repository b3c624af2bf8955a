package integration

import (
	"fmt"
	"testing"
)

// What means a listener of this Caddy is refused as for a direct dial where a parent on this
// machine is told of it, by name or by address: the parent would reach it.
func TestPolicy_LoopsThroughParentHere(t *testing.T) {
	parent := newForwarder(t, "from the parent")
	// An address is a loop or denied by default; where names are looked up here, nobody may
	// know a.localhost.
	refused := func(status int) bool { return status == 508 || status == 403 || status == 502 }
	for name, upstream := range map[string]string{
		"address":   "http://" + parent.addr,
		"localhost": "http://localhost:" + port(parent.addr),
		"socks":     "socks5://" + parent.addr,
		"of both":   "http://192.0.2.1:3128\nupstream http://" + parent.addr,
	} {
		for _, resolve := range []string{"", " resolve\n"} {
			t.Run(name+resolve, func(t *testing.T) {
				eachMode(t, func(t *testing.T, m mode) {
					before := parent.asked()
					p := start(t, m, setup{egress: closed + "acl {\n" + resolve + " allow 127.0.0.0/8 ::1\n}\nupstreams default {\nupstream " + upstream + "\n}\n"})
					eachClient(t, p, func(t *testing.T, c *client) {
						for _, host := range []string{"127.0.0.1", "localhost", "a.localhost", "[::ffff:127.0.0.1]", "0.0.0.0"} {
							for _, own := range []string{p.plain, p.secure} {
								target := host + ":" + port(own)
								if resp := c.get(t, "http://"+target+"/"); !refused(resp.StatusCode) {
									t.Fatalf("%s: %d", target, resp.StatusCode)
								}
								resp, tun := c.connect(t, target, "", nil)
								if !refused(resp.StatusCode) {
									t.Fatalf("CONNECT %s: %d", target, resp.StatusCode)
								}
								tun.Close()
							}
						}
						expectError(t, c.get(t, "http://"+p.plain+"/").Response, 508, "proxy_loop_detected")
					})
					if n := parent.asked() - before; n != 0 {
						t.Errorf("the parent was asked %d times", n)
					}
				})
			})
		}
	}
}

// A rule that names exactly the address opens it, as for a direct dial, and the listeners of
// others are not concerned.
func TestPolicy_OpenedThroughParentHere(t *testing.T) {
	parent, origin := newForwarder(t, "from the parent"), okOrigin(t)
	eachMode(t, func(t *testing.T, m mode) {
		p := startAt(t, m, func(plain string) string {
			return closed + fmt.Sprintf("acl {\n allow %s\n allow 127.0.0.0/8\n}\n", plain) + "upstream http://" + parent.addr + "\n"
		})
		for _, url := range []string{"http://" + p.plain + "/", origin.URL + "/"} {
			p.client(t, "h1").get(t, url).expect(t, 200, "from the parent")
		}
	})
}

// The admin endpoint too is out of reach for who may reach loopback through a parent here.
func TestPolicy_AdminThroughParentHere(t *testing.T) {
	p := reserve(t)
	parent := newForwarder(t, "from the parent")
	t.Parallel()
	p.start(t, processSetup{egress: "upstreams default {\nupstream http://" + parent.addr + "\n}\n"})
	c := p.client(t, "h1")
	for _, host := range []string{"127.0.0.1", "localhost"} {
		expectError(t, c.get(t, "http://"+host+":"+port(p.admin)+"/config/").Response, 508, "proxy_loop_detected")
		resp, tun := c.connect(t, host+":"+port(p.admin), "", nil)
		expectError(t, resp, 508, "proxy_loop_detected")
		tun.Close()
	}
	c.get(t, "http://"+okOrigin(t).Listener.Addr().String()+"/").expect(t, 200, "from the parent")
}
