package egress

import (
	"net/http"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/relay"
)

// tunnelLog is the access-log line of a tunnel whose handler has returned,
// written when the tunnel ends. The request is encoded into the loggers right
// away, so that nothing of it stays in memory.
type tunnelLog struct {
	accessLine
	user  string
	start time.Time
	out   core.Outcome
}

// tunnelLog prepares the line, or returns nil where Caddy would write none.
func (t *transaction) tunnelLog() *tunnelLog {
	line := t.accessLine(zapcore.InfoLevel)
	if line == nil {
		return nil
	}
	return &tunnelLog{accessLine: *line, user: t.Client.User(), start: t.Start, out: t.Outcome}
}

// write writes the line, with the fields that Caddy's own has.
func (l *tunnelLog) write(result relay.Result) {
	l.out.Account(result, l.start)
	l.accessLine.write(accessEntry{
		read:   result.BytesUp,
		user:   l.user,
		size:   result.BytesDown,
		status: http.StatusOK,
		out:    &l.out,
	})
}
