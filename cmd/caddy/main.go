// Command caddy is Caddy with its standard modules and the egress forward proxy:
// what `xcaddy build --with github.com/caddy-egress/egress` makes.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-egress/egress"
)

func main() {
	caddycmd.Main()
}
