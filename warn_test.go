package egress

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// logLine is a line of Caddy's log in JSON.
type logLine struct {
	Level  string   `json:"level"`
	Logger string   `json:"logger"`
	Msg    string   `json:"msg"`
	Hosts  []string `json:"hosts"`
	Listen []string `json:"listen"`
}

// warnings loads sites into a running Caddy and returns what the handler warns
// about meanwhile.
func warnings(t *testing.T, sites string) []logLine {
	t.Helper()
	logFile := filepath.Join(t.TempDir(), "caddy.log")
	loadCaddy(t, fmt.Sprintf("log {\noutput file %s\nformat json\n}\nlocal_certs\nskip_install_trust\n", logFile), sites)
	return warningsIn(t, readFile(t, logFile))
}

// loadCaddy runs a Caddyfile with further global options until the end of the
// test.
func loadCaddy(t *testing.T, global, sites string) {
	t.Helper()
	config := mustAdapt(t, fmt.Sprintf("{\nadmin off\npersist_config off\nauto_https disable_redirects\n%s}\n%s\n", global, sites))
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
}

func warningsIn(t *testing.T, log string) []logLine {
	t.Helper()
	var lines []logLine
	for text := range strings.Lines(log) {
		var line logLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if line.Level == "warn" && strings.HasPrefix(line.Logger, "http.handlers.egress") {
			lines = append(lines, line)
		}
	}
	return lines
}

const (
	hostWarning = "this proxy is reached only under the host names of its site: "
	openWarning = "open proxy: anybody who reaches this listener can use it; "
)

func TestWarnings(t *testing.T) {
	for _, tc := range []struct {
		name  string
		sites string // PORT stands for a free port, SOCKET for a Unix socket
		hosts []string
		open  bool
	}{
		// Host names.
		{"catch-all", "http://:PORT {\nbind 127.0.0.1\negress\n}", nil, false},
		{"host name", "http://proxy.test:PORT {\nbind 127.0.0.1\negress\n}", []string{"proxy.test"}, false},
		{"host names", "http://a.test:PORT, http://b.test:PORT {\nbind 127.0.0.1\negress\n}", []string{"a.test", "b.test"}, false},
		{"address as a host name", "http://127.0.0.1:PORT {\nbind 127.0.0.1\negress\n}", []string{"127.0.0.1"}, false},
		{"wildcard", "http://*.proxy.test:PORT {\nbind 127.0.0.1\negress\n}", []string{"*.proxy.test"}, false},
		{"host name with TLS", "https://proxy.test:PORT {\nbind 127.0.0.1\negress\n}", []string{"proxy.test"}, false},
		{"catch-all and a name", ":PORT, proxy.test:PORT {\nbind 127.0.0.1\negress\n}", nil, false},
		{"in a handle block", "http://proxy.test:PORT {\nbind 127.0.0.1\nhandle {\negress\n}\n}", []string{"proxy.test"}, false},
		{"in a handle block of a catch-all", "http://:PORT {\nbind 127.0.0.1\nhandle {\negress\n}\n}", nil, false},
		{"behind a path matcher", "http://:PORT {\nbind 127.0.0.1\negress /x/*\n}", nil, false},
		// A matcher of the directive is not looked at: whoever writes one means it.
		{"behind a host matcher", "http://:PORT {\nbind 127.0.0.1\n@h host proxy.test\negress @h\n}", nil, false},
		{"another site has a host name", "http://site.test:PORT {\nbind 127.0.0.1\nrespond site\n}\nhttp://:PORT {\nbind 127.0.0.1\negress\n}", nil, false},
		{"another site is the catch-all", "http://:PORT {\nbind 127.0.0.1\nrespond site\n}\nhttp://proxy.test:PORT {\nbind 127.0.0.1\negress\n}", []string{"proxy.test"}, false},

		// Open proxies.
		{"all addresses", "http://:PORT {\negress\n}", nil, true},
		{"all addresses, spelled out", "http://:PORT {\nbind 0.0.0.0\negress\n}", nil, true},
		{"with a user", "http://:PORT {\negress {\nbasic_auth alice " + fixture.Bcrypt4 + "\n}\n}", nil, false},
		{"on purpose", "http://:PORT {\negress {\nallow_unauthenticated\n}\n}", nil, false},
		{"loopback", "http://:PORT {\nbind 127.0.0.2\negress\n}", nil, false},
		{"localhost", "http://:PORT {\nbind localhost\negress\n}", nil, false},
		{"loopback of one network", "http://:PORT {\nbind tcp4/127.0.0.1\negress\n}", nil, false},
		{"Unix socket", "http://:PORT {\nbind unix/SOCKET\negress\n}", nil, false},
		{"both", "http://proxy.test:PORT {\negress\n}", []string{"proxy.test"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			port := fmt.Sprint(freePort(t))
			sites := strings.NewReplacer("PORT", port, "SOCKET", filepath.Join(t.TempDir(), "s")).Replace(tc.sites)
			var hosts []string
			open := false
			for _, line := range warnings(t, sites) {
				switch {
				case strings.HasPrefix(line.Msg, hostWarning) && len(line.Hosts) > 0 && hosts == nil:
					hosts = slices.Sorted(slices.Values(line.Hosts))
					if !strings.Contains(line.Msg, "':443, proxy.example.com'") {
						t.Errorf("does not say what to write: %s", line.Msg)
					}
				case strings.HasPrefix(line.Msg, openWarning) && !open:
					open = true
					if len(line.Listen) != 1 || !strings.HasSuffix(line.Listen[0], ":"+port) || !strings.Contains(line.Msg, "allow_unauthenticated") {
						t.Errorf("%+v", line)
					}
				default:
					t.Errorf("unexpected or doubled: %+v", line)
				}
			}
			if !slices.Equal(hosts, tc.hosts) {
				t.Errorf("warned about hosts %q, want %q", hosts, tc.hosts)
			}
			if open != tc.open {
				t.Errorf("warned about an open proxy: %v", open)
			}
		})
	}
}

// A password in clear is warned about by the name of its user only.
func TestPlainPasswordWarning(t *testing.T) {
	logFile := filepath.Join(t.TempDir(), "caddy.log")
	loadCaddy(t, fmt.Sprintf("log {\noutput file %s\nformat json\nlevel DEBUG\n}\n", logFile),
		fmt.Sprintf("http://:%d {\nbind 127.0.0.1\negress {\nbasic_auth alice hunter-2-secret\nbasic_auth bob %s\n}\n}", freePort(t), fixture.Bcrypt4))
	// Caddy writes the whole configuration to its debug log; what counts is that
	// we do not.
	var ours strings.Builder
	for line := range strings.Lines(readFile(t, logFile)) {
		if !strings.Contains(line, `"logger":"http.auto_https"`) {
			ours.WriteString(line)
		}
	}
	log := ours.String()
	lines := warningsIn(t, log)
	if len(lines) != 1 || !strings.HasPrefix(lines[0].Msg, "basic_auth passwords are plain text") || !strings.Contains(log, `"users":["alice"]`) {
		t.Errorf("%+v", lines)
	}
	if strings.Contains(log, "hunter-2-secret") || strings.Contains(log, fixture.Bcrypt4) {
		t.Error("the log has a credential")
	}
}

// The site address that the warning recommends makes a catch-all that speaks
// TLS. Its certificate comes in the background, so a handshake may still be
// refused; but it is refused in TLS.
func TestRecommendedSiteAddressSpeaksTLS(t *testing.T) {
	port := freePort(t)
	loadCaddy(t, "local_certs\nskip_install_trust\n", fmt.Sprintf(":%d, proxy.test:%d {\nbind 127.0.0.1\negress\n}", port, port))
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{ServerName: "proxy.test", InsecureSkipVerify: true})
	if err == nil {
		conn.Close()
		return
	}
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "remote error" {
		t.Errorf("no TLS: %v", err)
	}
}

// settingsWarnings are what the handlers of a site warn about, but for what everybody is
// warned about who has no users.
func settingsWarnings(t *testing.T, site string) (messages []string) {
	t.Helper()
	for _, line := range warnings(t, fmt.Sprintf("http://:%d {\nbind 127.0.0.1\n%s\n}", freePort(t), site)) {
		messages = append(messages, line.Msg)
	}
	return messages
}

// What loads, and is probably not meant.
func TestWarnings_Settings(t *testing.T) {
	const (
		rate   = " is below 1 KiB per second"
		rule   = "access rule is never reached"
		hidden = "an egress is never reached"

		upstreamTLS = "the TLS settings of transport are for origins only"
	)
	for _, tc := range []struct {
		name, site string
		want       []string
	}{
		{"a rate without a unit", "egress {\ntunnel {\nrate_per_tunnel 10\n}\n}", []string{"rate_per_tunnel" + rate}},
		{"of a user", "egress {\ntunnel {\nrate_per_user 1000\n}\n}", []string{"rate_per_user" + rate}},
		{"slow rates", "egress {\ntunnel {\nrate_per_tunnel 1KiB\nrate_per_user off\n}\n}", nil},
		{"a rule behind another", "egress {\nacl {\ndeny *.x.example\nallow a.x.example\n}\n}", []string{rule}},
		{"rules in order", "egress {\nacl {\nallow a.x.example\ndeny *.x.example\n}\n}", nil},
		{"two handlers", "egress {\nports 80\n}\negress {\nports 443\n}", []string{hidden}},
		{"two, the second in a handle block", "egress\nhandle {\negress\n}", []string{hidden}},
		{"two in a route", "route {\negress\nrespond x\negress\n}", []string{hidden}},
		{"three", "route {\negress\negress\negress\n}", []string{hidden}},
		{"the first has a matcher", "@m header X-A b\nroute {\negress @m\negress\n}", nil},
		{"the second has a matcher", "@m header X-A b\nroute {\negress\negress @m\n}", []string{hidden}},
		{"each has its block", "@m header X-A b\nhandle @m {\negress\n}\nhandle {\negress\n}", nil},
		{"TLS for origins", "egress {\ntransport {\ntls_insecure_skip_verify\n}\nupstream https://127.0.0.1:1\n}", []string{upstreamTLS}},
		{"TLS for both", "egress {\ntransport {\ntls_insecure_skip_verify\n}\nupstream https://127.0.0.1:1 {\ntls_insecure_skip_verify\n}\n}", nil},
		{"TLS for origins, an upstream in clear", "egress {\ntransport {\ntls_insecure_skip_verify\n}\nupstream http://127.0.0.1:1\n}", nil},
		{"the first has a site", "route {\negress {\nhosts a.example\n}\negress\n}", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := settingsWarnings(t, tc.site)
			if !slices.EqualFunc(got, tc.want, strings.HasPrefix) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// Two sites are no mistake.
func TestWarnings_TwoSites(t *testing.T) {
	site := func() string { return fmt.Sprintf("http://:%d {\nbind 127.0.0.1\negress\n}\n", freePort(t)) }
	if lines := warnings(t, site()+site()); lines != nil {
		t.Errorf("%+v", lines)
	}
}
