package integration

import (
	"path/filepath"
	"testing"
)

// upstream.md §1, "re-checked at check-out": handlers with the same transport share
// connections, and each request takes only those whose address its own rules allow,
// whether they are idle or come back while it waits.
func TestReuse_AddressCheckedAtCheckOut(t *testing.T) {
	eachOrigin(t, func(t *testing.T, begin beginOrigin) {
		checkLeaks(t)
		release, arrived := newGate(), make(chan string, 16)
		origin, url := begin(t, func(oc *originConn) {
			for {
				target := oc.request().target
				arrived <- target
				if target == "/hold" {
					oc.hold(release.c)
				}
				oc.ok("done")
			}
		})
		// The name decides nothing: it is allowed everywhere, its address is not.
		url = url[:len(url)-len(origin.addr)] + "localhost:" + port(origin.addr)
		transport := "transport {\n max_conns_per_host 1\n pending_timeout 1m\n hosts_override localhost 127.0.0.1\n tls_trust_pool file " + caFile(t) + "\n}\n"
		sites := map[string]*proxy{}
		config := (&proxy{plain: freeAddr(t), secure: freeAddr(t), logs: newLogCapture(t), storage: t.TempDir()}).config(t, setup{})
		for name, rules := range map[string]string{
			"open":   "allow 127.0.0.0/8",
			"closed": "deny 127.0.0.1",
			"other":  "allow 127.0.0.1",
		} {
			sites[name] = &proxy{plain: freeAddr(t)}
			config += plainSite(sites[name].plain, "", "allow_unauthenticated\nacl {\n "+rules+"\n}\n"+transport)
		}
		load(t, config)
		get := func(site, path string) *rawResponse {
			return sites[site].dialPlain(t).roundTrip("GET", "GET "+url+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		}
		served := func(site, path string) {
			t.Helper()
			if resp := get(site, path); resp.StatusCode != 200 || resp.body != "done" {
				t.Errorf("%s%s: %d %q", site, path, resp.StatusCode, resp.body)
			}
			if got := await(t, arrived, "the request"); got != path {
				t.Errorf("the origin got %s, want %s", got, path)
			}
		}
		refused := func() { expectError(t, get("closed", "/closed").Response, 403, "destination_ip_prohibited") }

		served("open", "/1")
		served("other", "/2")
		if n := origin.count(); n != 1 {
			t.Errorf("%d connections for two handlers that share", n)
		}
		refused()
		held := sites["open"].dialPlain(t)
		held.send("GET " + url + "/hold HTTP/1.1\r\nHost: x\r\n\r\n")
		await(t, arrived, "the request that is held")
		waits := make(chan *rawResponse, 1)
		waiting := sites["closed"].dialPlain(t)
		waiting.send("GET " + url + "/closed HTTP/1.1\r\nHost: x\r\n\r\n")
		go func() { waits <- waiting.response("GET") }()
		release.open()
		if resp := held.response("GET"); resp.StatusCode != 200 {
			t.Errorf("the request that was held: %d", resp.StatusCode)
		}
		expectError(t, await(t, waits, "the one that waited").Response, 403, "destination_ip_prohibited")
		refused()
		served("open", "/3")
		if len(arrived) > 0 {
			t.Errorf("the origin got %s as well", <-arrived)
		}
	})
}

// A connection that is pinned to its client is checked as well.
func TestPin_AddressCheckedAtCheckOut(t *testing.T) {
	checkLeaks(t)
	list := filepath.Join(t.TempDir(), "denied")
	replaceFile(t, list, "# nothing yet\n")
	p := start(t, mode{access: true}, setup{egress: "allow_unauthenticated\nacl {\n deny_file " + list + "\n allow 127.0.0.0/8\n}\ntransport {\n hosts_override localhost 127.0.0.1\n}\n"})
	origin := ntlmOrigin(t)
	origin.addr = "localhost:" + port(origin.addr) // the rules will be about the address
	alice := p.dialPlain(t)
	number := alice.ntlm(origin, "")
	if resp := alice.get(origin); resp.body != "alice on "+number {
		t.Fatalf("before: %d %q", resp.StatusCode, resp.body)
	}
	replaceFile(t, list, "127.0.0.1\n")
	p.logs.awaitLines(t, "the change of the rules of both handlers", 2, func(l logLine) bool {
		return l.str("msg") == "access rules changed"
	})
	resp := alice.get(origin)
	expectError(t, resp.Response, 403, "destination_ip_prohibited")
	await(t, await(t, origin.conns, "the connection").closed, "the end of the pinned connection")
}
