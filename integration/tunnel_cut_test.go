package integration

import (
	"errors"
	"io"
	"path/filepath"
	"testing"
	"time"
)

// newDripOrigin sends a byte now and then, for as long as it can, and tells how its
// connection ended. A socket tells a reset to one system call only, be it of the
// reader or of the writer.
func newDripOrigin(t *testing.T) (origin *rawOrigin, ended chan error) {
	ended = make(chan error, 16)
	origin = newRawOrigin(t, func(oc *originConn) {
		stopped := make(chan error, 1)
		go func() {
			for {
				if _, err := oc.Conn.Write([]byte("x")); err != nil {
					stopped <- err
					return
				}
				time.Sleep(20 * time.Millisecond) // the pace of the answer
			}
		}()
		err := oc.awaitEnd()
		ended <- errors.Join(err, <-stopped)
	})
	return origin, ended
}

// cutOff fails the test unless a client sees that a tunnel was cut off.
func cutOff(t *testing.T, tun *tunnel, what string) {
	t.Helper()
	if got, err := io.ReadAll(tun); !isReset(err) {
		t.Errorf("%s: %d bytes, then %v; want a reset", what, len(got), err)
	}
}

// RFC 9113 §8.5, RFC 9114 §4.4: a tunnel that is ended in mid-transfer ends with a
// reset on every protocol, for the client and for the origin: what either has got must
// not look complete.
func TestTunnel_CutInMidTransfer_RFC9113_8_5(t *testing.T) {
	for _, tc := range []struct{ name, tunnel string }{
		{"timeout", "timeout 400ms"},
		{"policy", "on_policy_change close"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				list := filepath.Join(t.TempDir(), "denied")
				replaceFile(t, list, "# nothing yet\n")
				p := start(t, m, setup{egress: "allow_unauthenticated\nhosts proxy.test\nacl {\n deny_file " + list + "\n}\n" + openLoopback +
					"tunnel {\n " + tc.tunnel + "\n}\n"})
				origin, ended := newDripOrigin(t)
				tunnels := map[string]*tunnel{}
				for _, kind := range clientKinds {
					tunnels[kind] = p.client(t, kind).open(t, origin.addr)
					readN(t, tunnels[kind], 1)
				}
				if tc.name == "policy" {
					replaceFile(t, list, origin.addr+"\n")
				}
				for kind, tun := range tunnels {
					cutOff(t, tun, kind)
					if err := await(t, ended, "the end at the origin"); !isTCPReset(err) {
						t.Errorf("the origin has seen %v; want a reset", err)
					}
				}
			})
		})
	}
}

// The same through an upstream that is spoken to over HTTP/2: it resets its own
// connection to the origin for the stream that was reset.
func TestTunnel_CutThroughUpstream(t *testing.T) {
	plain, secure := startParent(t)
	for name, upstream := range map[string]string{
		"http":  "http://" + plain,
		"https": "https://" + secure + " {\n tls_server_name proxy.test\n tls_trust_pool file " + caFile(t) + "\n}",
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, mode{}, setup{egress: usual + "upstream " + upstream + "\ntunnel {\n timeout 400ms\n}\n"})
			origin, ended := newDripOrigin(t)
			eachClient(t, p, func(t *testing.T, c *client) {
				cutOff(t, c.open(t, origin.addr), c.kind)
				if err := await(t, ended, "the end at the origin"); !isTCPReset(err) {
					t.Errorf("the origin has seen %v; want a reset", err)
				}
			})
		})
	}
}

// Bytes start the half-close timer anew: who has said all gets all of a slow answer.
func TestTunnel_HalfClosedWhileBytesFlow(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "tunnel {\n half_close_timeout 1s\n}\n"})
		eachClientAtOnce(t, p, func(t *testing.T, c *client) {
			origin := newRawOrigin(t, func(oc *originConn) {
				if err := oc.awaitEnd(); err != nil && err != io.EOF {
					oc.fail("the client's end arrived as %v", err)
				}
				for range 10 {
					oc.send("x")
					time.Sleep(200 * time.Millisecond) // the pace of the answer
				}
			})
			tun := c.open(t, origin.addr)
			if err := tun.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(tun); string(got) != "xxxxxxxxxx" || err != nil {
				t.Errorf("got %q, %v; want ten bytes and an end", got, err)
			}
		})
	})
}
