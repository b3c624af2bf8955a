package exchange

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A limit for bodies, in whatever wrappers, does not hold for a tunnel; where there is
// none, nothing is gone around. This fails where net/http's reader is not what sizeLimit
// takes it for.
func TestTunnelBody(t *testing.T) {
	body := func() io.ReadCloser { return io.NopCloser(strings.NewReader("whole")) }
	limited := func() io.ReadCloser {
		return struct{ io.ReadCloser }{http.MaxBytesReader(httptest.NewRecorder(), struct{ io.ReadCloser }{body()}, 3)}
	}
	for name, tc := range map[string]struct {
		body  io.ReadCloser
		below io.Reader
		want  string
	}{
		"no limit":       {body(), strings.NewReader("below"), "whole"},
		"limit":          {limited(), strings.NewReader("below"), "below"},
		"below unknown":  {limited(), nil, "who"},
		"nothing at all": {body(), nil, "whole"},
	} {
		r := &http.Request{ProtoMajor: 2, Body: tc.body}
		if got, _ := io.ReadAll(TunnelBody(r, tc.below)); string(got) != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
