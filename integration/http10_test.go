package integration

import "testing"

// RFC 1945 §7.2.2: a request on HTTP/1.0 with a body has a Content-Length. net/http drops
// Transfer-Encoding there, and the body with it: such a request is not forwarded without.
func TestHTTP10_NoLength(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, saw := recorder(t, okResponse)
		for _, tc := range []struct {
			method, rest string
			want         int
		}{
			{"POST", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 400},
			{"POST", "\r\n", 400},
			{"PUT", "\r\n", 400},
			{"PATCH", "\r\n", 400},
			{"POST", "Content-Length: 0\r\n\r\n", 200},
			{"POST", "Content-Length: 5\r\n\r\nhello", 200},
			{"GET", "\r\n", 200},
			{"OPTIONS", "\r\n", 200},
			{"DELETE", "\r\n", 400}, // so that no body is lost that it may have
		} {
			eachH1(t, func(t *testing.T, kind string) {
				raw := p.dialH1(t, kind)
				resp := raw.roundTrip(tc.method, tc.method+" "+origin.url("/")+" HTTP/1.0\r\n"+tc.rest)
				if resp.StatusCode != tc.want {
					t.Errorf("%s %q: %d", tc.method, tc.rest, resp.StatusCode)
				}
				raw.expectClosed()
				if resp.StatusCode == 200 {
					await(t, saw, "the request")
				}
			})
		}
		if len(saw) > 0 {
			t.Errorf("the origin saw %q", (<-saw).head)
		}
	})
}
