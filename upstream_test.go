package egress

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/upstream"
)

// upstreamStates counts the entries of the pools of upstreams.
func upstreamStates() (n int) {
	return len(upstream.SharedHealth.All()) + len(upstream.SharedConns.All())
}

// caddyContext is the context of a configuration without anything in it.
var caddyContext = sync.OnceValues(func() (caddy.Context, error) {
	return caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}})
})

// loadWithApps is loadModule with apps for the handler to use.
func loadWithApps(t *testing.T, config string) (*Handler, func(), error) {
	t.Helper()
	base, err := caddyContext()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(base)
	t.Cleanup(cancel)
	v, err := ctx.LoadModuleByID("http.handlers.egress", json.RawMessage(config))
	if err != nil {
		return nil, cancel, err
	}
	return v.(*Handler), cancel, nil
}

func mustLoadWithApps(t *testing.T, config string) (*Handler, func()) {
	t.Helper()
	h, end, err := loadWithApps(t, config)
	if err != nil {
		t.Fatal(err)
	}
	return h, end
}

// Every mistake is refused with where it is and what is wrong with it, and leaves
// nothing behind; no credentials are quoted.
func TestUpstreamConfigErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty, bad := file("empty", "# nothing\n"), file("bad", "127.0.0.1:80\nu:s3cr3t@x\n")
	unnamed := file("user", "127.0.0.1:80::s3cr3t\n")
	up := func(fields string) string {
		return `{"groups":{"default":{"upstreams":[{"url":"http://127.0.0.1:1"` + fields + `}]}}}`
	}
	in := func(url, fields string) string {
		return `{"groups":{"default":{"upstreams":[{"url":"` + url + `"` + fields + `}]}}}`
	}
	group := func(fields string) string {
		return `{"groups":{"default":{"upstreams":[{"url":"http://127.0.0.1:1"}],` + fields + `}}}`
	}
	dynamic := func(source string) string {
		return `{"groups":{"default":{"scheme":"http","dynamic":{` + source + `}}}}`
	}
	route := func(fields string) string {
		return `{"groups":{"a":{"upstreams":[{"url":"http://127.0.0.1:1"}]}},"routes":[` + fields + `]}`
	}
	for _, tc := range []struct{ config, want string }{
		// groups
		{`{"groups":{"default":{}}}`, "groups.default: has no upstreams"},
		{`{"groups":{"default":null}}`, "groups.default: is null"},
		{`{"groups":{"":{}}}`, "groups.: a group needs a name"},
		{`{"groups":{"direct":{}}}`, "groups.direct: 'direct' cannot be the name of a group: it means something else in routes"},
		{`{"groups":{"deny":{}}}`, "groups.deny: 'deny' cannot be the name of a group: it means something else in routes"},
		{`{"groups":{"other":{"upstreams":[{"url":"http://127.0.0.1:1"}]}}}`, "groups.other: no route leads to it"},
		{`{"groups":{"default":{"upstreams":[null]}}}`, "groups.default: upstreams[0]: is null"},
		{`{"groups":{"default":{"upstreams":[{"url":"http://127.0.0.1:1"},{"url":"127.0.0.1:1"}]}}}`, "groups.default: upstreams: http://127.0.0.1:1 stands twice"},
		{`{"groups":{"default":{"upstreams":[{"url":"http://u:s3cr3t@127.0.0.1:1"},{"url":"http://127.0.0.1:1","credentials":{"username":"u","password":"s3cr3t"}}]}}}`, "groups.default: upstreams: http://127.0.0.1:1 stands twice"},
		{`{"groups":{"default":{"file":"` + empty + `"}}}`, "groups.default: file: " + empty + " has no upstreams"},
		{`{"groups":{"default":{"file":"` + bad + `"}}}`, "groups.default: " + bad + ":2: has no port; write host:port, or scheme://host for the port of the scheme"},
		{`{"groups":{"default":{"file":"` + unnamed + `"}}}`, "groups.default: " + unnamed + ":1: http://127.0.0.1:80: credentials: the user name is empty"},
		{`{"groups":{"default":{"file":"/does/not/exist"}}}`, "groups.default: file: stat /does/not/exist: no such file or directory"},
		{`{"groups":{"default":{"dynamic":{"source":"a","name":"x","port":"1"}}}}`, "groups.default: dynamic: a source tells host and port only; scheme must say what its members speak"},
		{dynamic(`"source":"a","name":"x","refresh":1000000`), "groups.default: dynamic: a: refresh: 1ms is below 1s"},
		{dynamic(`"source":"srv","name":"x","refresh":-1`), "groups.default: dynamic: srv: refresh: -1ns is below 1s"},
		{dynamic(`"source":"a","name":"x","resolver":{}`), "groups.default: dynamic: a: resolver: has no addresses"},
		{dynamic(`"source":"srv","name":"x","dial_network":"tcp4"`), "groups.default: dynamic: srv: dial_network: members are dialed as the group says; write prefer_ip in transport instead"},
		{dynamic(`"source":"multi","sources":[{"source":"a","name":"x"},{"source":"multi"}]`), "groups.default: dynamic: multi: has no sources"},
		{dynamic(`"source":"multi","sources":[{"source":"a","name":"x"}],"refresh":1`), "groups.default: dynamic: multi: json: unknown field \"refresh\""},
		{`{"groups":{"default":{"scheme":"ftp","upstreams":[{"url":"127.0.0.1:1"}]}}}`, "groups.default: scheme: unknown scheme 'ftp': one of http, https, socks5, socks5h"},
		{group(`"slow_start":-2`), "groups.default: slow_start: -2ns is not positive (-1 is off)"},
		// upstreams
		{in("", ""), "groups.default: upstreams[0]: url: is empty"},
		{in("ftp://127.0.0.1", ""), "groups.default: upstreams[0]: url: unknown scheme 'ftp': one of http, https, socks5, socks5h (or one of these with +unix behind it)"},
		{in("127.0.0.1", ""), "groups.default: upstreams[0]: url: has no port; write host:port, or scheme://host for the port of the scheme"},
		{in("http://127.0.0.1/path", ""), "groups.default: upstreams[0]: url: has a path; an upstream is scheme://host:port"},
		{in("http://127.0.0.1?q", ""), "groups.default: upstreams[0]: url: has a query or a fragment"},
		{in("http://u:s3cr3t%@127.0.0.1", ""), "groups.default: upstreams[0]: url: not a URL of the form scheme://user:password@host:port (special characters in the password must be percent-encoded)"},
		{in("http://127.0.0.1:0", ""), `groups.default: upstreams[0]: url: `},
		{in("http+unix://host/sock", ""), "groups.default: upstreams[0]: url: the path of a unix socket must be absolute: http+unix:///run/proxy.sock"},
		{in("{env.NOT_THERE_AT_ALL}", ""), "groups.default: upstreams[0]: url: "},
		{in("http://u:s3cr3t@127.0.0.1", `,"credentials":{"username":"a","password":"b"}`), "groups.default: upstreams[0]: http://127.0.0.1:80: credentials: they stand in the URL as well"},
		{up(`,"credentials":{"username":"{env.NOT_THERE_AT_ALL}","password":"s3cr3t"}`), "groups.default: upstreams[0]: http://127.0.0.1:1: credentials: the user name is empty after replacing {env.NOT_THERE_AT_ALL}: is it set?"},
		{up(`,"credentials":{"username":"u","password":"{env.NOT_THERE_AT_ALL}"}`), "groups.default: upstreams[0]: http://127.0.0.1:1: credentials: the password is empty after replacing {env.NOT_THERE_AT_ALL}: is it set?"},
		{up(`,"credentials":{"username":"a:b","password":"s3cr3t"}`), "groups.default: upstreams[0]: http://127.0.0.1:1: credentials: a user name cannot contain ':'"},
		{up(`,"credentials":{"username":"a","password":"s3cr3t\r\n"}`), "groups.default: upstreams[0]: http://127.0.0.1:1: credentials: user name or password contain control characters"},
		{up(`,"weight":-1`), "groups.default: upstreams[0]: http://127.0.0.1:1: weight: -1 is not between 1 and 10000"},
		{up(`,"weight":10001`), "groups.default: upstreams[0]: http://127.0.0.1:1: weight: 10001 is not between 1 and 10000"},
		{up(`,"priority":-1`), "groups.default: upstreams[0]: http://127.0.0.1:1: priority: -1 is below 0"},
		{up(`,"max_conns":-2`), "groups.default: upstreams[0]: http://127.0.0.1:1: max_conns: -2 is below 1 (-1 is off)"},
		{up(`,"max_tunnels":-2`), "groups.default: upstreams[0]: http://127.0.0.1:1: max_tunnels: -2 is below 1 (-1 is off)"},
		{up(`,"max_pending":-2`), "groups.default: upstreams[0]: http://127.0.0.1:1: max_pending: -2 is below 1 (-1 is off)"},
		{up(`,"max_tunnels_per_conn":-1`), "groups.default: upstreams[0]: http://127.0.0.1:1: max_tunnels_per_conn: -1 is below 0"},
		{up(`,"standby":-1`), "groups.default: upstreams[0]: http://127.0.0.1:1: standby: -1 is below 0"},
		{up(`,"standby":1001`), "groups.default: upstreams[0]: http://127.0.0.1:1: standby: 1001 is more than 1000"},
		{up(`,"standby":1,"proxy_protocol":"v1"`), "groups.default: upstreams[0]: http://127.0.0.1:1: standby: a connection that is dialed ahead cannot carry the address of its client (proxy_protocol)"},
		{up(`,"max_tunnels_per_conn":2,"proxy_protocol":"v1"`), "groups.default: upstreams[0]: http://127.0.0.1:1: max_tunnels_per_conn: with proxy_protocol a connection belongs to one client"},
		{up(`,"proxy_protocol":"v3"`), "groups.default: upstreams[0]: http://127.0.0.1:1: proxy_protocol: 'v3' is neither v1 nor v2"},
		{up(`,"tls":{}`), "groups.default: upstreams[0]: http://127.0.0.1:1: tls: the scheme is not https"},
		{up(`,"local_addresses":["x"]`), "groups.default: upstreams[0]: http://127.0.0.1:1: local_addresses: 'x': not an IP address"},
		{up(`,"local_addresses":["0.0.0.0"]`), "groups.default: upstreams[0]: http://127.0.0.1:1: local_addresses: '0.0.0.0' is no address of a machine"},
		{up(`,"local_addresses":["127.0.0.1"],"prefer_ip":"6_only"`), "groups.default: upstreams[0]: http://127.0.0.1:1: local_addresses: none is IPv6, and prefer_ip uses no others"},
		{up(`,"local_address_pick":"user_hash"`), "groups.default: upstreams[0]: http://127.0.0.1:1: local_address_pick: there are no local_addresses to pick from"},
		{up(`,"prefer_ip":"5"`), "groups.default: upstreams[0]: http://127.0.0.1:1: prefer_ip: unknown value '5': one of 4, 6, 4_only, 6_only"},
		{`{"transport":{"prefer_ip":"6_only"},` + up(`,"local_addresses":["127.0.0.1"]`)[1:], "groups.default: http://127.0.0.1:1: local_addresses: none is IPv6, and prefer_ip uses no others"},
		{in("http+unix:///s", `,"local_addresses":["127.0.0.1"]`), "groups.default: upstreams[0]: http+unix:///s: local_addresses: a unix socket has none"},
		{in("http+unix:///s", `,"prefer_ip":"4"`), "groups.default: upstreams[0]: http+unix:///s: prefer_ip: a unix socket has no IP address"},
		{in("http+unix:///s", `,"interface":"lo"`), "groups.default: upstreams[0]: http+unix:///s: interface: a unix socket has none"},
		{up(`,"interface":"a/b"`), "groups.default: upstreams[0]: http://127.0.0.1:1: interface: 'a/b' is no name of a network interface"},
		{in("https+unix:///s", ``), "groups.default: https+unix:///s: tls.server_name: a unix socket needs one"},
		{in("https://x", `,"tls":{"except_ports":["1"]}`), "groups.default: upstreams[0]: https://x:443: tls.except_ports: the scheme of the URL decides about TLS"},
		{in("https://x", `,"tls":{"renegotiation":"once"}`), "groups.default: upstreams[0]: https://x:443: tls.renegotiation: not supported"},
		{in("https://x", `,"tls":{"curves":["nope"]}`), "groups.default: https://x:443: tls: "},
		{in("socks5://127.0.0.1", `,"header":{"A":["b"]}`), "groups.default: upstreams[0]: socks5://127.0.0.1:1080: header: SOCKS has no header fields"},
		{in("socks5://127.0.0.1", `,"credentials":{"username":"u","password":""}`), "groups.default: socks5://127.0.0.1:1080: upstream proxy: password of 0 bytes, not 1 to 255 (RFC 1929)"},
		{up(`,"header":{"Host":["b"]}`), "groups.default: upstreams[0]: http://127.0.0.1:1: header: 'Host' cannot be set"},
		{up(`,"header":{"trailer":["b"]}`), "groups.default: upstreams[0]: http://127.0.0.1:1: header: 'trailer' cannot be set"},
		{up(`,"header":{"transfer-encoding":["b"]}`), "groups.default: upstreams[0]: http://127.0.0.1:1: header: 'transfer-encoding' cannot be set"},
		{up(`,"header":{"a b":["b"]}`), "groups.default: upstreams[0]: http://127.0.0.1:1: header: 'a b' cannot be set"},
		{up(`,"header":{"A":["b\r\nC: d"]}`), "groups.default: upstreams[0]: http://127.0.0.1:1: header: not a value for the field A"},
		// balancing, circuit, checks
		{group(`"load_balancing":{"selection_policy":{"policy":"nope"}}`), "groups.default: load_balancing.selection_policy: "},
		{group(`"load_balancing":{"retries":-2}`), "groups.default: load_balancing.retries: -2 is not between 1 and 100 (-1 is off)"},
		{group(`"load_balancing":{"retries":101}`), "groups.default: load_balancing.retries: 101 is not between 1 and 100 (-1 is off)"},
		{group(`"load_balancing":{"try_duration":-1}`), "groups.default: load_balancing.try_duration: -1ns is not positive"},
		{group(`"load_balancing":{"try_interval":-1}`), "groups.default: load_balancing.try_interval: -1ns is not positive"},
		{group(`"load_balancing":{"attempt_timeout":-1}`), "groups.default: load_balancing.attempt_timeout: -1ns is not positive"},
		{group(`"load_balancing":{"retry_budget":1.5}`), "groups.default: load_balancing.retry_budget: 1.5 is not between 0 and 1"},
		{group(`"load_balancing":{"hedge":0.5}`), "groups.default: load_balancing.hedge: 0.5 is not above 0.5 and below 1"},
		{group(`"circuit":{"min_samples":-1}`), "groups.default: circuit.min_samples: -1 is below 1"},
		{group(`"circuit":{"consecutive_failures":-1}`), "groups.default: circuit.consecutive_failures: -1 is below 1"},
		{group(`"circuit":{"window":"9ms"}`), "groups.default: circuit.window: 9ms is shorter than 10ms"},
		{group(`"circuit":{"open_for":"2s","max_open_for":"1s"}`), "groups.default: circuit.max_open_for: 1s is shorter than open_for (2s)"},
		{group(`"circuit":{"max_ejected":2}`), "groups.default: circuit.max_ejected: 2 is not between 0 and 1"},
		{group(`"health_checks":{"active":{}}`), "groups.default: health_checks.active.type: is missing: one of tcp, tls, http, connect"},
		{group(`"health_checks":{"active":{"type":"connect"}}`), "groups.default: health_checks.active.targets: connect needs one"},
		{group(`"health_checks":{"active":{"type":"tcp","targets":["a:1"]}}`), "groups.default: health_checks.active.targets: tcp has none: it asks the upstream itself"},
		{group(`"health_checks":{"active":{"type":"tls"}}`), "groups.default: health_checks.active.type: http://127.0.0.1:1 has no TLS to check"},
		// routes
		{route(`null`), "routes[0]: is null"},
		{route(`{}`), "routes[0]: to: is empty: direct, deny or the name of a group"},
		{route(`{"to":"b"}`), "routes[0]: to: unknown target 'b' (did you mean 'a'?): one of direct, deny, a"},
		{route(`{"to":"aa"}`), "routes[0]: to: unknown target 'aa' (did you mean 'a'?): one of direct, deny, a"},
		{route(`{"to":"direct"}`), "groups.a: no route leads to it"},
		{route(`{"to":"a","fallback":"b"}`), "routes[0]: fallback: unknown target 'b' (did you mean 'a'?): one of direct, deny, a"},
		{route(`{"to":"a","fallback":"a"}`), "routes[0]: fallback: 'a' is where the route leads already"},
		{route(`{"to":"direct","fallback":"a"}`), "routes[0]: fallback: 'direct' never fails over; only groups do"},
		{route(`{"to":"deny","fallback":"a"}`), "routes[0]: fallback: 'deny' never fails over; only groups do"},
		{route(`{"to":"a","match":[{"nope":{}}]}`), "routes[0]: match: "},
		{route(`{"to":"a","headers":{"request":{"set":{"Host":["x"]}}}}`), "routes[0]: headers: the field Host cannot be changed"},
		{route(`{"to":"a","headers":{"request":{"add":{"proxy-authorization":["x"]}}}}`), "routes[0]: headers: the field proxy-authorization cannot be changed"},
		{route(`{"to":"a","headers":{"request":{"delete":["Transfer-Encoding"]}}}`), "routes[0]: headers: the field Transfer-Encoding cannot be changed"},
		{route(`{"to":"a","headers":{"request":{"replace":{"Content-Length":[{"search":"a"}]}}}}`), "routes[0]: headers: the field Content-Length cannot be changed"},
		{route(`{"to":"a","headers":{"response":{"set":{"Connection":["x"]}}}}`), "routes[0]: headers: the field Connection cannot be changed"},
		{route(`{"to":"a","headers":{"response":{"deferred":true}}}`), "routes[0]: headers: response: require and deferred have no meaning here: the head is there when it is changed"},
	} {
		_, end, err := loadWithApps(t, tc.config)
		end()
		if err == nil {
			t.Errorf("accepted: %s", tc.config)
			continue
		}
		got := strings.TrimPrefix(err.Error(), "provision http.handlers.egress: ")
		if got != tc.want && !(strings.HasSuffix(tc.want, ": ") && strings.HasPrefix(got, tc.want)) {
			t.Errorf("%s\n got %s\nwant %s", tc.config, got, tc.want)
		}
		if strings.Contains(got, "s3cr3t") {
			t.Errorf("%s: the error quotes credentials: %s", tc.config, got)
		}
		if n := upstreamStates(); n != 0 {
			t.Fatalf("%s leaves %d states behind", tc.config, n)
		}
	}
}

// What a configuration has acquired goes with it; what the next one shares stays.
func TestUpstreamStatesAreReleased(t *testing.T) {
	config := func(name string) string {
		return `{"server_name":"` + name + `","groups":{"default":{"upstreams":[{"url":"http://127.0.0.1:1"},{"url":"socks5://127.0.0.1:2"}]}}}`
	}
	h, end := mustLoadWithApps(t, config("a"))
	if n := upstreamStates(); n != 4 {
		t.Errorf("%d states for two upstreams, want 4", n)
	}
	first := h.groups["default"].Members()[0]
	h, endNext := mustLoadWithApps(t, config("b"))
	next := h.groups["default"].Members()[0]
	if first.Health != next.Health || first.Conns != next.Conns {
		t.Error("health or connections were not taken over")
	}
	end()
	if n := upstreamStates(); n != 4 {
		t.Errorf("%d states after the reload, want 4", n)
	}
	endNext()
	if n := upstreamStates(); n != 0 {
		t.Errorf("%d states are left", n)
	}
}
