package accesslog

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A client that names a host of thousands of labels does not make us try as many patterns,
// each as long: what is too long for a destination is the host of no logger.
func TestLoggersOfLongHosts(t *testing.T) {
	logs := &caddyhttp.ServerLogConfig{DefaultLoggerName: "rest", LoggerNames: map[string]caddyhttp.StringArray{"*.example.com": {"wild"}}}
	for host, want := range map[string]string{
		"a.example.com:443": "wild",
		"elsewhere.test":    "rest",
		strings.Repeat("a.", 8000) + "example.com:443":       "rest",
		"user:secret@" + strings.Repeat("a.", 8000) + "test": "rest",
	} {
		r := &http.Request{Host: host}
		if got := loggerNames(logs, r); len(got) != 1 || got[0] != want {
			t.Errorf("%.30q: %v", host, got)
		}
		if n := testing.AllocsPerRun(1, func() {
			loggerNames(logs, r)
			Takes(logs, host)
		}); n > 100 {
			t.Errorf("%.30q: %v allocations", host, n)
		}
	}
}
