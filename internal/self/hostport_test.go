package self

import (
	"testing"
)

func TestParseHostPort(t *testing.T) {
	for s, want := range map[string]HostPort{
		"admin.internal:2019": {Host: "admin.internal", Port: 2019},
		":2019":               {Host: "", Port: 2019},
		"[::1]:65535":         {Host: "::1", Port: 65535},
	} {
		if got, err := ParseHostPort(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "x", "x:", "x:-1", "x:http", "::1:80", "x:1:2"} {
		if got, err := ParseHostPort(s); err == nil {
			t.Errorf("%q: accepted as %+v", s, got)
		}
	}
}
