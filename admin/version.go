package admin

import (
	"cmp"
	"runtime/debug"
)

// Version is the version of this module in the program that it was built into.
func Version() string {
	const path = "github.com/caddy-egress/egress"
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range append(build.Deps, &build.Main) {
		if m.Path == path {
			return cmp.Or(m.Version, "(devel)")
		}
	}
	return "(devel)"
}
