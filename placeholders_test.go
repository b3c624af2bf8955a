package egress

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/caddy-egress/egress/internal/settings"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
	"github.com/caddy-egress/egress/upstreams"
)

// How the strings of the configuration take placeholders. Every one of them is in one
// of these lists; whoever adds a field decides, and adds it here.
var (
	// Replaced when the handler is provisioned, by the test below.
	replacedStrings = []string{
		"name", "server_name", "hosts", "metrics_users", "auth.realm", "auth.session.separator", "admin_addresses", "forwarded",
		"acl.subjects", "acl.files", "tunnel.on_policy_change",
		"routes.to", "routes.fallback", "routes.local_addresses", "routes.local_address_pick", "routes.interface", "routes.prefer_ip",
		"groups.file", "groups.scheme", "groups.health_checks.active.type", "groups.health_checks.active.targets", "groups.health_checks.active.headers",
		"groups.upstreams.proxy_protocol", "groups.upstreams.local_addresses", "groups.upstreams.local_address_pick",
		"groups.upstreams.interface", "groups.upstreams.prefer_ip", "groups.upstreams.header",
		"transport.reuse_unsafe", "transport.resolver.addresses", "transport.hosts_override",
		"transport.prefer_ip", "transport.local_addresses", "transport.local_address_pick", "transport.interface",
	}
	// Replaced by the field's own code: TestAuth_Placeholders and
	// TestUpstream_Placeholders.
	ownStrings = []string{
		"auth.basic.username", "auth.basic.password", "groups.credentials.username", "groups.credentials.password",
		"groups.upstreams.credentials.username", "groups.upstreams.credentials.password", "groups.upstreams.url",
	}
	// Refused where they have a placeholder.
	refusedStrings = []string{
		"groups.health_checks.active.expect_body", "groups.health_checks.active.headers (name)", "groups.upstreams.header (name)", "transport.hosts_override (name)",
	}
	// Caddy's own: header settings are replaced for each request, and what is JSON
	// here is a module's.
	caddyStrings = []string{"routes.headers", "routes.match", "groups.dynamic", "groups.load_balancing.selection_policy"}
)

// tlsStrings are those of reverse_proxy's TLS settings, which are in four places.
var tlsStrings = []string{
	"root_ca_pool", "root_ca_pem_files", "client_certificate_file", "client_certificate_key_file", "client_certificate_automate",
	"server_name", "renegotiation", "except_ports", "curves",
}

// place calls f for every string of a type, and for the keys of its maps, with a value
// to set it to.
func place(v reflect.Value, path string, set func(path string, v reflect.Value)) {
	switch {
	case v.Type() == reflect.TypeFor[json.RawMessage](), v.Type() == reflect.TypeFor[headers.Handler]():
		set(path, v)
		return
	}
	switch v.Kind() {
	case reflect.String:
		set(path, v)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		place(v.Elem(), path, set)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		place(v.Index(0), path, set)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		key.SetString("k")
		set(path+" (name)", key)
		place(value, path, set)
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if !field.IsExported() || name == "-" {
				continue
			}
			place(v.Field(i), strings.TrimPrefix(path+"."+name, "."), set)
		}
	case reflect.Interface:
		panic(path + " is an interface")
	}
}

// Every string of the configuration replaces placeholders or refuses them, by name.
func TestPlaceholders_EveryString(t *testing.T) {
	t.Setenv("EGRESS_TEST_VALUE", "a value")
	lists := map[string]string{}
	for list, paths := range map[string][]string{"replaced": replacedStrings, "own": ownStrings, "refused": refusedStrings, "caddy": caddyStrings} {
		for _, p := range paths {
			lists[p] = list
		}
	}
	lists["groups (name)"] = "refused"
	for _, at := range []string{"groups.upstreams.tls", "groups.tls", "transport.tls", "transport.resolver.tls"} {
		lists[at+".ca"] = "caddy"
		for _, s := range tlsStrings {
			lists[at+"."+s] = "replaced"
		}
	}
	var all []string
	place(reflect.ValueOf(new(Handler)).Elem(), "", func(path string, _ reflect.Value) { all = append(all, path) })
	for _, path := range all {
		list, ok := lists[path]
		if !ok && strings.HasPrefix(path, "routes.match") {
			list, ok = "caddy", true
		}
		if !ok {
			t.Errorf("%s is in no list: does it take placeholders?", path)
			continue
		}
		h := new(Handler)
		var field reflect.Value
		place(reflect.ValueOf(h).Elem(), "", func(p string, v reflect.Value) {
			if p == path && v.Kind() == reflect.String {
				v.SetString("{env.EGRESS_TEST_VALUE}")
				field = v
			}
		})
		err := settings.ReplacePlaceholders(h)
		switch list {
		case "refused":
			name := path[strings.LastIndexByte(strings.TrimSuffix(path, " (name)"), '.')+1:]
			if err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(name, " (name)")+": {env.EGRESS_TEST_VALUE}: placeholders are not replaced here") {
				t.Errorf("%s: %v", path, err)
			}
		case "replaced":
			if got, _ := json.Marshal(h); err != nil || !strings.Contains(string(got), "a value") || strings.Contains(string(got), "{env.") {
				t.Errorf("%s: %v, %s", path, err, got)
			}
		default:
			if err != nil || field.IsValid() && field.String() != "{env.EGRESS_TEST_VALUE}" {
				t.Errorf("%s: %v, %q", path, err, field)
			}
		}
	}
	for _, path := range slices.Sorted(maps.Keys(lists)) {
		if !slices.Contains(all, path) {
			t.Errorf("%s is no string of the configuration", path)
		}
	}
}

// The error of one that has no value names the field.
func TestPlaceholders_Place(t *testing.T) {
	h := &Handler{Groups: map[string]*upstreams.Group{"p": {Upstreams: []*upstreams.Upstream{{Header: map[string][]string{"X-A": {"ok", "{http.request.host}"}}}}}}}
	if err := settings.ReplacePlaceholders(h); err == nil || !strings.HasPrefix(err.Error(), "groups.p.upstreams[0].header.X-A[1]: {http.request.host} has no value") {
		t.Error(err)
	}
}

// User names and passwords replace what they know, and keep their braces.
func TestAuth_Placeholders(t *testing.T) {
	t.Setenv("EGRESS_TEST_USER", "bob")
	t.Setenv("EGRESS_TEST_PASSWORD", "p{x}w")
	a := newAuth(t, BasicUser{"{env.EGRESS_TEST_USER}", "{env.EGRESS_TEST_PASSWORD}"})
	if user, _, _ := a.authenticate(fixture.BasicLogin("bob", "p{x}w")); user != "bob" {
		t.Error("bob cannot log in")
	}
}
