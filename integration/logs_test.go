package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(captureWriter{})
}

// captureWriter is a log writer that hands its lines to the test that named
// itself in the configuration, so that a test can wait for a line.
type captureWriter struct {
	ID string `json:"id"`
}

func (captureWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.writers.egress_capture",
		New: func() caddy.Module { return new(captureWriter) },
	}
}

func (w captureWriter) String() string    { return "egress_capture" }
func (w captureWriter) WriterKey() string { return "egress_capture:" + w.ID }

func (w captureWriter) OpenWriter() (io.WriteCloser, error) {
	c, ok := captures.Load(w.ID)
	if !ok {
		return nil, fmt.Errorf("no log capture %q", w.ID)
	}
	return c.(*logCapture), nil
}

func (w *captureWriter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&w.ID) {
		return d.ArgErr()
	}
	return nil
}

var (
	captures  sync.Map // id → *logCapture
	captureID atomic.Int64
)

// logCapture collects everything one Caddy logs, access log included.
type logCapture struct {
	id string

	mu      sync.Mutex
	raw     bytes.Buffer
	lines   []logLine
	changed chan struct{} // closed and replaced at every write
}

// logLine is one line of the log.
type logLine map[string]any

func newLogCapture(t *testing.T) *logCapture {
	c := &logCapture{id: fmt.Sprint(captureID.Add(1)), changed: make(chan struct{})}
	captures.Store(c.id, c)
	t.Cleanup(func() {
		captures.Delete(c.id)
		if t.Failed() {
			t.Logf("what Caddy logged:\n%s", c.report())
		}
	})
	return c
}

func (c *logCapture) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw.Write(b)
	for _, text := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
		var line logLine
		if json.Unmarshal(text, &line) == nil {
			c.lines = append(c.lines, line)
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return len(b), nil
}

func (c *logCapture) Close() error { return nil }

// all is everything logged so far.
func (c *logCapture) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.raw.String()
}

// report is what a failed test should show: what is ours, access logs, and
// whatever is worse than info.
func (c *logCapture) report() string {
	var s strings.Builder
	for _, line := range strings.SplitAfter(c.all(), "\n") {
		if strings.Contains(line, `"http.handlers.egress`) || strings.Contains(line, `"http.log.`) ||
			strings.Contains(line, `"level":"error"`) || strings.Contains(line, `"level":"warn"`) {
			s.WriteString(line)
		}
	}
	return s.String()
}

// wait returns the first line that match accepts, waiting for it if need be.
func (c *logCapture) wait(t *testing.T, what string, match func(logLine) bool) logLine {
	t.Helper()
	deadline := time.After(patience)
	for seen := 0; ; {
		c.mu.Lock()
		lines, changed := c.lines, c.changed
		c.mu.Unlock()
		for _, l := range lines[seen:] {
			if match(l) {
				return l
			}
		}
		seen = len(lines)
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no log line: %s", what)
		}
	}
}

// access waits for the access log line of a request to host with method.
func (c *logCapture) access(t *testing.T, method, host string) logLine {
	t.Helper()
	return c.wait(t, "access log of "+method+" "+host, func(l logLine) bool {
		return l.isAccess() && l.str("request.method") == method && l.str("request.host") == host
	})
}

// accessLines are the access log lines so far that match accepts.
func (c *logCapture) accessLines(match func(logLine) bool) []logLine {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []logLine
	for _, l := range c.lines {
		if l.isAccess() && match(l) {
			found = append(found, l)
		}
	}
	return found
}

func (l logLine) isAccess() bool {
	name, _ := l["logger"].(string)
	return strings.HasPrefix(name, "http.log.access")
}

// at finds a field by its dotted path, nested or flat.
func (l logLine) at(path string) any {
	if v, ok := l[path]; ok {
		return v
	}
	head, rest, found := strings.Cut(path, ".")
	if !found {
		return nil
	}
	inner, ok := l[head].(map[string]any)
	if !ok {
		return nil
	}
	return logLine(inner).at(rest)
}

func (l logLine) str(path string) string {
	s, _ := l.at(path).(string)
	return s
}

// num is a number of the line, -1 if it is not there.
func (l logLine) num(path string) float64 {
	n, ok := l.at(path).(float64)
	if !ok {
		return -1
	}
	return n
}
