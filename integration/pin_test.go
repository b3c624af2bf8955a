package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// ntlmOrigin authenticates connections as NTLM does: a challenge that only the
// same connection can answer, after which every request on it is Alice's.
func ntlmOrigin(t *testing.T) *rawOrigin {
	return newRawOrigin(t, func(oc *originConn) {
		challenged, authenticated := false, false
		for {
			switch r := oc.request(); r.header.Get("Authorization") {
			case "NTLM hello":
				challenged = true
				oc.send(fmt.Sprintf("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM challenge%d\r\nContent-Length: 0\r\n\r\n", oc.number))
				continue
			case fmt.Sprintf("NTLM answer%d", oc.number):
				authenticated = challenged
			}
			if !authenticated {
				oc.send("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n")
				continue
			}
			oc.ok(fmt.Sprintf("alice on %d", oc.number))
		}
	})
}

// ntlm runs the handshake on a client's connection.
func (c *rawConn) ntlm(origin *rawOrigin, fields string) (number string) {
	c.t.Helper()
	head := "GET " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\n" + fields
	if resp := c.roundTrip("GET", head+"\r\n"); resp.StatusCode != 401 {
		c.t.Fatalf("without credentials: %d", resp.StatusCode)
	}
	resp := c.roundTrip("GET", head+"Authorization: NTLM hello\r\n\r\n")
	number, ok := strings.CutPrefix(resp.Header.Get("Www-Authenticate"), "NTLM challenge")
	if resp.StatusCode != 401 || !ok {
		c.t.Fatalf("first leg: %d %q", resp.StatusCode, resp.head)
	}
	body := "POST " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\n" + fields + "Content-Length: 4\r\n"
	if resp := c.roundTrip("POST", body+"Authorization: NTLM answer"+number+"\r\n\r\nbody"); resp.StatusCode != 200 {
		c.t.Fatalf("second leg: %d %q", resp.StatusCode, resp.head)
	}
	return number
}

// get is a GET without credentials.
func (c *rawConn) get(origin *rawOrigin) rawResponse {
	c.t.Helper()
	return *c.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n\r\n")
}

// upstream.md §1, RFC 4559 §6: the connection that a client has authenticated is
// that client's, for as long as its own connection lasts, and nobody else's.
func TestPin_Handshake_RFC4559_6(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachH1(t, func(t *testing.T, kind string) {
			origin := ntlmOrigin(t)
			alice, bob := p.dialH1(t, kind), p.dialH1(t, kind)
			number := alice.ntlm(origin, "")
			for range 3 {
				if resp := bob.get(origin); resp.StatusCode != 401 {
					t.Errorf("Bob got %d %q", resp.StatusCode, resp.body)
				}
				if resp := alice.get(origin); resp.StatusCode != 200 || resp.body != "alice on "+number {
					t.Errorf("Alice got %d %q, want her connection %s", resp.StatusCode, resp.body, number)
				}
			}
			// A method that must not be sent twice goes over it as well,
			// however long it was idle.
			if resp := alice.roundTrip("POST", "POST "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"); resp.body != "alice on "+number {
				t.Errorf("POST: %d %q", resp.StatusCode, resp.body)
			}
			if got := origin.count(); got != 2 {
				t.Errorf("%d connections for two clients", got)
			}
		})
	})
}

// RFC 4559 §6: a client tries only where the proxy says that it can.
func TestPin_ProxySupport_RFC4559_6(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				scheme := strings.TrimPrefix(oc.request().target, "/")
				oc.send("HTTP/1.1 401 Unauthorized\r\nProxy-Support: Session-Based-Authentication\r\nWWW-Authenticate: " + scheme + "\r\nContent-Length: 0\r\n\r\n")
			}
		})
		eachClient(t, p, func(t *testing.T, c *client) {
			for scheme, offered := range map[string]bool{"Negotiate": true, "NTLM": true, "Basic": false} {
				want := ""
				if offered && strings.HasPrefix(c.kind, "h1") {
					want = "Session-Based-Authentication"
				}
				if got := c.get(t, origin.url("/"+scheme)).Header.Get("Proxy-Support"); got != want {
					t.Errorf("%s: Proxy-Support %q, want %q", scheme, got, want)
				}
			}
		})
		raw := p.dialPlain(t)
		resp := raw.roundTrip("GET", "GET "+origin.url("/NTLM")+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if got := headFields(resp.head, "Connection"); len(got) != 1 || got[0] != "Proxy-Support" {
			t.Errorf("Connection %q", got)
		}
	})
}

// Through an upstream a handshake has no connection of its own, so none is offered; what a
// connection may have been authenticated for is not used again.
func TestPin_Upstream(t *testing.T) {
	parent := newRawOrigin(t, func(oc *originConn) {
		oc.request()
		oc.send("HTTP/1.1 401 Unauthorized\r\nProxy-Support: Session-Based-Authentication\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n")
		_ = oc.awaitEnd()
	})
	p := start(t, mode{}, setup{egress: usual + "upstream http://" + parent.addr + "\n"})
	c := p.client(t, "h1")
	for i := range 2 {
		resp := c.get(t, "http://origin.test/")
		if got := resp.Header.Get("Proxy-Support"); resp.StatusCode != 401 || got != "" {
			t.Errorf("%d: %s, Proxy-Support %q", i, resp.Status, got)
		}
	}
	if got := parent.count(); got != 2 {
		t.Errorf("%d connections for two requests", got)
	}
}

// The origin's connection ends with the client's.
func TestPin_ClientCloses(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachH1(t, func(t *testing.T, kind string) {
			for _, how := range []string{"close", "abort", "Connection: close"} {
				origin := ntlmOrigin(t)
				alice, bob := p.dialH1(t, kind), p.dialH1(t, kind)
				alice.ntlm(origin, "")
				switch how {
				case "close":
					alice.Close()
				case "abort":
					alice.abort()
				default:
					alice.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
				}
				await(t, await(t, origin.conns, "the connection").closed, "the end of the pinned connection after "+how)
				if resp := bob.get(origin); resp.StatusCode != 401 {
					t.Errorf("%s: Bob got %d %q", how, resp.StatusCode, resp.body)
				}
			}
		})
	})
}

// A pinned connection that is not used ends, and one that the origin has closed
// is not used again.
func TestPin_Ends(t *testing.T) {
	t.Run("idle", func(t *testing.T) {
		eachMode(t, func(t *testing.T, m mode) {
			p := start(t, m, setup{egress: usual + "transport {\n keepalive 100ms\n}\n"})
			origin := ntlmOrigin(t)
			raw := p.dialPlain(t)
			raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\nAuthorization: NTLM hello\r\n\r\n")
			await(t, await(t, origin.conns, "the connection").closed, "the end of the pinned connection")
			if resp := raw.get(origin); resp.StatusCode != 401 || origin.count() != 2 {
				t.Errorf("got %d on connection %d", resp.StatusCode, origin.count())
			}
		})
	})
	t.Run("origin", func(t *testing.T) {
		eachMode(t, func(t *testing.T, m mode) {
			p := startUsual(t, m)
			origin := ntlmOrigin(t)
			raw := p.dialPlain(t)
			raw.ntlm(origin, "")
			await(t, origin.conns, "the connection").Close()
			// A request that is not sent twice shows that it was not tried.
			resp := raw.roundTrip("POST", "POST "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
			if resp.StatusCode != 401 || origin.count() != 2 {
				t.Errorf("got %d on connection %d", resp.StatusCode, origin.count())
			}
		})
	})
	t.Run("never kept", func(t *testing.T) {
		eachMode(t, func(t *testing.T, m mode) {
			p := start(t, m, setup{egress: usual + "transport {\n keepalive off\n}\n"})
			origin := ntlmOrigin(t)
			p.dialPlain(t).get(origin)
			await(t, await(t, origin.conns, "the connection").closed, "the end of the connection")
		})
	})
}

// On HTTP/2 and HTTP/3, where one connection carries what it likes side by side,
// nothing is pinned, and nothing shared either.
func TestPin_NotMultiplexed(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		for _, kind := range []string{"h2", "h3"} {
			t.Run(kind, func(t *testing.T) {
				origin := ntlmOrigin(t)
				c := p.client(t, kind)
				r := c.newRequest(t, http.MethodGet, origin.url("/"), nil)
				r.Header.Set("Authorization", "NTLM hello")
				c.do(t, r).expect(t, 401, "")
				await(t, await(t, origin.conns, "the connection").closed, "the end of the connection")
				c.get(t, origin.url("/")).expect(t, 401, "")
			})
		}
	})
}

// A proxy in front of this one sends the requests of several users over one
// connection: each has a connection of its own to the origin.
func TestPin_UsersOfOneConnection(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: "basic_auth alice secret\nbasic_auth bob secret\n" + openLoopback})
		origin := ntlmOrigin(t)
		raw := p.dialPlain(t)
		alice, bob := "Proxy-Authorization: Basic YWxpY2U6c2VjcmV0\r\n", "Proxy-Authorization: Basic Ym9iOnNlY3JldA==\r\n"
		number := raw.ntlm(origin, alice)
		for range 2 {
			if resp := raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n"+bob+"\r\n"); resp.StatusCode != 401 {
				t.Errorf("Bob got %d %q", resp.StatusCode, resp.body)
			}
			if resp := raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n"+alice+"\r\n"); resp.body != "alice on "+number {
				t.Errorf("Alice got %d %q", resp.StatusCode, resp.body)
			}
		}
	})
}

// Behind a trusted proxy, several clients may share a connection: what one of them has
// authenticated is not given to another.
func TestPin_ClientsOfATrustedProxy(t *testing.T) {
	p := start(t, mode{}, setup{servers: "trusted_proxies static 127.0.0.0/8\n", egress: usual})
	origin := ntlmOrigin(t)
	raw := p.dialPlain(t)
	alice, bob := "X-Forwarded-For: 192.0.2.1\r\n", "X-Forwarded-For: 192.0.2.2\r\n"
	number := raw.ntlm(origin, alice)
	for range 2 {
		if resp := raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n"+bob+"\r\n"); resp.StatusCode != 401 {
			t.Errorf("Bob got %d %q", resp.StatusCode, resp.body)
		}
		if resp := raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n"+alice+"\r\n"); resp.body != "alice on "+number {
			t.Errorf("Alice got %d %q", resp.StatusCode, resp.body)
		}
	}
}

// Half of the connections that the pool allows may be pinned: beyond that the one
// that was not used for longest ends. Others always find room.
func TestPin_LeavesRoom(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n max_conns_per_host 4\n}\n"})
		origin := ntlmOrigin(t)
		var clients []*rawConn
		for range 6 {
			c := p.dialPlain(t)
			c.ntlm(origin, "")
			clients = append(clients, c)
		}
		for i, c := range clients[4:] {
			if resp := c.get(origin); resp.StatusCode != 200 {
				t.Errorf("client %d lost its connection: %d", i+4, resp.StatusCode)
			}
		}
		for range 4 {
			await(t, await(t, origin.conns, "a connection").closed, "the end of an evicted connection")
		}
	})
}

// A reload, which closes the connections of clients, ends what is pinned to them.
func TestPin_Reload(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := ntlmOrigin(t)
		raw := p.dialPlain(t)
		raw.ntlm(origin, "")
		start(t, m, setup{})
		await(t, await(t, origin.conns, "the connection").closed, "the end of the pinned connection")
	})
}
