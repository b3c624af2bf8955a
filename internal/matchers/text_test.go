package matchers

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestTexts(t *testing.T) {
	sets := caddyhttp.RawMatcherSets{
		{"host": []byte(`[ "*.example.com" ]`), "header": []byte(`{"X-Token":["s3cret"],"Accept":null}`)},
		{"expression": []byte(`"{http.request.header.X} == 's3cret'"`)},
		{},
	}
	want := `header Accept X-Token, host ["*.example.com"] | expression | `
	if got := strings.Join(Texts(sets), " | "); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
