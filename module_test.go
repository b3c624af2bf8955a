package egress

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/listening"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/shared"
)

// cameWith is the environment that the tests were started in: what the go command needs,
// which has its modules below HOME.
var cameWith []string

func TestMain(m *testing.M) {
	// Caddy keeps its data below these; a test leaves nothing behind.
	dir, err := os.MkdirTemp("", "egress-")
	if err != nil {
		panic(err)
	}
	cameWith = os.Environ()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		os.Setenv(name, dir)
	}
	listening.Hide() // origins of these tests listen in this process
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// loadModule decodes, provisions and validates a handler as Caddy does. The
// returned function ends its configuration, which cleans it up.
func loadModule(t *testing.T, config string) (*Handler, func(), error) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	v, err := ctx.LoadModuleByID("http.handlers.egress", json.RawMessage(config))
	if err != nil {
		cancel()
		return nil, cancel, err
	}
	return v.(*Handler), cancel, nil
}

func mustLoadModule(t *testing.T, config string) (*Handler, func()) {
	t.Helper()
	h, end, err := loadModule(t, config)
	if err != nil {
		t.Fatal(err)
	}
	return h, end
}

// references is how many handlers hold the pool of that name.
func references(id string) int {
	return origin.Shared.Holders()[id]
}

// poolCount is how many things are held over reloads: pools, and what is known of
// names and of paths.
func poolCount() int {
	return len(origin.Shared.All()) + len(dial.SharedNames.All()) + len(exitStates.All())
}

func TestDefaults(t *testing.T) {
	h, _ := mustLoadModule(t, `{}`)
	if h.ServerName != "caddy" || h.Forwarded != "for" {
		t.Errorf("server_name %q, forwarded %q", h.ServerName, h.Forwarded)
	}
	closeDelay := caddy.Duration(30 * time.Second)
	wantTunnel := Tunnel{IdleTimeout: caddy.Duration(15 * time.Minute), HalfCloseTimeout: caddy.Duration(time.Minute), CloseDelay: &closeDelay, OnPolicyChange: policyKeep}
	if !reflect.DeepEqual(h.tunnel, wantTunnel) {
		t.Errorf("tunnel %+v", h.tunnel)
	}
	wantPool := connpool.Config{
		MaxConnsPerKey:   64,
		MaxIdlePerKey:    32,
		MaxIdle:          1024,
		IdleTimeout:      55 * time.Second,
		MaxLifetime:      10 * time.Minute,
		MaxPendingPerKey: 128,
		MaxPending:       4096,
		PendingTimeout:   5 * time.Second,
		MaxDialsPerKey:   8,
		DialTimeout:      20 * time.Second,
		MaxKeys:          10_000,
		Shared:           descriptors.Idle,
	}
	if got := h.transport.poolConfig(); got != wantPool {
		t.Errorf("pool\n got %+v\nwant %+v", got, wantPool)
	}
	if clients, users := h.proxy.Pool.Counts(); clients || users {
		t.Error("clients or users are counted without a limit")
	}
	if got := h.transport.unsafeIdle(); got != 2*time.Second {
		t.Errorf("reuse_unsafe is %s", got)
	}
	if h.transport.ResponseHeaderTimeout != caddy.Duration(5*time.Minute) ||
		h.transport.ExpectContinueTimeout != caddy.Duration(time.Second) ||
		h.transport.MaxResponseHeader != 65536 {
		t.Errorf("transport %+v", h.transport)
	}
	d := h.proxy.Direct
	if d.Timeout != 10*time.Second || d.FallbackDelay != 250*time.Millisecond || d.TLSTimeout != 10*time.Second {
		t.Errorf("dialer: timeout %s, fallback delay %s, TLS timeout %s", d.Timeout, d.FallbackDelay, d.TLSTimeout)
	}
	if d.TLSConfig.InsecureSkipVerify || !reflect.DeepEqual(d.TLSConfig.NextProtos, []string{"http/1.1"}) {
		t.Errorf("TLS: %+v", d.TLSConfig)
	}
	circuit := h.circuit.config()
	if h.circuit.Off || circuit.Failures != 5 || circuit.Window != 30*time.Second ||
		circuit.OpenFor != 2*time.Second || circuit.MaxOpenFor != 30*time.Second {
		t.Errorf("circuit %+v", circuit)
	}
	if h.Auth != nil || h.Transport != nil || h.Tunnel != nil || h.DestinationCircuit != nil {
		t.Error("defaults have been written into the configuration")
	}
}

func TestSettingsOff(t *testing.T) {
	h, _ := mustLoadModule(t, `{
		"destination_circuit": {"off": true},
		"transport": {
			"keep_alive": {"enabled": false},
			"max_conn_lifetime": -1, "max_conns": -1, "max_conns_per_host": -1,
			"max_per_client": -1, "max_per_user": -1,
			"max_pending": -1, "max_pending_per_host": -1
		},
		"tunnel": {"idle_timeout": -1, "timeout": -1, "half_close_timeout": -1}
	}`)
	want := connpool.Config{
		PendingTimeout: 5 * time.Second, MaxDialsPerKey: 8, DialTimeout: 20 * time.Second,
		MaxKeys: 10_000, Shared: descriptors.Idle,
	}
	if got := h.transport.poolConfig(); got != want {
		t.Errorf("pool\n got %+v\nwant %+v", got, want)
	}
	if clients, users := h.proxy.Pool.Counts(); clients || users {
		t.Error("clients or users are counted without a limit")
	}
	if !h.circuit.Off {
		t.Error("the circuit is on")
	}
	if cfg := h.proxy.Timers; cfg.IdleTimeout != 0 || cfg.HalfCloseTimeout != 0 || cfg.Lifetime != 0 {
		t.Errorf("tunnel timers %+v", cfg)
	}
}

// A pause longer than the usual maximum moves the maximum along.
func TestCircuitDefaultsFollowOpenFor(t *testing.T) {
	h, _ := mustLoadModule(t, `{"destination_circuit": {"open_for": "1m"}}`)
	if got := h.circuit.config().MaxOpenFor; got != time.Minute {
		t.Errorf("max_open_for is %s", got)
	}
}

// Every bad value is refused with an error that names its JSON field.
func TestBadJSON(t *testing.T) {
	for _, tc := range []struct{ config, want string }{
		{`{"server_name": "1x"}`, `server_name: "1x" is not a token that begins with a letter`},
		{`{"server_name": "a b"}`, `server_name: "a b" is not a token that begins with a letter`},
		{`{"server_name": "é"}`, `server_name: "é" is not a token that begins with a letter`},
		{`{"server_name": "a\r\nX: y"}`, `server_name: "a\r\nX: y" is not a token that begins with a letter`},
		{`{"forwarded": "on"}`, `forwarded: unknown value "on": one of off, for, full`},
		{`{"hosts": ["a b"]}`, `hosts: 'a b': `},
		{`{"hosts": [""]}`, `hosts: '': `},
		{`{"hosts": ["a:80"]}`, `hosts: 'a:80': it has a colon but is not an IPv6 address (a port has no place here)`},
		{`{"admin_addresses": ["x"]}`, `admin_addresses: 'x': not of the form host:port: `},
		{`{"admin_addresses": ["x:0"]}`, `admin_addresses: 'x:0': port "0" is not a number from 1 to 65535`},
		{`{"admin_addresses": ["x:65536"]}`, `admin_addresses: 'x:65536': port "65536" is not a number from 1 to 65535`},

		{`{"transport": {"dial_timeout": 10}}`, "transport.dial_timeout: 10ns is below 1ms: a duration in JSON is a string such as \"10s\", or a number of nanoseconds"},
		{`{"transport": {"tls": {"handshake_timeout": 5}}}`, "transport.tls.handshake_timeout: 5ns is below 1ms: a duration in JSON is a string such as \"10s\", or a number of nanoseconds"},
		{`{"tunnel": {"idle_timeout": 15}}`, "tunnel.idle_timeout: 15ns is below 1ms: a duration in JSON is a string such as \"10s\", or a number of nanoseconds"},
		{`{"tunnel": {"close_delay": 999999}}`, "tunnel.close_delay: 999.999µs is below 1ms: a duration in JSON is a string such as \"10s\", or a number of nanoseconds"},
		{`{"groups": {"default": {"upstreams": [{"url": "http://127.0.0.1:1"}], "load_balancing": {"attempt_timeout": 5}}}}`, "groups.default.load_balancing.attempt_timeout: 5ns is below 1ms: a duration in JSON is a string such as \"10s\", or a number of nanoseconds"},
		{`{"allow_unauthenticated": true, "auth": {"basic": [{"username": "a", "password": "b"}]}}`, "allow_unauthenticated: contradicts basic_auth, with which everybody has to log in; leave one of them out"},
		{`{"auth": {}}`, "auth: names no users; leave it out to let everybody in"},
		{`{"auth": {"realm": "x"}}`, "auth: names no users; leave it out to let everybody in"},
		{`{"auth": {"realm": "a\u0001b", "basic": [{"username": "u", "password": "p"}]}}`, "auth: realm '"},
		{`{"auth": {"basic": [{"username": "", "password": "p"}]}}`, "auth: basic_auth user "},
		{`{"auth": {"basic": [{"username": "a:b", "password": "p"}]}}`, "auth: basic_auth user "},
		{`{"auth": {"basic": [{"username": "u", "password": ""}]}}`, "auth: basic_auth user 'u': "},
		{`{"auth": {"basic": [{"username": "u", "password": "$2a$x"}]}}`, "auth: basic_auth user 'u': "},
		{`{"auth": {"basic": [{"username": "u", "password": "a"}, {"username": "u", "password": "b"}]}}`, "auth: basic_auth user 'u' is defined twice"},

		{`{"acl": [{"subjects": ["10.0.0.0/33"]}]}`, "acl[0]: subject '10.0.0.0/33': "},
		{`{"acl": [{"subjects": ["all"]}, {}]}`, "acl[1]: no subjects; write at least one, or 'all'"},
		{`{"allowed_ports": ["0"]}`, "bad port range '0': ports are between 1 and 65535"},
		{`{"allowed_ports": [65536]}`, "bad port range '65536': write a port (443) or a range (1024-65535)"},
		{`{"allowed_ports": ["9-8"]}`, "bad port range '9-8': write the lower port first (8-9)"},
		{`{"allowed_ports": [null]}`, "bad port range 'null': write a port (443) or a range (1024-65535)"},

		{`{"destination_circuit": {"failures": 1}}`, "destination_circuit.failures: 1 is too low: at least 2"},
		{`{"destination_circuit": {"failures": -1}}`, "destination_circuit.failures: -1 is too low: at least 2"},
		{`{"tunnel": {"idle_timeout": "9000h"}}`, "tunnel.idle_timeout: 9000h0m0s is over a year"},
		{`{"transport": {"tls": {"handshake_timeout": "9000h"}}}`, "transport.tls.handshake_timeout: 9000h0m0s is over a year"},
		{`{"destination_circuit": {"window": -1}}`, "destination_circuit.window: must be positive"},
		{`{"destination_circuit": {"open_for": "-1s"}}`, "destination_circuit.open_for: must be positive"},
		{`{"destination_circuit": {"max_open_for": "1s"}}`, "destination_circuit.max_open_for: 1s is shorter than open_for (2s)"},
		{`{"destination_circuit": {"max_open_for": -1}}`, "destination_circuit.max_open_for: -1ns is shorter than open_for (2s)"},

		{`{"transport": {"dial_timeout": -1}}`, "transport.dial_timeout: -1ns is not positive"},
		{`{"transport": {"dial_fallback_delay": "-1s"}}`, "transport.dial_fallback_delay: -1s is not positive"},
		{`{"transport": {"response_header_timeout": -1}}`, "transport.response_header_timeout: -1ns is not positive"},
		{`{"transport": {"expect_continue_timeout": -1}}`, "transport.expect_continue_timeout: -1ns is not positive"},
		{`{"transport": {"pending_timeout": -1}}`, "transport.pending_timeout: -1ns is not positive"},
		{`{"transport": {"response_idle_timeout": -2}}`, "transport.response_idle_timeout: -2ns is not positive (-1 is off)"},
		{`{"transport": {"max_conn_lifetime": -2}}`, "transport.max_conn_lifetime: -2ns is not positive (-1 is off)"},
		{`{"transport": {"max_conns": -2}}`, "transport.max_conns: -2 is below 1 (-1 is off)"},
		{`{"transport": {"max_conns_per_host": -2}}`, "transport.max_conns_per_host: -2 is below 1 (-1 is off)"},
		{`{"transport": {"max_pending": -2}}`, "transport.max_pending: -2 is below 1 (-1 is off)"},
		{`{"transport": {"max_per_client": -2}}`, "transport.max_per_client: -2 is below 1 (-1 is off)"},
		{`{"transport": {"max_per_user": -2}}`, "transport.max_per_user: -2 is below 1 (-1 is off)"},
		{`{"transport": {"reuse_unsafe": "Always"}}`, `transport.reuse_unsafe: unknown value "Always": one of never, recent, always`},
		{`{"transport": {"max_pending_per_host": -2}}`, "transport.max_pending_per_host: -2 is below 1 (-1 is off)"},
		{`{"transport": {"max_response_header_size": 1023}}`, "transport.max_response_header_size: 1023 is not between 1024 and 16777216 bytes"},
		{`{"transport": {"max_response_header_size": 16777217}}`, "transport.max_response_header_size: 16777217 is not between 1024 and 16777216 bytes"},
		{`{"transport": {"max_response_header_size": -1}}`, "transport.max_response_header_size: -1 is not between 1024 and 16777216 bytes"},
		{`{"transport": {"keep_alive": {"idle_timeout": -1}}}`, "transport.keep_alive.idle_timeout: -1ns is not positive"},
		{`{"transport": {"keep_alive": {"max_idle_conns": -1}}}`, "transport.keep_alive.max_idle_conns: -1 is below 1 (to keep none, set enabled to false)"},
		{`{"transport": {"keep_alive": {"max_idle_conns_per_host": -1}}}`, "transport.keep_alive.max_idle_conns_per_host: -1 is below 1 (to keep none, set enabled to false)"},
		{`{"transport": {"resolver": {}}}`, "transport.resolver.addresses: empty; leave resolver out to ask the system's"},
		{`{"transport": {"resolver": {"addresses": ["192.0.2.1", "dns.example"]}}}`, "transport.resolver.addresses: 'dns.example': not an IP address; "},
		{`{"transport": {"hosts_override": {"a b": ["192.0.2.1"]}}}`, "transport.hosts_override: 'a b': it has a space"},
		{`{"transport": {"hosts_override": {"127.1": ["192.0.2.1"]}}}`, "transport.hosts_override: '127.1' is an address; write a name"},
		{`{"transport": {"hosts_override": {"a.example": []}}}`, "transport.hosts_override: 'a.example' has no addresses"},
		{`{"transport": {"hosts_override": {"a.example": ["b.example"]}}}`, "transport.hosts_override: 'a.example': 'b.example': not an IP address"},
		{`{"transport": {"hosts_override": {"a.example": ["192.0.2.1"], "A.example.": ["192.0.2.1"]}}}`, "transport.hosts_override: 'a.example' stands there twice"},
		{`{"transport": {"resolver": {"addresses": ["192.0.2.1"], "tls": {}}}}`, "transport.resolver.tls: no server is asked over TLS"},
		{`{"transport": {"resolver": {"addresses": ["tls://192.0.2.1"], "tls": {"server_name": "x"}}}}`, "transport.resolver.tls.server_name: the name of a certificate stands behind '#' of the server's address"},
		{`{"transport": {"resolver": {"addresses": ["tls://192.0.2.1"], "tls": {"handshake_timeout": "1s"}}}}`, "transport.resolver.tls.handshake_timeout: a server has 2s for an answer, the handshake included"},
		{`{"transport": {"resolver": {"addresses": ["tls://192.0.2.1"], "tls": {"except_ports": ["1"]}}}}`, "transport.resolver.tls.except_ports: the scheme of a server decides about TLS"},
		{`{"transport": {"resolver": {"addresses": ["tls://192.0.2.1"], "tls": {"renegotiation": "once"}}}}`, "transport.resolver.tls.renegotiation: not supported"},
		{`{"transport": {"resolver": {"addresses": ["tls://192.0.2.1"], "tls": {"client_certificate_file": "x"}}}}`, "transport.resolver.tls: client_certificate_file specified without client_certificate_key_file"},
		{`{"transport": {"prefer_ip": "v4"}}`, "transport.prefer_ip: unknown value 'v4': one of 4, 6, 4_only, 6_only"},
		{`{"transport": {"local_addresses": ["x"]}}`, "transport.local_addresses: 'x': not an IP address"},
		{`{"transport": {"local_addresses": ["0.0.0.0"]}}`, "transport.local_addresses: '0.0.0.0' is no address of a machine"},
		{`{"transport": {"local_addresses": ["127.0.0.1", "::ffff:127.0.0.1"]}}`, "transport.local_addresses: '127.0.0.1' stands there twice"},
		{`{"transport": {"local_addresses": ["127.0.0.1"], "prefer_ip": "6_only"}}`, "transport.local_addresses: none is IPv6, and prefer_ip uses no others"},
		{`{"transport": {"local_addresses": ["127.0.0.1"], "local_address_pick": "x"}}`, "transport.local_address_pick: unknown value 'x': one of round_robin, user_hash"},
		{`{"transport": {"local_address_pick": "user_hash"}}`, "transport.local_address_pick: there are no local_addresses to pick from"},
		{`{"routes": [{"to": "direct", "local_addresses": ["x"]}]}`, "routes[0]: local_addresses: 'x': not an IP address"},
		{`{"routes": [{"to": "direct", "local_address_pick": "user_hash"}]}`, "routes[0]: local_address_pick: there are no local_addresses to pick from"},
		{`{"routes": [{"to": "direct", "prefer_ip": "5"}]}`, "routes[0]: prefer_ip: unknown value '5': one of 4, 6, 4_only, 6_only"},
		{`{"routes": [{"to": "direct", "prefer_ip": "6_only"}], "transport": {"local_addresses": ["127.0.0.1"]}}`, "routes[0]: prefer_ip: local_addresses of the transport: none is IPv6, and prefer_ip uses no others"},
		{`{"routes": [{"to": "deny", "prefer_ip": "4"}]}`, "routes[0]: local_addresses, interface, prefer_ip: neither the target nor the fallback is direct; upstreams have a local_address, an interface and a prefer_ip of their own"},
		{`{"routes": [{"to": "direct", "local_addresses": ["127.0.0.1"]}], "transport": {"prefer_ip": "6_only"}}`, "routes[0]: local_addresses: none is IPv6, and prefer_ip uses no others"},
		{`{"routes": [{"to": "direct", "interface": "a b"}]}`, "routes[0]: interface: 'a b' is no name of a network interface"},
		{`{"routes": [{"to": "deny", "local_addresses": ["127.0.0.1"]}]}`, "routes[0]: local_addresses, interface, prefer_ip: neither the target nor the fallback is direct; upstreams have a local_address, an interface and a prefer_ip of their own"},
		{`{"transport": {"interface": "an-interface-that-is-too-long"}}`, "transport.interface: 'an-interface-that-is-too-long' is no name of a network interface"},
		{`{"transport": {"tls": {"handshake_timeout": -1}}}`, "transport.tls.handshake_timeout: -1ns is not positive"},
		{`{"transport": {"tls": {"server_name": "x"}}}`, "transport.tls.server_name: an origin's certificate is always checked against the name that the client asked for"},
		{`{"transport": {"tls": {"except_ports": ["1"]}}}`, "transport.tls.except_ports: the scheme of a request decides about TLS"},
		{`{"transport": {"tls": {"renegotiation": "freely"}}}`, "transport.tls.renegotiation: not supported"},
		{`{"transport": {"tls": {"curves": ["x"]}}}`, "transport.tls: unsupported curve: x"},
		{`{"transport": {"tls": {"client_certificate_file": "x"}}}`, "transport.tls: client_certificate_file specified without client_certificate_key_file"},

		{`{"tunnel": {"idle_timeout": -2}}`, "tunnel.idle_timeout: -2ns is not positive (-1 is off)"},
		{`{"tunnel": {"timeout": "-1s"}}`, "tunnel.timeout: -1s is not positive (-1 is off)"},
		{`{"tunnel": {"max_tunnels": -2}}`, "tunnel.max_tunnels: -2 is below 1 (-1 is off)"},
		{`{"tunnel": {"max_per_client": -2}}`, "tunnel.max_per_client: -2 is below 1 (-1 is off)"},
		{`{"tunnel": {"max_per_user": -2}}`, "tunnel.max_per_user: -2 is below 1 (-1 is off)"},
		{`{"tunnel": {"rate_per_tunnel": -2}}`, "tunnel.rate_per_tunnel: -2 is below 1 (-1 is off)"},
		{`{"tunnel": {"rate_per_user": -2}}`, "tunnel.rate_per_user: -2 is below 1 (-1 is off)"},
		{`{"tunnel": {"close_delay": -1}}`, "tunnel.close_delay: -1ns is negative"},
		{`{"name": "a b"}`, `name: "a b" is not made of 1 to 64 letters, digits, '-', '_' and '.'`},
		{`{"name": ":8080#1"}`, `name: ":8080#1" is not made of 1 to 64 letters, digits, '-', '_' and '.'`},
		{`{"tunnel": {"half_close_timeout": -2}}`, "tunnel.half_close_timeout: -2ns is not positive (-1 is off)"},

		// Caddy itself refuses what no field takes.
		{`{"servername": "x"}`, `json: unknown field "servername"`},
		{`{"transport": {"max_fails": 1}}`, `json: unknown field "max_fails"`},
		{`{"transport": {"keep_alive": {"probe_interval": "1s"}}}`, `json: unknown field "probe_interval"`},
		{`{"tunnel": {"idle": "1s"}}`, `json: unknown field "idle"`},
		{`{"destination_circuit": {"fail_duration": "1s"}}`, `json: unknown field "fail_duration"`},
		{`{"auth": {"basic": [{"user": "u"}]}}`, `json: unknown field "user"`},
		{`{"acl": [{"subject": "all"}]}`, `json: unknown field "subject"`},
		{`{"transport": {"dial_timeout": "soon"}}`, `invalid duration "soon"`},
		{`{"hide_ip": "yes"}`, `hide_ip`},
	} {
		t.Run(tc.config, func(t *testing.T) {
			before := poolCount()
			_, _, err := loadModule(t, tc.config)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("\n got %v\nwant …%s…", err, tc.want)
			}
			if n := poolCount(); n != before {
				t.Errorf("%d pools, %d before", n, before)
			}
		})
	}
}

func TestValidServerName(t *testing.T) {
	for name, want := range map[string]bool{
		"caddy": true, "a": true, "Z": true, "a-b.c_d9": true,
		"": false, "9": false, "-a": false, "a b": false, "a\"": false, "a;b": false, "a(b)": false, "[": false, "@": false, "\xc3\xa1": false, "a\n": false,
	} {
		if got := plaintext.IsServerName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

// Validation fails after the pool was acquired: it must not stay.
func TestFailedValidateReleasesPool(t *testing.T) {
	before := poolCount()
	var tr *Transport
	id := mustPoolID(t, tr)
	if n := references(id); n != 0 {
		t.Fatalf("%d references to the default pool at the start", n)
	}
	for range 3 {
		if _, _, err := loadModule(t, `{"auth": {}}`); err == nil {
			t.Fatal("accepted")
		}
		if n := references(id); n != 0 {
			t.Errorf("%d references to the pool after a failure", n)
		}
	}
	if n := poolCount(); n != before {
		t.Errorf("%d pools, %d before", n, before)
	}
}

// What fails at provision gives back what it acquired, and nothing that a
// configuration before it holds.
func TestFailedProvisionKeepsOthersPool(t *testing.T) {
	h, end := mustLoadModule(t, `{}`)
	id := h.poolUse.Key
	for _, config := range []string{`{"auth": {}}`, `{"server_name": "1"}`, `{"tunnel": {"timeout": -2}}`} {
		if _, _, err := loadModule(t, config); err == nil {
			t.Fatalf("%s: accepted", config)
		}
		if n := references(id); n != 1 {
			t.Errorf("%s: %d references", config, n)
		}
	}
	end()
	if n := references(id); n != 0 {
		t.Errorf("%d references after the end", n)
	}
}

func mustPoolID(t *testing.T, tr *Transport) string {
	t.Helper()
	settings := tr.withDefaults()
	id, err := settings.poolID()
	if err != nil {
		t.Fatal(err)
	}
	id = shared.Digest(id, shared.TLSIdentity(new(tls.Config)))
	return id
}

func TestCleanup(t *testing.T) {
	t.Run("never provisioned", func(t *testing.T) {
		if err := new(Handler).Cleanup(); err != nil {
			t.Error(err)
		}
	})
	t.Run("twice", func(t *testing.T) {
		other, _ := mustLoadModule(t, `{}`)
		h, end := mustLoadModule(t, `{}`)
		id := h.poolUse.Key
		for range 2 {
			if err := h.Cleanup(); err != nil {
				t.Error(err)
			}
		}
		end() // a third time
		if n := references(id); n != 1 {
			t.Errorf("%d references, want that of the other handler", n)
		}
		if other.proxy.Pool.Retired() {
			t.Error("the pool of the other handler is retired")
		}
	})
}

// A reload provisions the new configuration before it cleans up the old one.
func TestPoolOverReload(t *testing.T) {
	for _, tc := range []struct {
		name, before, after string
		same                bool
	}{
		{"unchanged", `{}`, `{}`, true},
		{"unchanged settings", `{"transport": {"max_conns": 7}}`, `{"transport": {"max_conns": 7}}`, true},
		{"defaults spelled out", `{}`, `{"transport": {"dial_timeout": "10s", "max_conns_per_host": 64, "keep_alive": {"max_idle_conns": 1024}, "tls": {"handshake_timeout": "10s"}}}`, true},
		{"other subjects", `{"hide_ip": true}`, `{"acl": [{"subjects": ["all"]}], "tunnel": {"timeout": "1h"}, "auth": {"basic": [{"username": "u", "password": "p"}]}}`, true},
		{"limit", `{}`, `{"transport": {"max_conns": 7}}`, false},
		{"keep-alive", `{}`, `{"transport": {"keep_alive": {"enabled": false}}}`, false},
		{"trust", `{}`, `{"transport": {"tls": {"insecure_skip_verify": true}}}`, false},
		{"timeout", `{}`, `{"transport": {"dial_timeout": "1s"}}`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old, endOld := mustLoadModule(t, tc.before)
			oldID, oldPool := old.poolUse.Key, old.proxy.Pool
			renewed, endNew := mustLoadModule(t, tc.after)
			newID, newPool := renewed.poolUse.Key, renewed.proxy.Pool
			endOld()
			if same := oldPool == newPool; same != tc.same {
				t.Errorf("same pool: %v", same)
			}
			if n := references(newID); n != 1 {
				t.Errorf("%d references to the new pool", n)
			}
			want := 0
			if tc.same {
				want = 1
			}
			if n := references(oldID); n != want {
				t.Errorf("%d references to the old pool, want %d", n, want)
			}
			if retired := oldPool.Retired(); retired == tc.same {
				t.Errorf("old pool retired: %v", retired)
			}
			endNew()
			if n := references(newID); n != 0 {
				t.Errorf("%d references at the end", n)
			}
			if !newPool.Retired() {
				t.Error("the pool is not retired at the end")
			}
		})
	}
}

// What clients hold is counted on over a reload that leaves the transport as it
// is.
func TestHoldingsOverReload(t *testing.T) {
	const config = `{"transport": {"max_per_client": 2, "max_per_user": 3}}`
	old, endOld := mustLoadModule(t, config)
	if _, err := old.proxy.Pool.Hold("192.0.2.1", "ada"); err != nil {
		t.Fatal("refused the first")
	}
	renewed, _ := mustLoadModule(t, config)
	endOld()
	if n, u := renewed.proxy.Pool.Held("192.0.2.1", "ada"); n != 1 || u != 1 {
		t.Errorf("after the reload the client holds %d, the user %d", n, u)
	}
	_, second := renewed.proxy.Pool.Hold("192.0.2.1", "")
	if _, third := renewed.proxy.Pool.Hold("192.0.2.1", ""); second != nil || third == nil {
		t.Error("another limit after the reload")
	}
}
