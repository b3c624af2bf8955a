package integration

import _ "github.com/caddy-egress/egress"
