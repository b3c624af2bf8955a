package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// newH2Parent starts an upstream that speaks HTTP/2, and HTTP/1.1 where that is asked
// for, and returns its URL.
func newH2Parent(t *testing.T) string {
	t.Helper()
	cfg := testCA().serverTLS("127.0.0.1")
	cfg.NextProtos = []string{"h2", "http/1.1"}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	origins := new(http.Transport)
	srv := &http.Server{ErrorLog: quietLog, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			tunnelByStream(w, r)
			return
		}
		forwardOnce(w, r, origins)
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Close()
		origins.CloseIdleConnections()
	})
	return "https://" + ln.Addr().String()
}

// tunnelByStream makes a tunnel of an HTTP/2 stream, until the far end is through.
func tunnelByStream(w http.ResponseWriter, r *http.Request) {
	far, err := net.Dial("tcp", r.Host)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer far.Close()
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	go func() {
		_, _ = io.Copy(far, r.Body)
		_ = far.(*net.TCPConn).CloseWrite()
	}()
	buf := make([]byte, 4096)
	for {
		n, err := far.Read(buf)
		if n > 0 {
			_, _ = w.Write(buf[:n])
			_ = rc.Flush()
		}
		if err != nil {
			return
		}
	}
}

// forwardOnce answers an exchange with what its origin says.
func forwardOnce(w http.ResponseWriter, r *http.Request, rt http.RoundTripper) {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	resp, err := rt.RoundTrip(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// Reloads that change everything that a configuration can say, each setting in a rhythm
// of its own, while upstreams fail, come and go, and are hedged and checked: nothing is
// lost through us, and no old handler stays. It takes long: with EGRESS_LONG=1 only.
func TestReload_EverySetting(t *testing.T) {
	if os.Getenv("EGRESS_LONG") == "" {
		t.Skip("EGRESS_LONG is not set")
	}
	s := newLoadSite(t)
	s.inProcess = true
	h2, ca := newH2Parent(t), caFile(t)
	flaky, slow := newScriptedUpstream(t, "flaky"), newScriptedUpstream(t, "slow")
	var asked atomic.Int64
	flaky.behave(func(w http.ResponseWriter, r *http.Request) bool {
		return r.Method != http.MethodPost && asked.Add(1)%7 == 0 && closing(w, r)
	})
	slow.behave(func(http.ResponseWriter, *http.Request) bool {
		time.Sleep(20 * time.Millisecond) // so that there is something to hedge
		return false
	})
	denied := writeFile(t, s.storage, "denied", []byte("10.9.8.0/24\n"))
	list := func(i int) string {
		return writeFile(t, s.storage, "list", fmt.Appendf(nil, "http://%s\n# %d\n", s.upstreams[0].addr, i))
	}
	file := list(0)
	tell(nil, s.upstreams[1].addr)
	s.vary = func(generation int, secure bool) string {
		// each setting stays for so many generations
		turn := func(stay int, of ...string) string { return of[generation/stay%len(of)] }
		upstream := func(url string, words ...string) string {
			return "upstream " + url + " {\n" + strings.Join(words, "\n") + "\n}\n"
		}
		name := "clear" // by which its tunnels are its own, whatever changes
		if secure {
			name = "tls"
		}
		group := turn(4, "default", "default", "others")
		return "egress {\nname " + name + "\n" + usual + "server_name " + s.name() + "\n" +
			turn(2, "", "hide_via\n") + turn(3, "", "forwarded off\n") + turn(4, "", "destination_circuit {\nfailures 7\n}\n") +
			"tunnel {\n" + turn(2, "", "max_tunnels 5000\n") + turn(3, "", "on_policy_change close\n") + turn(5, "", "close_delay 0\n") +
			turn(7, "", "idle_timeout 10m\n") + turn(4, "", "rate_per_tunnel 100MB\n") + "}\n" +
			turn(3, "", "ports 1-65535\n") + "acl {\n" + turn(2, "deny 10.0.0.0/8\n", "") + "deny_file " + denied + "\n}\n" +
			"transport {\nkeepalive 1s\n" + turn(5, "", "max_conns_per_host 50\n") + turn(7, "", "prefer_ip 4\n") +
			turn(11, "", "dial_timeout 9s\n") + turn(6, "", "local_address 127.0.0.1\n") + "}\n" +
			"route {\nmatch {\nheader X-Via parent\n}\nto " + group + turn(3, "", " fallback direct") + "\n" + turn(2, "", "header_up X-G 1\n") + "}\n" +
			turn(2, "route direct\n", "route "+group+"\n", "route {\nto direct\nlocal_address 127.0.0.1\n}\n") +
			"upstreams " + group + " {\n" +
			upstream(h2, "tls_trust_pool file "+ca, turn(2, "", "max_tunnels_per_conn 3"), turn(3, "", "standby 2"), turn(5, "", "header X-A b")) +
			upstream(flaky.url(), turn(1, "", "weight 3"), turn(3, "", "max_conns 40"), turn(2, "", "credentials a b")) +
			upstream(slow.url(), turn(2, "", "priority 1"), turn(3, "", "local_address 127.0.0.1")) +
			turn(3, "", "file "+file+"\n", "dynamic egress_test\nscheme http\n", "file "+file+"\ndynamic egress_test\nscheme http\n") +
			"lb_policy " + turn(1, "round_robin", "weighted_round_robin", "p2c_ewma", "least_conn", "client_ip_hash", "random", "first") + "\n" +
			turn(2, "hedge 60%\n", "hedge 95%\n", "") + turn(5, "", "slow_start off\n") + "lb_retries 4\n" + turn(2, "", "retry_budget 90%\n") +
			turn(3, "health_check connect "+s.echo+"\nhealth_interval 100ms\n", "", "health_check tcp\nhealth_interval 150ms\n") +
			turn(4, "", "circuit {\nopen_for 1s\n}\n", "circuit {\nconsecutive_failures 3\n}\n") + "}\n}\n"
	}
	load(t, s.caddyfile())
	old := running(t)
	for _, pause := range []time.Duration{100 * time.Millisecond, 0} {
		s.judge(s.underLoad(func() {
			for i := range 50 {
				if i%3 == 0 {
					list(i)
					tell(nil, s.upstreams[i%2].addr)
				}
				s.reload()
				time.Sleep(pause) // the load's own pace
			}
		}))
		seenIDs.Clear()
	}
	expectCollected(t, 2*patience, old)
}
