package egress

import (
	"fmt"
	"testing"
)

// around are blocks of egress with room for words in them.
var around = map[string]string{
	"egress":         "%s",
	"route":          "route {\n%s\nto direct\n}",
	"upstreams":      "route a\nupstreams a {\nupstream http://192.0.2.1\n%s\n}",
	"bare":           "route a\nupstreams a {\n%s\n}",
	"http":           "route a\nupstreams a {\nupstream http://192.0.2.1\nhealth_check http http://a.example\n%s\n}",
	"upstream":       "upstream https://192.0.2.1 {\n%s\n}",
	"upstream http":  "upstream http://192.0.2.1 {\n%s\n}",
	"upstream unix":  "upstream http+unix:///x {\n%s\n}",
	"upstream socks": "upstream socks5://192.0.2.1 {\n%s\n}",
	"transport":      "transport {\n%s\n}",
	"resolvers":      "transport {\nresolvers tls://192.0.2.1 {\n%s\n}\n}",
}

// Every bad value is refused where it is read, by its word and line, but for what stands in
// files and in modules of others.
func TestCaddyfile_BadValues(t *testing.T) {
	for block, bad := range map[string][]struct{ words, want string }{
		"bare": {
			{"dynamic a x", "upstreams a: dynamic: a source tells host and port only; scheme must say what its members speak, at Caddyfile:4"},
			{"dynamic srv", "upstreams a: dynamic: a source tells host and port only; scheme must say what its members speak, at Caddyfile:4"},
			{"dynamic a", "upstreams a: dynamic: a source tells host and port only; scheme must say what its members speak, at Caddyfile:4"},
			{"scheme http", "upstreams a: has no upstreams, at Caddyfile:4"},
			{"lb_retries 2", "upstreams a: has no upstreams, at Caddyfile:4"},
		},
		"transport": {
			{"tls_curves x", "bad tls_curves 'x': one of [secp256r1 secp384r1 secp521r1 x25519 x25519mlkem768], at Caddyfile:4"},
			{"tls_curves x25519 p256 nope", "bad tls_curves 'p256': one of [secp256r1 secp384r1 secp521r1 x25519 x25519mlkem768], at Caddyfile:4"},
			{"resolvers 192.0.2.1 {\ntls_insecure_skip_verify\n}", "resolvers: no server is asked over TLS, at Caddyfile:4"},
			{"hosts_override a..b 127.0.0.1", "hosts_override: 'a..b': the host has an empty label, at Caddyfile:4"},
			{"hosts_override 127.0.0.1 127.0.0.1", "hosts_override: '127.0.0.1' is an address; write a name, at Caddyfile:4"},
			{"hosts_override a 127.0.0.1\nhosts_override A 127.0.0.1", "hosts_override names 'A' twice, at Caddyfile:5"},
			{"hosts_override \"\" 127.0.0.1", "hosts_override: '': the host is empty, at Caddyfile:4"},
			{"local_address 0.0.0.0", "local_address: '0.0.0.0' is no address of a machine, at Caddyfile:4"},
			{"local_address 127.0.0.1 127.0.0.1", "local_address: '127.0.0.1' stands there twice, at Caddyfile:4"},
			{"local_address 224.0.0.1", "local_address: '224.0.0.1' is no address of a machine, at Caddyfile:4"},
			{"interface a/b", "bad interface 'a/b': no name of a network interface, at Caddyfile:4"},
			{"prefer_ip 4_only\nlocal_address ::1", "local_address: none is IPv4, and prefer_ip uses no others, at Caddyfile:5"},
		},
		"egress": {
			{"server_name \"a b\"", "bad server_name 'a b': not a token that begins with a letter, at Caddyfile:3"},
			{"server_name 1a", "bad server_name '1a': not a token that begins with a letter, at Caddyfile:3"},
			{"server_name a,b", "bad server_name 'a,b': not a token that begins with a letter, at Caddyfile:3"},
			{"hosts \"a b\"", "bad hosts 'a b': it has a space, at Caddyfile:3"},
			{"hosts ok.example a..b", "bad hosts 'a..b': the host has an empty label, at Caddyfile:3"},
			{"hosts http://x", "bad hosts 'http://x': it has a path, query or fragment ('/'), at Caddyfile:3"},
			{"hosts *.x", "bad hosts '*.x': the host has the character '*', at Caddyfile:3"},
			{"hosts x:80", "bad hosts 'x:80': it has a colon but is not an IPv6 address (a port has no place here), at Caddyfile:3"},
			{"basic_auth bob p\xfc", "a word is not UTF-8: write its bytes as %xx in a URL, or take it from {env.…} or a file, at Caddyfile:3"},
			{"metrics_users", "metrics_users wants the names of users, at Caddyfile:3"},
			{"metrics_users a b a", "metrics_users: 'a' stands twice, at Caddyfile:3"},
			{"metrics_users a \"\"", "metrics_users: the name of a user is empty, at Caddyfile:3"},
			{"metrics_users _other", "metrics_users: '_other' stands for all other users, at Caddyfile:3"},
			{"realm \"a\tb\"", "bad realm 'a\\tb': contains control characters, at Caddyfile:3"},
			{"realm \"a\x7fb\"", "bad realm 'a\\x7fb': contains control characters, at Caddyfile:3"},
			{"realm \"a\u0085b\"", "bad realm 'a\\u0085b': contains control characters, at Caddyfile:3"},
			{"session_from user_suffix :", "session_from: the separator ':' is empty or has a colon or control character, at Caddyfile:3"},
			{"session_from user_suffix \"\t\"", "session_from: the separator '\\t' is empty or has a colon or control character, at Caddyfile:3"},
			{"session_from user_suffix a:b", "session_from: the separator 'a:b' is empty or has a colon or control character, at Caddyfile:3"},
			{"basic_auth a:b c", "basic_auth user 'a:b': a user name cannot contain ':', at Caddyfile:3"},
			{"basic_auth \"\" c", "basic_auth user '': the user name is empty, at Caddyfile:3"},
			{"basic_auth a \"\"", "basic_auth user 'a': the password is empty, at Caddyfile:3"},
			{"basic_auth a $2y$10$x", "basic_auth user 'a': malformed bcrypt hash, at Caddyfile:3"},
			{"basic_auth a $apr1$x", "basic_auth user 'a': unsupported password hash; bcrypt ($2a$, $2b$, $2y$) and argon2id ($argon2id$) are supported, at Caddyfile:3"},
			{"basic_auth a $argon2id$x", "basic_auth user 'a': malformed argon2id hash, at Caddyfile:3"},
			{"basic_auth \"a\tb\" c", "basic_auth user 'a\\tb': a user name cannot contain control characters, at Caddyfile:3"},
			{"basic_auth a b\nbasic_auth a c", "basic_auth user 'a': it is defined twice, at Caddyfile:4"},
			{"route direct fallback deny", "route: fallback: 'direct' never fails over; only groups do, at Caddyfile:3"},
			{"route direct fallback direct", "route: fallback: 'direct' never fails over; only groups do, at Caddyfile:3"},
			{"realm a", "realm and session_from are for users who log in, and there are none; write basic_auth, at Caddyfile:2"},
			{"route a fallback a\nupstreams a {\nupstream http://192.0.2.1\n}", "route: fallback: 'a' is where the route leads already, at Caddyfile:3"},
			{"route {\nto direct\nmatch {\nnot host a..b\n}\n}", "match: host: 'a..b' is no host: the host has an empty label, at Caddyfile:7"},
			{"route deny fallback direct", "route: fallback: 'deny' never fails over; only groups do, at Caddyfile:3"},
			{"route direct\nupstreams a {\nupstream http://192.0.2.1\n}", "upstreams a: no route leads to it, at Caddyfile:4"},
			{"upstream http://192.0.2.1\nroute direct", "upstreams default: no route leads to it, at Caddyfile:3"},
			{"upstreams a", "upstreams a: has no upstreams, at Caddyfile:3"},
			{"upstream http://a:b@x {\ncredentials c d\n}", "upstream: credentials: they stand in the URL as well, at Caddyfile:3"},
			{"upstream http://u%00:p@192.0.2.1", "upstream: user name or password contain control characters, at Caddyfile:3"},
			{"route {\nto direct\nmatch {\nhost a..b\n}\n}", "match: host: 'a..b' is no host: the host has an empty label, at Caddyfile:7"},
		},
		"upstream socks": {
			{"header X c", "upstream: header: SOCKS has no header fields, at Caddyfile:3"},
		},
		"http": {
			{"health_body (", "bad health_body '(': error parsing regexp: missing closing ): `(`, at Caddyfile:7"},
			{"health_headers {\n\"a b\" c\n}", "health_headers: 'a b' cannot be set, at Caddyfile:8"},
			{"health_headers {\nHost c\n}", "health_headers: 'Host' cannot be set, at Caddyfile:8"},
			{"health_headers {\nX \"a\x01b\"\n}", "health_headers: not a value for the field X, at Caddyfile:8"},
		},
		"upstreams": {
			{"health_check connect", "health_check: targets: connect needs one, at Caddyfile:6"},
			{"health_check http", "health_check: targets: http needs one, at Caddyfile:6"},
			{"health_check tcp a.example:80", "health_check: targets: tcp has none: it asks the upstream itself, at Caddyfile:6"},
			{"health_status 3xx", "health_status: there is no health_check, at Caddyfile:6"},
			{"health_body x", "health_body: there is no health_check, at Caddyfile:6"},
			{"health_headers {\nX y\n}", "health_headers: there is no health_check, at Caddyfile:6"},
			{"health_interval 2s", "health_interval: there is no health_check, at Caddyfile:6"},
			{"health_timeout 2s", "health_timeout: there is no health_check, at Caddyfile:6"},
			{"health_passes 2", "health_passes: there is no health_check, at Caddyfile:6"},
			{"health_fails 2", "health_fails: there is no health_check, at Caddyfile:6"},
			{"credentials a:b c", "credentials of 'a:b': a user name cannot contain ':', at Caddyfile:6"},
			{"tls_curves x", "bad tls_curves 'x': one of [secp256r1 secp384r1 secp521r1 x25519 x25519mlkem768], at Caddyfile:6"},
			{"dynamic a x", "upstreams a: dynamic: a source tells host and port only; scheme must say what its members speak, at Caddyfile:4"},
		},
		"resolvers": {
			{"tls_curves x", "bad tls_curves 'x': one of [secp256r1 secp384r1 secp521r1 x25519 x25519mlkem768], at Caddyfile:5"},
		},
		"route": {
			{"local_address 0.0.0.0", "local_address: '0.0.0.0' is no address of a machine, at Caddyfile:4"},
			{"local_address 127.0.0.1 127.0.0.1", "local_address: '127.0.0.1' stands there twice, at Caddyfile:4"},
			{"local_address 224.0.0.1", "local_address: '224.0.0.1' is no address of a machine, at Caddyfile:4"},
			{"interface a/b", "bad interface 'a/b': no name of a network interface, at Caddyfile:4"},
			{"interface aaaaaaaaaaaaaaaaaaaaaaaaaa", "bad interface 'aaaaaaaaaaaaaaaaaaaaaaaaaa': no name of a network interface, at Caddyfile:4"},
			{"interface \"a b\"", "bad interface 'a b': no name of a network interface, at Caddyfile:4"},
			{"prefer_ip 4_only\nlocal_address ::1", "local_address: none is IPv4, and prefer_ip uses no others, at Caddyfile:5"},
			{"header_up X ( b", "header_up: '(': error parsing regexp: missing closing ): `(`, at Caddyfile:4"},
		},
		"upstream": {
			{"tls_curves x", "bad tls_curves 'x': one of [secp256r1 secp384r1 secp521r1 x25519 x25519mlkem768], at Caddyfile:4"},
			{"tls_client_auth \"\"", "tls_client_auth: the name of the managed certificate is empty, at Caddyfile:4"},
			{"tls_client_auth \"\" \"\"", "tls_client_auth: the certificate or the key file has no name, at Caddyfile:4"},
			{"local_address 0.0.0.0", "local_address: '0.0.0.0' is no address of a machine, at Caddyfile:4"},
			{"local_address 127.0.0.1 127.0.0.1", "local_address: '127.0.0.1' stands there twice, at Caddyfile:4"},
			{"local_address 224.0.0.1", "local_address: '224.0.0.1' is no address of a machine, at Caddyfile:4"},
			{"interface a/b", "bad interface 'a/b': no name of a network interface, at Caddyfile:4"},
			{"interface \"a b\"", "bad interface 'a b': no name of a network interface, at Caddyfile:4"},
			{"prefer_ip 4_only\nlocal_address ::1", "local_address: none is IPv4, and prefer_ip uses no others, at Caddyfile:5"},
			{"local_address ::1\nprefer_ip 4_only", "prefer_ip: none is IPv4, and prefer_ip uses no others, at Caddyfile:5"},
			{"credentials a:b c", "credentials of 'a:b': a user name cannot contain ':', at Caddyfile:4"},
			{"credentials u \xe4", "a word is not UTF-8: write its bytes as %xx in a URL, or take it from {env.…} or a file, at Caddyfile:4"},
			{"credentials \"\" c", "credentials of '': the user name is empty, at Caddyfile:4"},
			{"credentials \"a\tb\" c", "credentials of 'a\\tb': user name or password contain control characters, at Caddyfile:4"},
			{"credentials a \"b\tc\"", "credentials of 'a': user name or password contain control characters, at Caddyfile:4"},
			{"header \"a b\" c", "header: 'a b' cannot be set, at Caddyfile:4"},
			{"header Host c", "header: 'Host' cannot be set, at Caddyfile:4"},
			{"header X \"a\x01b\"", "header: not a value for the field X, at Caddyfile:4"},
			{"header Connection x", "header: 'Connection' cannot be set, at Caddyfile:4"},
			{"proxy_protocol v1\nstandby 2", "upstream: standby: a connection that is dialed ahead cannot carry the address of its client (proxy_protocol), at Caddyfile:3"},
			{"proxy_protocol v1\nmax_tunnels_per_conn 2", "upstream: max_tunnels_per_conn: with proxy_protocol a connection belongs to one client, at Caddyfile:3"},
			{"header \"\" c", "header: '' cannot be set, at Caddyfile:4"},
		},
		"upstream unix": {
			{"local_address 127.0.0.1", "upstream: local_address: a unix socket has none, at Caddyfile:3"},
			{"interface eth0", "upstream: interface: a unix socket has none, at Caddyfile:3"},
			{"prefer_ip 4", "upstream: prefer_ip: a unix socket has no IP address, at Caddyfile:3"},
		},
		"upstream http": {
			{"tls_curves x25519", "upstream: tls_…: the scheme is not https, at Caddyfile:3"},
			{"tls_insecure_skip_verify", "upstream: tls_…: the scheme is not https, at Caddyfile:3"},
		},
	} {
		for _, tc := range bad {
			expectRefused(t, "http://:1 {\negress {\n"+fmt.Sprintf(around[block], tc.words)+"\n}\n}\n", tc.want)
		}
	}
}

// A value with a placeholder is known only when the module is provisioned.
func TestCaddyfile_PlaceholdersAreReadLater(t *testing.T) {
	for block, lines := range map[string]string{
		"egress": "server_name {env.A}\nhosts {env.A}\nrealm {env.A}\nbasic_auth {env.A} {env.B}\nbasic_auth {env.B} $2{env.B}\n" +
			"upstream http://{env.A} {\nproxy_protocol v1\nstandby 2\ntls_curves x25519\n}",
		"route":     "local_address {env.A} 0.0.0.0\nprefer_ip 4_only\ninterface {env.A}/\nmatch {\nhost {env.A}..b\n}\nheader_up X ({env.A} b",
		"upstreams": "credentials {env.A} :\nhealth_check http http://a.example\nhealth_headers {\n{env.A} b\n}",
		"upstream":  "credentials a:{env.A} b\nheader {env.A} b\ninterface {env.A}/",
		"transport": "hosts_override {env.A} 127.0.0.1\nhosts_override {env.B} 127.0.0.1\ntls_curves {env.A}\nresolvers {env.A} {\ntls_insecure_skip_verify\n}",
	} {
		if _, err := adapt(t, "http://:1 {\negress {\n"+fmt.Sprintf(around[block], lines)+"\n}\n}\n"); err != nil {
			t.Errorf("%s: %v", block, err)
		}
	}
}
