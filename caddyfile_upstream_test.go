package egress

import (
	"testing"

	"github.com/caddy-egress/egress/internal/upstream"
)

// Each mistake in the words for upstreams and routes, with what the operator reads.
func TestCaddyfileErrors_Upstreams(t *testing.T) {
	const schemes = "one of http, https, socks5, socks5h (or one of these with +unix behind it)"
	for _, tc := range []struct{ block, want string }{
		{"upstream", "upstream wants a URL, at Caddyfile:3"},
		{`upstream ""`, "upstream: the URL is empty, at Caddyfile:3"},
		{"upstream ftp://x:1", "upstream: unknown scheme 'ftp': " + schemes + ", at Caddyfile:3"},
		{"upstream x:1 y:2", "unexpected argument 'y:2': upstream takes one URL, at Caddyfile:3"},
		{"upstream http://x:0", "upstream: invalid destination: port 0 cannot be connected to, at Caddyfile:3"},
		{"upstream http://x/path", "upstream: has a path; an upstream is scheme://host:port, at Caddyfile:3"},
		{"upstream http://x?q", "upstream: has a query or a fragment, at Caddyfile:3"},
		{"upstream x", "upstream: has no port; write host:port, or scheme://host for the port of the scheme, at Caddyfile:3"},
		{"upstream http+unix://host/path", "upstream: the path of a unix socket must be absolute: http+unix:///run/proxy.sock, at Caddyfile:3"},
		{"upstream http://u:p%zz@x:1", "upstream: not a URL of the form scheme://user:password@host:port (special characters in the password must be percent-encoded), at Caddyfile:3"},
		{"upstream x:1 {\n wait 3\n}", "unrecognized subdirective 'wait' of upstream, at Caddyfile:4"},
		{"upstream x:1 {\n weight 0\n}", "bad weight '0': must be between 1 and 10000, at Caddyfile:4"},
		{"upstream x:1 {\n priority -1\n}", "bad priority '-1': must be between 0 and 1000000, at Caddyfile:4"},
		{"upstream x:1 {\n priority high\n}", "bad priority 'high': not a number, at Caddyfile:4"},
		{"upstream x:1 {\n max_tunnels 0\n}", "bad max_tunnels '0': must be at least 1, or off, at Caddyfile:4"},
		{"upstream x:1 {\n credentials alice\n}", "credentials wants a user and a password, got 1 arguments, at Caddyfile:4"},
		{"upstream x:1 {\n proxy_protocol v3\n}", "bad proxy_protocol 'v3': one of [v1 v2 off], at Caddyfile:4"},
		{"upstream x:1 {\n header X\n}", "header wants a field and a value, got 1 arguments, at Caddyfile:4"},
		{"upstreams", "upstreams wants one argument, got 0, at Caddyfile:3"},
		{"upstreams direct {\n}", "upstreams: 'direct' cannot be the name of a group: it means something else in routes, at Caddyfile:3"},
		{"upstreams a {\n upstream x:1\n}\nupstreams a {\n}", "the group 'a' stands twice, at Caddyfile:6"},
		{"upstreams a {\n server x:1\n}", "unrecognized subdirective 'server' of upstreams, at Caddyfile:4"},
		{"upstreams a {\n max_fails 1\n}", "unrecognized subdirective 'max_fails' of upstreams (write circuit { consecutive_failures … } or destination_circuit { failures … }), at Caddyfile:4"},
		{"upstreams a {\n unhealthy_latency 1s\n}", "unrecognized subdirective 'unhealthy_latency' of upstreams (write nothing: lb_policy p2c_ewma avoids slow upstreams), at Caddyfile:4"},
		{"upstreams a {\n scheme ftp\n}", "bad scheme 'ftp': one of [http https socks5 socks5h], at Caddyfile:4"},
		{"upstreams a {\n lb_policy best\n}", "unknown selection policy 'best': one of client_ip_hash, cookie, destination_hash, first, header, least_conn, p2c_ewma, random, random_choose, round_robin, user_hash, weighted_round_robin, at Caddyfile:4"},
		{"upstreams a {\n lb_retries 0\n}", "bad lb_retries '0': must be between 1 and 100, or off, at Caddyfile:4"},
		{"upstreams a {\n retry_budget 120%\n}", "bad retry_budget '120%': not a share from 0% to 100%, at Caddyfile:4"},
		{"upstreams a {\n hedge 40%\n}", "bad hedge '40%': must be above 50% and below 100%, or off, at Caddyfile:4"},
		{"upstreams a {\n health_check ping\n}", "bad health_check 'ping': one of [tcp tls http connect], or off, at Caddyfile:4"},
		{"upstreams a {\n health_check connect example.com\n}", "health_check: target 'example.com': invalid destination: the port is missing, at Caddyfile:4"},
		{"upstreams a {\n health_check http example.com:80\n}", "health_check: target 'example.com:80': not a URL, at Caddyfile:4"},
		{"upstreams a {\n health_status 600\n}", "bad health_status '600': neither a status nor a class like 2xx, at Caddyfile:4"},
		{"upstreams a {\n health_headers x\n}", "unexpected argument 'x': health_headers takes a block, at Caddyfile:4"},
		{"upstreams a {\n health_headers {\n  X\n }\n}", "health_headers: X has no value, at Caddyfile:5"},
		{"upstreams a {\n circuit {\n  max_ejected 200\n }\n}", "bad max_ejected '200': not a share from 0% to 100%, at Caddyfile:5"},
		{"upstreams a {\n circuit {\n  max_ejected off\n }\n}", "max_ejected cannot be off: write 100% for no limit, or 0% to leave all upstreams in rotation, at Caddyfile:5"},
		{"upstreams a {\n circuit off\n}", "circuit cannot be off: write circuit { max_ejected 0% } to leave all upstreams in rotation, at Caddyfile:4"},
		{"upstreams a {\n retry_budget 20\n}", "bad retry_budget '20': not a share; write 20%, at Caddyfile:4"},
		{"upstreams a {\n hedge 95\n}", "bad hedge '95': not a share; write 95%, at Caddyfile:4"},
		{"upstreams a {\n health_check off now\n}", "wrong argument count or unexpected line ending after 'now', at Caddyfile:4"},
		{"upstream http://::1:3128", "upstream: an IPv6 address needs brackets: http://[::1]:3128, at Caddyfile:3"},
		{"upstream http://u:p@::1:3128", "upstream: an IPv6 address needs brackets: http://[::1]:3128, at Caddyfile:3"},
		{"upstream https://fe80::1/", "upstream: an IPv6 address needs brackets: https://[fe80::1], at Caddyfile:3"},
		{"upstreams a {\n dynamic nothing\n}", "unknown source of upstreams 'nothing': one of a, multi, srv, at Caddyfile:4"},
		{"session_from header X", "session_from wants user_suffix and a separator, at Caddyfile:3"},
		{"route", "the route has no target: direct, deny or the name of a group, at Caddyfile:3"},
		{"route @nobody direct", "route: unrecognized matcher name: @nobody, at Caddyfile:3"},
		{"route a b", "a route is <target> [fallback <target>], not 'a b', at Caddyfile:3"},
		{"route a {\n to b\n}", "the target of the route stands twice, at Caddyfile:4"},
		{"route {\n to\n}", "to wants a target: direct, deny or the name of a group, at Caddyfile:4"},
		{"route {\n match {\n  nothing x\n }\n}", "unknown matcher 'nothing': one of client_ip, expression, file, header, header_regexp, host, method, not, path, path_regexp, protocol, query, remote_ip, tls, url_pattern, vars, vars_regexp, at Caddyfile:5"},
		{"route direct {\n header_up Host x\n}", "header_up: the field Host cannot be changed, at Caddyfile:4"},
		{"route direct {\n header_up\n}", "header_up wants a field, and a value or a regular expression with its replacement; got 0 arguments, at Caddyfile:4"},
	} {
		t.Run(tc.block, func(t *testing.T) { expectRefused(t, ":8080 {\negress {\n"+tc.block+"\n}\n}\n", tc.want) })
	}
}

// What lists of proxies look like.
func TestParseUpstreamLine(t *testing.T) {
	for line, want := range map[string]string{
		"192.0.2.1:8080":                   "http://192.0.2.1:8080",
		"Proxy.Example.COM:8080:bob:a:b%c": "http://proxy.example.com:8080 bob a:b%c",
		"[2001:db8::1]:3128:u:p":           "http://[2001:db8::1]:3128 u p",
		"socks5://u:p%40@192.0.2.1":        "socks5://192.0.2.1:1080 u p@",
		"https://192.0.2.1":                "https://192.0.2.1:443",
		"socks5+unix:///run/a.sock":        "socks5+unix:///run/a.sock",
		"http+unix://u:p@/run/a.sock":      "http+unix:///run/a.sock u p",
	} {
		a, err := upstream.ParseLine(line, "")
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		got := a.String()
		if a.User != nil {
			password, _ := a.User.Password()
			got += " " + a.User.Username() + " " + password
		}
		if got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
	for _, line := range []string{
		"192.0.2.1", "proxy.example.com", "host:port", "host:80:user", "2001:db8::1:80", ":80", "ftp://x:1", "http://x:1/y", "x:70000", "a b:80",
		"[2001:db8::1]", "[2001:db8::1:80", "http://[::1%25eth0]:80",
	} {
		if a, err := upstream.ParseLine(line, ""); err == nil {
			t.Errorf("%q is accepted as %s", line, a)
		}
	}
}
