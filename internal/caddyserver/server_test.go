package caddyserver

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestOnlyLoopback(t *testing.T) {
	for listen, want := range map[string]bool{
		"127.0.0.1:80":                true,
		"127.8.9.10:80":               true,
		"[::1]:80":                    true,
		"[::ffff:127.0.0.1]:80":       true,
		"localhost:80":                true,
		"tcp/127.0.0.1:80":            true,
		"tcp4/127.0.0.1:80":           true,
		"tcp/127.0.0.1:8000-8010":     true,
		"unix//run/caddy.sock":        true,
		"unix+h2c//run/caddy.sock":    true,
		"127.0.0.1:80 unix//run/x":    true,
		":80":                         false,
		"0.0.0.0:80":                  false,
		"[::]:80":                     false,
		"192.0.2.1:80":                false,
		"proxy.test:80":               false,
		"127.0.0.1:80 192.0.2.1:80":   false,
		"unix//run/x :80":             false,
		"fd/3":                        false, // whatever it is
		"localhost.example.com:80":    false,
		"tcp6/[2001:db8::1]:80":       false,
		"127.0.0.1:80 localhost:81 x": false,
	} {
		if got := OnlyLoopback(&caddyhttp.Server{Listen: strings.Fields(listen)}); got != want {
			t.Errorf("%s: %v", listen, got)
		}
	}
}
