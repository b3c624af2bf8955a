package egress

import (
	"regexp"
	"strings"
	"testing"

	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"
	_ "github.com/caddyserver/caddy/v2/modules/caddypki"
	_ "github.com/caddyserver/caddy/v2/modules/caddytls"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"

	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// Other directives of the site act only on what is not ours: header, encode,
// redir, handle and file_server come after egress, wherever they are written.
func TestDirectiveOrder(t *testing.T) {
	for _, other := range []string{
		`header X-Site yes`, `encode gzip`, `redir /old /new`, "handle {\n respond x\n}", `file_server`, `respond hello`, `reverse_proxy 127.0.0.1:9`,
		`rewrite * /x`, "basic_auth {\n alice " + fixture.Bcrypt4 + "\n}", `request_header X-From site`, `try_files {path} /index.html`,
	} {
		word, _, _ := strings.Cut(other, " ")
		t.Run(word, func(t *testing.T) {
			for _, site := range []string{"egress\n" + other, other + "\negress"} {
				if order := handlerOrder(mustAdapt(t, ":8080 {\n"+site+"\n}\n")); len(order) < 2 || order[0] != "egress" {
					t.Errorf("%q adapts to %v", site, order)
				}
			}
		})
	}
}

var handlerName = regexp.MustCompile(`"handler":"([a-z_]+)"`)

// handlerOrder are the handlers of a configuration in the order in which their
// names stand in it, without the subroutes that hold others.
func handlerOrder(config []byte) []string {
	var names []string
	for _, m := range handlerName.FindAllSubmatch(config, -1) {
		if name := string(m[1]); name != "subroute" {
			names = append(names, name)
		}
	}
	return names
}

// The error of each mistake, with its line. The egress block begins in line 2;
// what is in it stands from line 3 on.
func TestCaddyfileErrors(t *testing.T) {
	for _, tc := range []struct{ block, want string }{
		// Words that there are not.
		{"nonsense", "unrecognized subdirective 'nonsense' of egress, at Caddyfile:3"},
		{"\nnonsense", "unrecognized subdirective 'nonsense' of egress, at Caddyfile:4"},
		{"hide_iq", "unrecognized subdirective 'hide_iq' of egress (did you mean 'hide_ip'?), at Caddyfile:3"},
		{"basicauth a b", "unrecognized subdirective 'basicauth' of egress (write basic_auth), at Caddyfile:3"},
		{"port 80", "unrecognized subdirective 'port' of egress (did you mean 'ports'?), at Caddyfile:3"},
		{"allow all", "unrecognized subdirective 'allow' of egress (write acl { allow … }), at Caddyfile:3"},
		{"deny all", "unrecognized subdirective 'deny' of egress (write acl { deny … }), at Caddyfile:3"},
		{"dial_timeout 1s", "unrecognized subdirective 'dial_timeout' of egress (write transport { dial_timeout … }), at Caddyfile:3"},
		{"max_idle_conns 1", "unrecognized subdirective 'max_idle_conns' of egress (write transport { keepalive_idle_conns … }), at Caddyfile:3"},
		{"fail_duration 1s", "unrecognized subdirective 'fail_duration' of egress (write circuit { window … } or destination_circuit { window … }), at Caddyfile:3"},
		{"max_fails 3", "unrecognized subdirective 'max_fails' of egress (write circuit { consecutive_failures … } or destination_circuit { failures … }), at Caddyfile:3"},
		{"unhealthy_status 5xx", "unrecognized subdirective 'unhealthy_status' of egress (write nothing: the answer of an origin is no sign of its health, nor of that of an upstream), at Caddyfile:3"},
		{"transport {\n dial_timeot 1s\n}", "unrecognized subdirective 'dial_timeot' of transport (did you mean 'dial_timeout'?), at Caddyfile:4"},
		{"transport {\n tls\n}", "unrecognized subdirective 'tls' of transport, at Caddyfile:4"},
		{"tunnel {\n idle 1s\n}", "unrecognized subdirective 'idle' of tunnel, at Caddyfile:4"},
		{"acl {\n allows all\n}", "unrecognized subdirective 'allows' of acl (did you mean 'allow'?), at Caddyfile:4"},
		{"destination_circuit {\n failure 3\n}", "unrecognized subdirective 'failure' of destination_circuit (did you mean 'failures'?), at Caddyfile:4"},
		{"transport {\n resolvers 192.0.2.1 {\n  dial_timeot 1s\n }\n}", "unrecognized subdirective 'dial_timeot' of resolvers, at Caddyfile:5"},

		// Words of another block.
		{"idle_timeout 3s", "unrecognized subdirective 'idle_timeout' of egress (write tunnel { idle_timeout … }), at Caddyfile:3"},
		{"open_for 3s", "unrecognized subdirective 'open_for' of egress (write destination_circuit { open_for … } or circuit { open_for … }), at Caddyfile:3"},
		{"max_per_client 3", "unrecognized subdirective 'max_per_client' of egress (write transport { max_per_client … } or tunnel { max_per_client … }), at Caddyfile:3"},
		{"lb_policy first", "unrecognized subdirective 'lb_policy' of egress (write upstreams <group> { lb_policy … }), at Caddyfile:3"},
		{"health_check tcp", "unrecognized subdirective 'health_check' of egress (write upstreams <group> { health_check … }), at Caddyfile:3"},
		{"max_conns_per_host 3", "unrecognized subdirective 'max_conns_per_host' of egress (write transport { max_conns_per_host … }), at Caddyfile:3"},
		{"pick user_hash", "unrecognized subdirective 'pick' of egress (write local_address <ip...> { pick … }), at Caddyfile:3"},
		{"transport {\n ports 80\n}", "unrecognized subdirective 'ports' of transport (write egress { ports … }), at Caddyfile:4"},
		{"upstreams a {\n consecutive_failures 3\n}", "unrecognized subdirective 'consecutive_failures' of upstreams (write circuit { consecutive_failures … }), at Caddyfile:4"},
		{"upstreams a {\n weight 3\n}", "unrecognized subdirective 'weight' of upstreams (write upstream <url> { weight … }), at Caddyfile:4"},
		{"upstreams a {\n standby 3\n}", "unrecognized subdirective 'standby' of upstreams (write upstream <url> { standby … }), at Caddyfile:4"},
		{"upstreams a {\n circuit {\n  failures 3\n }\n}", "unrecognized subdirective 'failures' of circuit (write destination_circuit { failures … }), at Caddyfile:5"},

		// Words that stand twice.
		{"server_name a\nserver_name b", "'server_name' stands twice in egress, at Caddyfile:4"},
		{"realm a\nrealm b", "'realm' stands twice in egress, at Caddyfile:4"},
		{"allow_unauthenticated\nallow_unauthenticated", "'allow_unauthenticated' stands twice in egress, at Caddyfile:4"},
		{"destination_circuit off\ndestination_circuit off", "'destination_circuit' stands twice in egress, at Caddyfile:4"},
		{"transport {\n}\ntransport {\n}", "'transport' stands twice in egress, at Caddyfile:5"},
		{"tunnel {\n}\ntunnel {\n}", "'tunnel' stands twice in egress, at Caddyfile:5"},
		{"forwarded off\nforwarded off", "'forwarded' stands twice in egress, at Caddyfile:4"},
		{"hide_ip\nhide_ip", "'hide_ip' stands twice in egress, at Caddyfile:4"},
		{"hide_via\nhide_via", "'hide_via' stands twice in egress, at Caddyfile:4"},
		{"tunnel {\n timeout 1s\n timeout 1s\n}", "'timeout' stands twice in tunnel, at Caddyfile:5"},
		{"destination_circuit {\n window 1s\n window 1s\n}", "'window' stands twice in destination_circuit, at Caddyfile:5"},
		{"transport {\n max_conns 1\n max_conns 1\n}", "'max_conns' stands twice in transport, at Caddyfile:5"},
		{"transport {\n tls_curves x25519\n tls_curves x25519\n}", "'tls_curves' stands twice in transport, at Caddyfile:5"},

		// Arguments that are missing.
		{"server_name", "server_name wants one argument, got 0, at Caddyfile:3"},
		{`server_name ""`, "server_name is empty, at Caddyfile:3"},
		{"hosts", "hosts wants at least one argument, at Caddyfile:3"},
		{"basic_auth", "basic_auth wants a user and a password or hash, got 0 arguments, at Caddyfile:3"},
		{"basic_auth {\n alice x\n}", "basic_auth takes no block: write basic_auth <user> <password|hash>, one user a line, at Caddyfile:3"},
		{"basic_auth bcrypt {\n alice x\n}", "basic_auth takes no block: write basic_auth <user> <password|hash>, one user a line, at Caddyfile:3"},
		{"basic_auth alice", "basic_auth wants a user and a password or hash, got 1 arguments, at Caddyfile:3"},
		{"realm", "realm wants one argument, got 0, at Caddyfile:3"},
		{"ports", "ports wants at least one argument, at Caddyfile:3"},
		{"acl {\n allow\n}", "allow wants at least one argument, at Caddyfile:4"},
		{"acl {\n deny\n}", "deny wants at least one argument, at Caddyfile:4"},
		{"acl {\n deny_file\n}", "deny_file wants one argument, got 0, at Caddyfile:4"},
		{"acl {\n allow_file one two\n}", "allow_file wants one argument, got 2, at Caddyfile:4"},
		{"acl {\n deny_file \"\"\n}", "deny_file wants a path, at Caddyfile:4"},
		{"acl {\n allow_files one\n}", "unrecognized subdirective 'allow_files' of acl (did you mean 'allow_file'?), at Caddyfile:4"},
		{"acl {\n deny_file one {\n x\n }\n}", "unexpected block: deny_file takes none, at Caddyfile:4"},
		{"admin_address", "admin_address wants at least one argument, at Caddyfile:3"},
		{"forwarded", "forwarded wants one argument, got 0, at Caddyfile:3"},
		{"transport {\n dial_timeout\n}", "dial_timeout wants one argument, got 0, at Caddyfile:4"},
		{"transport {\n max_conns\n}", "max_conns wants one argument, got 0, at Caddyfile:4"},
		{"transport {\n max_response_header\n}", "max_response_header wants one argument, got 0, at Caddyfile:4"},
		{"transport {\n keepalive\n}", "keepalive wants one argument, got 0, at Caddyfile:4"},
		{"transport {\n tls_curves\n}", "tls_curves wants at least one argument, at Caddyfile:4"},
		{"transport {\n tls_trust_pool\n}", "wrong argument count or unexpected line ending after 'tls_trust_pool', at Caddyfile:4"},
		{"transport {\n tls_client_auth\n}", "tls_client_auth wants a certificate and a key file, or the name of a managed certificate, at Caddyfile:4"},

		// Arguments that are too many.
		{"server_name a b", "server_name wants one argument, got 2, at Caddyfile:3"},
		{"basic_auth a b c", "basic_auth wants a user and a password or hash, got 3 arguments, at Caddyfile:3"},
		{"realm Our proxy", "realm wants one argument, got 2, at Caddyfile:3"},
		{"allow_unauthenticated yes", "unexpected argument 'yes': allow_unauthenticated takes none, at Caddyfile:3"},
		{"hide_ip on", "unexpected argument 'on': hide_ip takes none, at Caddyfile:3"},
		{"hide_via on", "unexpected argument 'on': hide_via takes none, at Caddyfile:3"},
		{"acl all {\n}", "unexpected argument 'all': acl takes a block, at Caddyfile:3"},
		{"transport http {\n}", "unexpected argument 'http': transport takes a block, at Caddyfile:3"},
		{"tunnel 1s", "unexpected argument '1s': tunnel takes a block, at Caddyfile:3"},
		{"destination_circuit on", "unexpected argument 'on': destination_circuit takes a block, or off, at Caddyfile:3"},
		{"destination_circuit off now", "wrong argument count or unexpected line ending after 'now', at Caddyfile:3"},
		{"forwarded for full", "forwarded wants one argument, got 2, at Caddyfile:3"},
		{"transport {\n pending_timeout 1s 2s\n}", "pending_timeout wants one argument, got 2, at Caddyfile:4"},
		{"transport {\n tls_insecure_skip_verify on\n}", "unexpected argument 'on': tls_insecure_skip_verify takes none, at Caddyfile:4"},
		{"transport {\n tls_client_auth a b c\n}", "tls_client_auth wants a certificate and a key file, or the name of a managed certificate, at Caddyfile:4"},

		// Values that are not what they should be.
		{"forwarded on", "bad forwarded 'on': one of [off for full], at Caddyfile:3"},
		{"name a#1", "bad name 'a#1': 1 to 64 letters, digits, '-', '_' and '.', at Caddyfile:3"},
		{"name", "name wants one argument, got 0, at Caddyfile:3"},
		{"tunnel {\n close_delay -1s\n}", "bad close_delay '-1s': must not be negative, at Caddyfile:4"},
		{"tunnel {\n close_delay soon\n}", "bad close_delay 'soon': not a duration; write 10s, at Caddyfile:4"},
		{"ports 0", "ports: bad port range '0': ports are between 1 and 65535, at Caddyfile:3"},
		{"ports 80 http", "ports: bad port range 'http': write a port (443) or a range (1024-65535), at Caddyfile:3"},
		{"ports 9-8", "ports: bad port range '9-8': write the lower port first (8-9), at Caddyfile:3"},
		{"ports 65536", "ports: bad port range '65536': write a port (443) or a range (1024-65535), at Caddyfile:3"},
		{"admin_address admin", "bad admin_address 'admin': not of the form host:port: address admin: missing port in address, at Caddyfile:3"},
		{"admin_address a:1 b:0", `bad admin_address 'b:0': port "0" is not a number from 1 to 65535, at Caddyfile:3`},
		{"acl {\n deny ::1:443\n}", "acl: subject '::1:443': ambiguous; write '[::1]:443' for one port, '::1' for all ports, or '[::1:443]' if all of it is the address, at Caddyfile:4"},
		{"acl {\n deny .ads.example\n}", "acl: subject '.ads.example': begins with a dot; write '*.ads.example', at Caddyfile:4"},
		{"acl {\n deny 10.0.0.0/33\n}", "acl: subject '10.0.0.0/33': the length behind the slash is a number from 0 to 32, at Caddyfile:4"},
		{"acl {\n deny 10.1\n}", "acl: subject '10.1': would be the address 10.0.0.1; write '10.0.0.1' if that is meant, and a CIDR such as '10.0.0.0/8' for a range, at Caddyfile:4"},
		{"destination_circuit {\n failures 0\n}", "bad failures '0': must be at least 2, at Caddyfile:4"},
		{"destination_circuit {\n failures 1\n}", "bad failures '1': must be at least 2, at Caddyfile:4"},
		{"destination_circuit {\n failures many\n}", "bad failures 'many': not a number, at Caddyfile:4"},
		{"destination_circuit {\n window -1s\n}", "bad window '-1s': must be positive, at Caddyfile:4"},
		{"destination_circuit {\n open_for 0\n}", "bad open_for '0': must be positive, at Caddyfile:4"},
		{"destination_circuit {\n max_open_for off\n}", "max_open_for cannot be off: write destination_circuit off for no circuits, at Caddyfile:4"},
		{"transport {\n dial_timeout off\n}", "dial_timeout cannot be off: a peer that is silent would be waited for without an end, at Caddyfile:4"},
		{"transport {\n resolvers\n}", "resolvers wants at least one argument, at Caddyfile:4"},
		{"transport {\n resolvers 192.0.2.1 dns.example\n}", "bad resolvers 'dns.example': not an IP address; a name is possible with tls:// and https:// only, at Caddyfile:4"},
		{"transport {\n resolvers quic://192.0.2.1\n}", "bad resolvers 'quic://192.0.2.1': unknown scheme 'quic': one of udp, tcp, tls, https, at Caddyfile:4"},
		{"transport {\n resolvers tls://192.0.2.1 {\n tls_timeout 1s\n }\n}", "unrecognized subdirective 'tls_timeout' of resolvers, at Caddyfile:5"},
		{"transport {\n resolvers tls://192.0.2.1 {\n tls_client_auth a b c\n }\n}", "tls_client_auth wants a certificate and a key file, or the name of a managed certificate, at Caddyfile:5"},
		{"transport {\n hosts_override a.example\n}", "hosts_override wants a name and at least one IP address, got 1 arguments, at Caddyfile:4"},
		{"transport {\n hosts_override a.example 192.0.2.1\n hosts_override a.example 192.0.2.2\n}", "hosts_override names 'a.example' twice, at Caddyfile:5"},
		{"transport {\n hosts_override a.example 192.0.2\n}", "bad hosts_override '192.0.2': not an IP address, at Caddyfile:4"},
		{"transport {\n prefer_ip 5\n}", "bad prefer_ip '5': one of [4 6 4_only 6_only], at Caddyfile:4"},
		{"transport {\n local_address\n}", "local_address wants at least one argument, at Caddyfile:4"},
		{"transport {\n local_address eth0\n}", "bad local_address 'eth0': not an IP address, at Caddyfile:4"},
		{"transport {\n local_address fe80::1%eth0\n}", "bad local_address 'fe80::1%eth0': zones are not supported, at Caddyfile:4"},
		{"transport {\n local_address 192.0.2.1 {\n pick first\n }\n}", "bad pick 'first': one of [round_robin user_hash], at Caddyfile:5"},
		{"transport {\n local_address 192.0.2.1 {\n pck first\n }\n}", "unrecognized subdirective 'pck' of local_address (did you mean 'pick'?), at Caddyfile:5"},
		{"route direct {\n local_address eth0\n}", "bad local_address 'eth0': not an IP address, at Caddyfile:4"},
		{"route direct {\n local_address 192.0.2.1\n local_address 192.0.2.2\n}", "'local_address' stands twice in route, at Caddyfile:5"},
		{"route direct {\n local_address 192.0.2.1 {\n  pick user\n }\n}", "bad pick 'user': one of [round_robin user_hash], at Caddyfile:5"},
		{"route direct {\n prefer_ip 5\n}", "bad prefer_ip '5': one of [4 6 4_only 6_only], at Caddyfile:4"},
		{"route deny {\n prefer_ip 4\n}", "prefer_ip: neither the target nor the fallback is direct; upstreams have a local_address, an interface and a prefer_ip of their own, at Caddyfile:4"},
		{"upstream http://a {\n local_address eth0\n}", "bad local_address 'eth0': not an IP address, at Caddyfile:4"},
		{"upstream http://a {\n local_address 192.0.2.1 {\n  pick first\n }\n}", "bad pick 'first': one of [round_robin user_hash], at Caddyfile:5"},
		{"upstream http://a {\n prefer_ip 5\n}", "bad prefer_ip '5': one of [4 6 4_only 6_only], at Caddyfile:4"},
		{"route deny {\n local_address 192.0.2.1\n}", "local_address: neither the target nor the fallback is direct; upstreams have a local_address, an interface and a prefer_ip of their own, at Caddyfile:4"},
		{"route {\n interface eth0\n local_address 192.0.2.1\n to one fallback two\n}", "interface: neither the target nor the fallback is direct; upstreams have a local_address, an interface and a prefer_ip of their own, at Caddyfile:4"},
		{"upstream http://a {\n interface\n}", "interface wants one argument, got 0, at Caddyfile:4"},
		{"transport {\n interface\n}", "interface wants one argument, got 0, at Caddyfile:4"},
		{"transport {\n dial_timeout 5\n}", "bad dial_timeout '5': not a duration; write 5s, at Caddyfile:4"},
		{"transport {\n dial_timeout 10seconds\n}", "bad dial_timeout '10seconds': not a duration; write 10s, at Caddyfile:4"},
		{"tunnel {\n idle_timeout 15min\n}", "bad idle_timeout '15min': not a duration; write 15m, or off, at Caddyfile:4"},
		{"tunnel {\n idle_timeout 2days\n}", "bad idle_timeout '2days': not a duration; write 2d, or off, at Caddyfile:4"},
		{"transport {\n dial_timeout 10ns\n}", "bad dial_timeout '10ns': must be at least 1ms, at Caddyfile:4"},
		{"transport {\n tls_timeout 0s\n}", "bad tls_timeout '0s': must be positive, at Caddyfile:4"},
		{"transport {\n keepalive 0\n}", "bad keepalive '0': must be positive, or off, at Caddyfile:4"},
		{"transport {\n keepalive_idle_conns 0\n}", "bad keepalive_idle_conns '0': must be at least 1, at Caddyfile:4"},
		{"transport {\n keepalive_idle_conns off\n}", "keepalive_idle_conns cannot be off: write keepalive off to keep no connection, at Caddyfile:4"},
		{"transport {\n max_conns 0\n}", "bad max_conns '0': must be at least 1, or off, at Caddyfile:4"},
		{"transport {\n max_conns -1\n}", "bad max_conns '-1': must be at least 1, or off, at Caddyfile:4"},
		{"transport {\n max_per_client 0\n}", "bad max_per_client '0': must be at least 1, or off, at Caddyfile:4"},
		{"transport {\n max_per_client\n}", "max_per_client wants one argument, got 0, at Caddyfile:4"},
		{"transport {\n max_per_user -1\n}", "bad max_per_user '-1': must be at least 1, or off, at Caddyfile:4"},
		{"transport {\n max_per_user many\n}", "bad max_per_user 'many': not a number, or off, at Caddyfile:4"},
		{"transport {\n reuse_unsafe sometimes\n}", "bad reuse_unsafe 'sometimes': one of [never recent always], at Caddyfile:4"},
		{"transport {\n reuse_unsafe\n}", "reuse_unsafe wants one argument, got 0, at Caddyfile:4"},
		{"transport {\n reuse_unsafe never\n reuse_unsafe never\n}", "'reuse_unsafe' stands twice in transport, at Caddyfile:5"},
		{"transport {\n max_pending 1.5\n}", "bad max_pending '1.5': not a number, or off, at Caddyfile:4"},
		{"transport {\n max_conn_lifetime -1\n}", "bad max_conn_lifetime '-1': not a duration; write 10s, or off, at Caddyfile:4"},
		{"transport {\n max_response_header big\n}", "bad max_response_header 'big': not a size, at Caddyfile:4"},
		{"transport {\n max_response_header 0\n}", "bad max_response_header '0': not a size, at Caddyfile:4"},
		{"transport {\n max_response_header -1\n}", "bad max_response_header '-1': not a size, at Caddyfile:4"},
		{"transport {\n max_response_header 1023\n}", "bad max_response_header '1023': must be between 1024 and 16777216 bytes, at Caddyfile:4"},
		{"transport {\n max_response_header 17MiB\n}", "bad max_response_header '17MiB': must be between 1024 and 16777216 bytes, at Caddyfile:4"},
		{"transport {\n dial_timeout 9000h\n}", "bad dial_timeout '9000h': must be at most a year, at Caddyfile:4"},
		{"tunnel {\n timeout 9000h\n}", "bad timeout '9000h': must be at most a year, or off, at Caddyfile:4"},
		{"tunnel {\n close_delay 9000h\n}", "bad close_delay '9000h': must be at most a year, at Caddyfile:4"},
		{"upstreams a {\n health_interval 99ms\n}", "bad health_interval '99ms': must be at least 100ms, at Caddyfile:4"},
		{"upstreams a {\n circuit {\n  window 9ms\n }\n}", "bad window '9ms': must be at least 10ms, at Caddyfile:5"},
		{"upstreams a {\n circuit {\n  max_open_for 1s\n }\n}", "circuit.max_open_for: 1s is shorter than open_for (10s), at Caddyfile:4"},
		{"destination_circuit {\n max_open_for 1s\n}", "destination_circuit.max_open_for: 1s is shorter than open_for (2s), at Caddyfile:3"},
		{"allow_unauthenticated\nbasic_auth a b", "allow_unauthenticated: contradicts basic_auth, with which everybody has to log in; leave one of them out, at Caddyfile:4"},
		{"basic_auth a b\nserver_name x\nallow_unauthenticated", "allow_unauthenticated: contradicts basic_auth, with which everybody has to log in; leave one of them out, at Caddyfile:5"},
		{"transport {\n max_response_header 9EB\n}", "bad max_response_header '9EB': not a size, at Caddyfile:4"},
		{"tunnel {\n max_tunnels 0\n}", "bad max_tunnels '0': must be at least 1, or off, at Caddyfile:4"},
		{"tunnel {\n max_per_client many\n}", "bad max_per_client 'many': not a number, or off, at Caddyfile:4"},
		{"tunnel {\n on_policy_change\n}", "on_policy_change wants one argument, got 0, at Caddyfile:4"},
		{"tunnel {\n on_policy_change end\n}", "bad on_policy_change 'end': one of [keep close], at Caddyfile:4"},
		{"tunnel {\n on_policy_change keep\n on_policy_change close\n}", "'on_policy_change' stands twice in tunnel, at Caddyfile:5"},
		{"tunnel {\n max_per_user\n}", "max_per_user wants one argument, got 0, at Caddyfile:4"},
		{"tunnel {\n rate_per_tunnel 0\n}", "bad rate_per_tunnel '0': not a size in bytes (per second), or off, at Caddyfile:4"},
		{"tunnel {\n rate_per_tunnel 1MB/s\n}", "bad rate_per_tunnel '1MB/s': not a size in bytes (per second), or off, at Caddyfile:4"},
		{"tunnel {\n rate_per_user -1\n}", "bad rate_per_user '-1': not a size in bytes (per second), or off, at Caddyfile:4"},
		{"tunnel {\n rate_per_user 1MB 2MB\n}", "rate_per_user wants one argument, got 2, at Caddyfile:4"},
		{"tunnel {\n timeout never\n}", "bad timeout 'never': not a duration; write 10s, or off, at Caddyfile:4"},
		{"tunnel {\n idle_timeout 0\n}", "bad idle_timeout '0': must be positive, or off, at Caddyfile:4"},
		{"transport {\n tls_trust_pool nonsense\n}", "unknown tls_trust_pool 'nonsense': one of combined, file, http, inline, pki_intermediate, pki_root, storage, system, at Caddyfile:4"},

		// A block where none belongs.
		{"hide_ip {\n x\n}", "unexpected block: hide_ip takes none, at Caddyfile:3"},
		{"ports 80 {\n x\n}", "unexpected block: ports takes none, at Caddyfile:3"},
		{"tunnel {\n timeout 1s {\n x\n }\n}", "unexpected block: timeout takes none, at Caddyfile:4"},
		{"destination_circuit off {\n}", "unexpected block: destination_circuit takes none, at Caddyfile:3"},
	} {
		t.Run(tc.block, func(t *testing.T) { expectRefused(t, ":8080 {\negress {\n"+tc.block+"\n}\n}\n", tc.want) })
	}
}

func TestDirectiveArguments(t *testing.T) {
	for directive, want := range map[string]string{
		"egress ftp://proxy.example.com": "upstream: unknown scheme 'ftp': one of http, https, socks5, socks5h (or one of these with +unix behind it), at Caddyfile:2",
		"egress * proxy.example.com":     "upstream: has no port; write host:port, or scheme://host for the port of the scheme, at Caddyfile:2",
	} {
		expectRefused(t, ":8080 {\n"+directive+"\n}\n", want)
	}
}

// Every error of a Caddyfile in a file of its own names that file.
func TestErrorInSnippetNamesLine(t *testing.T) {
	expectRefused(t, "(s) {\n hide_iq\n}\n:8080 {\n egress {\n  import s\n }\n}\n",
		"unrecognized subdirective 'hide_iq' of egress (did you mean 'hide_ip'?), at Caddyfile:2 import chain ['Caddyfile:6 (import s)']")
}

// Words whose nothing has a meaning take off for it.
func TestCaddyfile_Off(t *testing.T) {
	const none = ":8080 {\negress {\nupstreams default {\nupstream http://127.0.0.1:1 {\n}\ncircuit {\n}\n}\ntransport {\n}\ntunnel {\n}\n}\n}\n"
	for word, where := range map[string]string{
		"standby": "upstream http://127.0.0.1:1 {\n", "proxy_protocol": "upstream http://127.0.0.1:1 {\n",
		"hedge": "upstreams default {\n", "lb_try_interval": "upstreams default {\n", "health_check": "upstreams default {\n",
	} {
		got, err := adapt(t, strings.Replace(none, where, where+word+" off\n", 1))
		if err != nil {
			t.Errorf("%s off: %v", word, err)
			continue
		}
		if want := mustAdapt(t, none); strings.ReplaceAll(string(got), `"load_balancing":{},`, "") != string(want) {
			t.Errorf("%s off is not as without it:\n got %s\nwant %s", word, got, want)
		}
	}
	for word, tc := range map[string]struct{ where, want string }{
		"retry_budget":     {"upstreams default {\n", `"load_balancing":{"retry_budget":0}`},
		"min_success_rate": {"circuit {\n", `"circuit":{"min_success_rate":0}`},
		"panic_below":      {"circuit {\n", `"circuit":{"panic_below":0}`},
		"close_delay":      {"tunnel {\n", `"tunnel":{"close_delay":0}`},
	} {
		got, err := adapt(t, strings.Replace(none, tc.where, tc.where+word+" off\n", 1))
		if err != nil || !strings.Contains(string(got), tc.want) {
			t.Errorf("%s off: no %s in %s, %v", word, tc.want, got, err)
		}
	}
}

// Every word that has one value either takes off, or its error says that it cannot be off
// or what else there is.
func TestCaddyfile_OffOrWhyNot(t *testing.T) {
	_, readme := snippets(t)
	told := regexp.MustCompile(`cannot be off: |: one of `)
	checked := 0
	for _, w := range referenceWords(t, readme) {
		if len(w.path) == 0 || !regexp.MustCompile(`^(off|\[?[0-9].*|<count>|v1\|v2|tcp\|.*|keep|recent)$`).MatchString(w.args) || w.word == "prefer_ip" {
			continue
		}
		checked++
		if _, err := adapt(t, w.config(w.word+" off")); err != nil && !told.MatchString(err.Error()) &&
			!strings.Contains(err.Error(), "'"+w.word+"' stands twice") {
			t.Errorf("%v %s: %v", w.path, w.word, err)
		}
	}
	if checked < 50 {
		t.Errorf("only %d words", checked)
	}
}

// A route that leads nowhere is told with its line, and with what there is.
func TestCaddyfile_UnknownTargets(t *testing.T) {
	for block, want := range map[string]string{
		"route directt": "route: unknown target 'directt' (did you mean 'direct'?): one of direct, deny, at Caddyfile:3",
		"route denny\nupstreams a {\n upstream x:1\n}":           "route: unknown target 'denny' (did you mean 'deny'?): one of direct, deny, a, at Caddyfile:3",
		"upstream x:1\n\nroute {\n to default fallback dirct\n}": "route: unknown target 'dirct' (did you mean 'direct'?): one of direct, deny, default, at Caddyfile:5",
	} {
		expectRefused(t, ":8080 {\negress {\n"+block+"\n}\n}\n", want)
	}
	mustAdapt(t, ":8080 {\negress {\nroute default\nupstream x:1\n}\n}\n") // known later
	mustAdapt(t, ":8080 {\negress {\nroute {env.TARGET}\n}\n}\n")
}
