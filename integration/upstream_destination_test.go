package integration

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// newSOCKS starts a SOCKS5 proxy without authentication that connects to addresses.
func newSOCKS(t *testing.T) *rawOrigin {
	t.Helper()
	return newRawOrigin(t, func(oc *originConn) {
		read := func(n int) []byte {
			b := make([]byte, n)
			if _, err := io.ReadFull(oc.br, b); err != nil {
				return make([]byte, n)
			}
			return b
		}
		read(int(read(2)[1]))
		oc.send("\x05\x00")
		host := ""
		switch head := read(4); head[3] {
		case 1:
			host = net.IP(read(4)).String()
		case 3:
			host = string(read(int(read(1)[0])))
		}
		port := read(2)
		addr := net.JoinHostPort(host, strconv.Itoa(int(port[0])<<8|int(port[1])))
		far, err := net.Dial("tcp", addr)
		if err != nil {
			oc.send("\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00")
			return
		}
		far.Close()
		tunnelTo(oc, addr, "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
	})
}

const quickCircuit = "destination_circuit {\n failures 2\n window 10m\n open_for 200ms\n max_open_for 10m\n}\n"

// What happens after a request was sent, and what an upstream says of that, closes no
// destination: a client that provokes it for one path does not keep the others out.
func TestGroupCircuit_WhatIsNotCharged(t *testing.T) {
	squid := func(code string) string {
		return "HTTP/1.1 502 x\r\nX-Squid-Error: " + code + " 104\r\nVia: 1.1 sq (squid/6)\r\nContent-Length: 0\r\n\r\n"
	}
	named := func(kind string) string {
		return "HTTP/1.1 502 x\r\nProxy-Status: up; error=" + kind + "\r\nContent-Length: 0\r\n\r\n"
	}
	answering := func(answer string) func(t *testing.T) string {
		return func(t *testing.T) string {
			return "http://" + newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
				if !strings.HasSuffix(r.target, "/crash") {
					oc.ok("ok")
					return true
				}
				oc.send(answer)
				return strings.HasSuffix(answer, "\r\n\r\n") // else it ends there
			}).addr
		}
	}
	for name, upstream := range map[string]func(t *testing.T) string{
		"socks":                       func(t *testing.T) string { return "socks5h://" + newSOCKS(t).addr },
		"end of stream":               answering(""),
		"no proof":                    answering("HTTP/1.1 502 x\r\nContent-Length: 0\r\n\r\n"),
		"gateway":                     answering(squid("ERR_CANNOT_FORWARD")),
		"squid, closed":               answering(squid("ERR_ZERO_SIZE_OBJECT")),
		"squid, slow":                 answering(squid("ERR_READ_TIMEOUT")),
		"squid, read":                 answering(squid("ERR_READ_ERROR")),
		"squid, write":                answering(squid("ERR_WRITE_ERROR")),
		"squid, no HTTP":              answering(squid("ERR_INVALID_RESP")),
		"connection_terminated":       answering(named("connection_terminated")),
		"connection_read_timeout":     answering(named("connection_read_timeout")),
		"connection_write_timeout":    answering(named("connection_write_timeout")),
		"http_response_incomplete":    answering(named("http_response_incomplete")),
		"http_response_header_size":   answering(named("http_response_header_size")),
		"http_response_timeout":       answering(named("http_response_timeout")),
		"http_protocol_error":         answering(named("http_protocol_error")),
		"destination_unavailable":     answering(named("destination_unavailable")),
		"a head that does not come":   func(t *testing.T) string { return silentFor(t, "/crash") },
		"half a head":                 answering("HTTP/1.1 200 O"),
		"malformed":                   answering("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
		"an answer that is cut short": answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			origin := newRawOrigin(t, func(oc *originConn) {
				for {
					if strings.HasSuffix(oc.request().target, "/crash") {
						return
					}
					oc.ok("ok")
				}
			})
			p := start(t, mode{}, setup{egress: quickCircuit + "transport {\n response_header_timeout 50ms\n}\n" + group("circuit {\n open_for 1ms\n}\n", upstream(t))})
			for range 5 {
				crash := p.dialPlain(t)
				crash.trySend("GET " + origin.url("/crash") + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
				_, _ = io.Copy(io.Discard, crash.br)
			}
			p.client(t, "h1").get(t, origin.url("/")).expect(t, 200, "ok")
		})
	}
}

// silentFor starts an upstream that does not answer requests for a path.
func silentFor(t *testing.T, path string) string {
	t.Helper()
	return "http://" + newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		if strings.HasSuffix(r.target, path) {
			_, _ = oc.br.ReadByte() // until the connection is closed
			return false
		}
		oc.ok("ok")
		return true
	}).addr
}

// What an upstream says of the name of a destination, of the connection to it and of its
// TLS is charged to it.
func TestGroupCircuit_WhatIsCharged(t *testing.T) {
	for name, fields := range map[string]string{
		"dns_error":                 "Proxy-Status: up; error=dns_error",
		"dns_timeout":               "Proxy-Status: up; error=dns_timeout",
		"connection_refused":        "Proxy-Status: up; error=connection_refused",
		"connection_timeout":        "Proxy-Status: up; error=connection_timeout",
		"destination_ip_unroutable": "Proxy-Status: up; error=destination_ip_unroutable",
		"tls_protocol_error":        "Proxy-Status: up; error=tls_protocol_error",
		"tls_certificate_error":     "Proxy-Status: up; error=tls_certificate_error",
		"tls_alert_received":        "Proxy-Status: up; error=tls_alert_received",
		"squid, DNS":                "X-Squid-Error: ERR_DNS_FAIL 0",
		"squid, connect":            "X-Squid-Error: ERR_CONNECT_FAIL 111",
		"no detail, to CONNECT":     "Content-Type: text/html",
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			up := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
				oc.send("HTTP/1.1 502 x\r\n" + fields + "\r\nContent-Length: 0\r\n\r\n")
				return true
			})
			p := start(t, mode{}, setup{egress: "destination_circuit {\n failures 2\n window 10m\n open_for 10m\n max_open_for 10m\n}\n" + group("lb_retries off", up.addr)})
			request := "GET http://o.test/ HTTP/1.1\r\nHost: x\r\n\r\n"
			if strings.HasSuffix(name, "CONNECT") {
				request = "CONNECT o.test:443 HTTP/1.1\r\nHost: x\r\n\r\n"
			}
			for i := range 4 {
				method, _, _ := strings.Cut(request, " ")
				if r := p.dialPlain(t).roundTrip(method, request); (r.StatusCode == 503 && r.Header.Get("Retry-After") != "") != (i >= 2) {
					t.Errorf("%d: status %d", i, r.StatusCode)
				}
			}
			if n := up.asked(); n != 2 {
				t.Errorf("the upstream was asked %d times, want 2", n)
			}
		})
	}
}

// A probe whose origin lets it wait keeps nobody out: behind a tunnel it has told its
// result when the connection stands, and in absolute form another one is sent beside it.
func TestGroupCircuit_LongPoll(t *testing.T) {
	checkLeaks(t)
	for _, kind := range []string{"socks5h", "http"} {
		t.Run(kind, func(t *testing.T) {
			polled, end := make(chan struct{}, 10), make(chan struct{})
			answer := func(oc *originConn, r *originRequest) bool {
				if strings.HasSuffix(r.target, "/poll") {
					polled <- struct{}{}
					<-end
				}
				oc.ok("ok")
				return true
			}
			dest := refusedAddr(t)
			upstream := "socks5h://" + newSOCKS(t).addr
			if kind == "http" {
				fails := 2
				upstream = "http://" + newRawOrigin(t, func(oc *originConn) {
					for {
						r := oc.request()
						if fails > 0 { // one client, one request at a time
							fails--
							oc.send("HTTP/1.1 503 x\r\nX-Squid-Error: ERR_CONNECT_FAIL 111\r\nContent-Length: 0\r\n\r\n")
						} else if !answer(oc, r) {
							return
						}
					}
				}).addr
			}
			p := start(t, mode{}, setup{egress: quickCircuit + group("lb_retries off", upstream)})
			defer close(end) // before anybody waits for those who wait for it
			c := p.client(t, "h1")
			for range 2 {
				if resp := c.get(t, "http://"+dest+"/"); resp.StatusCode == 200 {
					t.Fatal("it does not fail")
				}
			}
			if kind != "http" {
				ln, err := net.Listen("tcp", dest)
				if err != nil {
					t.Fatal(err)
				}
				serveRaw(t, ln, func(oc *originConn) {
					for answer(oc, oc.request()) {
					}
				})
			}
			eventually(t, "the probe", func() bool {
				poll := p.dialPlain(t)
				poll.send("GET http://" + dest + "/poll HTTP/1.1\r\nHost: x\r\n\r\n")
				answered := make(chan struct{})
				go func() { defer close(answered); _, _ = poll.br.ReadByte() }()
				select {
				case <-polled:
					return true
				case <-answered:
					return false
				}
			})
			eventually(t, "an answer to somebody else", func() bool {
				return c.get(t, "http://"+dest+"/").StatusCode == 200
			})
		})
	}
}

// A destination that does not serve one member is asked for through the others: users of
// that member keep nobody out, and are passed on themselves.
func TestGroupCircuit_OneMemberFails(t *testing.T) {
	checkLeaks(t)
	banned, good := newScriptedUpstream(t, "banned"), newScriptedUpstream(t, "good")
	site := newEchoOrigin(t)
	banned.behave(only(site.addr, answering(502)))
	p := start(t, mode{}, setup{egress: usual + "destination_circuit {\n failures 3\n window 10m\n open_for 10m\n max_open_for 10m\n}\n" +
		groupOf("lb_policy header X-User\nlb_retries off\n", banned, good)})
	c := p.client(t, "h1")
	connect := func(user string) int {
		resp, tun := c.connect(t, site.addr, "", http.Header{"X-User": {user}})
		tun.Close()
		return resp.StatusCode
	}
	// Users of both, in some order.
	var users [2]string
	for n := 0; users[0] == "" || users[1] == ""; n++ {
		user := strconv.Itoa(n)
		resp, tun := c.connect(t, newEchoOrigin(t).addr, "", http.Header{"X-User": {user}})
		tun.Close()
		if resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
		of := 0
		if len(banned.asked()) == 0 {
			of = 1
		}
		users[of] = user
	}
	for i := range 3 {
		if status := connect(users[0]); status != 502 {
			t.Errorf("%d: status %d, want 502", i, status)
		}
		if status := connect(users[1]); status != 200 {
			t.Errorf("%d: status %d through the other member", i, status)
		}
	}
	for range 10 {
		for _, user := range users {
			if status := connect(user); status != 200 {
				t.Errorf("status %d, want 200", status)
			}
		}
	}
	if n := banned.askedFor(site.addr); n != 3 {
		t.Errorf("the member was asked %d times, want 3", n)
	}
}

// A dead destination costs one attempt for each further member, and is back when it is.
func TestGroupCircuit_AllMembersFail(t *testing.T) {
	checkLeaks(t)
	dead := newEchoOrigin(t)
	members := []*scriptedUpstream{newScriptedUpstream(t, "a"), newScriptedUpstream(t, "b"), newScriptedUpstream(t, "c")}
	behave := func(b behaviour) {
		for _, u := range members {
			u.behave(b)
		}
	}
	behave(answering(502))
	config := func(open string) setup {
		return setup{egress: usual + "destination_circuit {\n failures 2\n window 10m\n open_for " + open + "\n max_open_for 10m\n}\n" + groupOf("lb_policy first\nlb_retries off\n", members...)}
	}
	p := start(t, mode{}, config("10m"))
	c := p.client(t, "h1")
	for i := range 10 {
		want := 502
		if i >= 4 {
			want = 503
		}
		resp, tun := c.connect(t, dead.addr, "", nil)
		tun.Close()
		if resp.StatusCode != want || (resp.Header.Get("Retry-After") != "") != (want == 503) {
			t.Errorf("%d: status %d, %v", i, resp.StatusCode, resp.Header)
		}
	}
	for i, want := range []int{2, 1, 1} {
		if n := members[i].askedFor(dead.addr); n != want {
			t.Errorf("%s was asked %d times, want %d", members[i].name, n, want)
		}
	}
	p.reload(t, config("100ms"))
	c = p.client(t, "h1")
	eventually(t, "the circuits to open", func() bool {
		resp, tun := c.connect(t, dead.addr, "", nil)
		tun.Close()
		return resp.StatusCode == 503
	})
	behave(nil)
	eventually(t, "an answer", func() bool {
		resp, tun := c.connect(t, dead.addr, "", nil)
		tun.Close()
		return resp.StatusCode == 200
	})
}
