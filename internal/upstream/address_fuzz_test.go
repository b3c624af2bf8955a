package upstream

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/proxydial"
)

// FuzzUpstreamAddress: what is read of a URL, or of a line of a list, says of
// itself what it is, and reads the same again; the parts of a line are what was
// written; no error quotes a password.
func FuzzUpstreamAddress(f *testing.F) {
	f.Add("http://user:pass@proxy.test:8080", "ada", "pass")
	f.Add("proxy.test:8080:ada:a:b:c", "", "a:b")
	f.Add("[2001:db8::1]:1080:ada:x", "a%3A", "%zz")
	f.Add("socks5h+unix://u:p@/run/../proxy.sock", "ada", "")
	f.Add("https+unix://host/x", "\x00", "@/?#")
	f.Add("127.1:80", "ada", "://")
	f.Add("SOCKS5://[::1%25lo]", "", "")
	f.Add("http://a b:1", "x", " ")
	f.Fuzz(func(t *testing.T, line, user, password string) {
		for _, scheme := range append([]string{""}, Schemes...) {
			for _, parse := range []func(string, string) (Address, error){ParseURL, ParseLine} {
				if a, err := parse(line, scheme); err == nil {
					checkUpstreamAddress(t, line, a)
				}
			}
			checkUpstreamCredentials(t, user, password, scheme)
		}
		r := proxydial.Reply{Status: 502, ProxyStatus: line, RetryAfter: user}
		r.Evident()
		if d := parseRetryAfter(line); d < 0 || d > maxRetryAfter {
			t.Fatalf("Retry-After %q is %s", line, d)
		}
	})
}

func checkUpstreamAddress(t *testing.T, line string, a Address) {
	if !slices.Contains(Schemes, a.Scheme) || (a.Socket == "") != (a.Host != "" && a.Port != 0) {
		t.Fatalf("%q is %+v", line, a)
	}
	if a.Socket != "" {
		return // a path may have what would need escapes in a URL
	}
	b, err := ParseURL(a.String(), "")
	if b.User = a.User; err != nil || a != b {
		t.Fatalf("%q is %v, which is %v, %v", line, a, b, err)
	}
}

// checkUpstreamCredentials reads lines with credentials, of good and of bad
// addresses.
func checkUpstreamCredentials(t *testing.T, user, password, scheme string) {
	const mark = "s3kr1t"
	password += mark
	for _, host := range []string{"proxy.test:3128", "[2001:db8::1]:3128", "proxy.test:x", "a b:1", "[::1"} {
		line := host + ":" + user + ":" + password
		a, err := ParseLine(line, scheme)
		switch {
		case err != nil && strings.Contains(err.Error(), mark):
			t.Fatalf("%q: the error %q has the password", line, err)
		case strings.Contains(line, "://") || strings.Contains(user, ":") || !strings.HasSuffix(host, "3128"):
		case err != nil:
			t.Fatalf("%q: %v", line, err)
		case a.User == nil:
			t.Fatalf("%q has no user", line)
		default:
			if p, _ := a.User.Password(); a.User.Username() != user || p != password {
				t.Fatalf("%q has the user %q and the password %q", line, a.User.Username(), p)
			}
		}
		if strings.Contains(a.String(), mark) {
			t.Fatalf("%q is written %s", line, a)
		}
	}
}
