package selection

import (
	"fmt"

	"github.com/caddyserver/caddy/v2"
)

// NameOf is the name under which a policy is configured.
func NameOf(p Policy) string {
	if m, ok := p.(caddy.Module); ok {
		return m.CaddyModule().ID.Name()
	}
	return fmt.Sprintf("%T", p)
}
