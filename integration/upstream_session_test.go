package integration

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"strings"
	"testing"
)

// many starts upstreams that answer with their own number.
func many(t *testing.T, n int) (upstreams []string) {
	for i := range n {
		upstreams = append(upstreams, newForwarder(t, fmt.Sprint(i)).addr)
	}
	return upstreams
}

// sticky checks that requests with the same key stay on one upstream, and that those
// with others do not all go there.
func sticky(t *testing.T, ask func(key int) string) {
	t.Helper()
	where, used := map[int]string{}, map[string]bool{}
	for range 3 {
		for key := range 12 {
			at := ask(key)
			if where[key] != "" && where[key] != at {
				t.Errorf("key %d was on %s and is on %s", key, where[key], at)
			}
			where[key], used[at] = at, true
		}
	}
	if len(used) < 2 {
		t.Errorf("twelve keys are on one of eight upstreams")
	}
}

func login(user, password string) string {
	return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)) + "\r\n"
}

func (c *rawConn) ask(fields string) string {
	r := c.roundTrip("GET", "GET http://o.test/ HTTP/1.1\r\nHost: x\r\n"+fields+"\r\n")
	if r.StatusCode != 200 {
		c.t.Fatalf("%d %s", r.StatusCode, r.head)
	}
	return r.body
}

// A session that the client names in its login stays on one upstream, also after a
// reload, and its name goes no further.
func TestUpstreamSession_UserSuffix(t *testing.T) {
	checkLeaks(t)
	upstreams := many(t, 8)
	egress := "basic_auth alice s3cret\nsession_from user_suffix -session-\n" +
		strings.Replace(group("lb_policy user_hash\n", upstreams...), "allow_unauthenticated\n", "", 1)
	p := start(t, mode{access: true}, setup{egress: egress})
	where := map[int]string{}
	sticky(t, func(key int) string {
		where[key] = p.dialPlain(t).ask(login(fmt.Sprintf("alice-session-%d", key), "s3cret"))
		return where[key]
	})
	p = start(t, mode{access: true}, setup{egress: egress + "server_name other\n"})
	sticky(t, func(key int) string {
		at := p.dialPlain(t).ask(login(fmt.Sprintf("alice-session-%d", key), "s3cret"))
		if at != where[key] {
			t.Errorf("key %d was on %s and is on %s after a reload", key, where[key], at)
		}
		return at
	})
	r := p.dialPlain(t).roundTrip("GET", "GET http://o.test/ HTTP/1.1\r\nHost: x\r\n"+login("alice-session-1", "wrong")+"\r\n")
	if r.StatusCode != 407 {
		t.Errorf("a wrong password: %d", r.StatusCode)
	}
	// Without a session, the user is the key.
	at := p.dialPlain(t).ask(login("alice", "s3cret"))
	for range 5 {
		if got := p.dialPlain(t).ask(login("alice", "s3cret")); got != at {
			t.Errorf("the user was on %s and is on %s", at, got)
		}
	}
}

// Stickiness by client address, by a header field and by destination.
func TestUpstreamSession_Hashes(t *testing.T) {
	checkLeaks(t)
	upstreams := many(t, 8)
	p := start(t, mode{}, setup{egress: group("lb_policy client_ip_hash\n", upstreams...)})
	sticky(t, func(key int) string {
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(key+1))}}).Dial("tcp", p.plain)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return (&rawConn{Conn: conn, t: t, br: bufio.NewReader(conn)}).ask("")
	})
	p = start(t, mode{}, setup{egress: group("lb_policy header X-Key\n", upstreams...)})
	sticky(t, func(key int) string { return p.dialPlain(t).ask(fmt.Sprintf("X-Key: %d\r\n", key)) })
	p = start(t, mode{}, setup{egress: group("lb_policy destination_hash\n", upstreams...)})
	sticky(t, func(key int) string {
		r := p.dialPlain(t).roundTrip("GET", fmt.Sprintf("GET http://o%d.test/ HTTP/1.1\r\nHost: x\r\n\r\n", key))
		return r.body
	})
}
