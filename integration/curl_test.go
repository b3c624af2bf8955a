package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// curl runs curl through a proxy and returns what it printed. It is skipped
// where there is no curl, unless EGRESS_REQUIRE_PEERS is set.
func curl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("curl")
	if err != nil {
		if os.Getenv("EGRESS_REQUIRE_PEERS") == "1" {
			t.Fatal("EGRESS_REQUIRE_PEERS is set and there is no curl")
		}
		t.Skip("no curl; set EGRESS_REQUIRE_PEERS=1 to fail instead")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"--disable", "--silent", "--show-error", "--noproxy", ""}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestCurl(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := withAuth(t, m, false)
		handler := func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if r.URL.Path == "/refuse" {
				w.WriteHeader(http.StatusExpectationFailed)
				return
			}
			fmt.Fprintf(w, "%s %s %d %s", r.Method, r.URL.Path, len(b), r.Header.Get("Proxy-Authorization"))
		}
		plain, secure := newHTTPOrigin(t, handler), newHTTPSOrigin(t, handler)
		ca := caFile(t)
		big := writeFile(t, t.TempDir(), "big", []byte(strings.Repeat("x", 3<<20)))
		user := []string{"--proxy-user", theUser + ":" + thePassword}
		for name, via := range map[string][]string{
			"http proxy":  {"--proxy", "http://" + p.plain},
			"https proxy": {"--proxy", "https://" + p.secure, "--proxy-cacert", ca},
		} {
			for _, tc := range []struct {
				name string
				args []string
				want string
			}{
				{"get", []string{plain.URL + "/get"}, "GET /get 0 "},
				{"https", []string{"--cacert", ca, secure.URL + "/get"}, "GET /get 0 "},
				{"http through a tunnel", []string{"--proxytunnel", plain.URL + "/get"}, "GET /get 0 "},
				{"post", []string{"--data", "hello", plain.URL + "/post"}, "POST /post 5 "},
				{"https post", []string{"--cacert", ca, "--data", "hello", secure.URL + "/post"}, "POST /post 5 "},
				{"upload", []string{"--upload-file", big, plain.URL + "/up"}, "PUT /up 3145728 "},
				{"upload chunked", []string{"--header", "Transfer-Encoding: chunked", "--upload-file", big, plain.URL + "/up"}, "PUT /up 3145728 "},
				{"upload with Expect", []string{"--header", "Expect: 100-continue", "--expect100-timeout", "30", "--upload-file", big, plain.URL + "/up"}, "PUT /up 3145728 "},
				{"two on one connection", []string{plain.URL + "/a", plain.URL + "/b"}, "GET /a 0 GET /b 0 "},
			} {
				t.Run(name+" "+tc.name, func(t *testing.T) {
					out, err := curl(t, append(append(append([]string{}, via...), user...), tc.args...)...)
					if err != nil || out != tc.want {
						t.Errorf("got %q, %v, want %q", out, err, tc.want)
					}
				})
			}
			t.Run(name+" anyauth", func(t *testing.T) {
				out, err := curl(t, append(append(append([]string{"--proxy-anyauth"}, via...), user...), "--data", "hello", plain.URL+"/post")...)
				if err != nil || out != "POST /post 5 " {
					t.Errorf("got %q, %v", out, err)
				}
			})
			t.Run(name+" wrong password", func(t *testing.T) {
				out, err := curl(t, append(append([]string{"--proxy-user", "ada:no", "--output", "/dev/null", "--write-out", "%{http_code}"}, via...), plain.URL+"/get")...)
				if err != nil || out != "407" {
					t.Errorf("got %q, %v", out, err)
				}
				out, err = curl(t, append(append([]string{"--proxy-user", "ada:no", "--output", "/dev/null", "--write-out", "%{http_connect}", "--cacert", ca}, via...), secure.URL+"/get")...)
				if err == nil || !strings.Contains(out, "407") {
					t.Errorf("got %q, %v", out, err)
				}
			})
		}
	})
}
