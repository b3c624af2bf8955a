package integration

import (
	"cmp"
	"strings"
)

// globals are the global options of a Caddyfile. What every test wants is always among
// them: nothing is kept for the next start, and no certificates are obtained.
type globals struct {
	// admin is where the admin endpoint listens, "" for off.
	admin string
	// grace is the grace_period, "" for Caddy's own.
	grace string
	// storage is the directory in which Caddy keeps its data, "" for the one below the
	// home of this process.
	storage string
	// more holds further options, as lines.
	more string
}

// String is the block that stands at the top of the Caddyfile.
func (g globals) String() string {
	lines := []string{"{", "admin " + cmp.Or(g.admin, "off"), "persist_config off", "auto_https off"}
	if g.grace != "" {
		lines = append(lines, "grace_period "+g.grace)
	}
	if g.storage != "" {
		lines = append(lines, "storage file_system "+g.storage)
	}
	return strings.Join(append(lines, g.more, "}"), "\n")
}

// asDefault is the option that makes the capture the default log, with further lines of
// that log.
func (c *logCapture) asDefault(more ...string) string {
	return "log default {\n output egress_capture " + c.id + "\n format json\n " + strings.Join(more, "\n") + "\n}"
}
