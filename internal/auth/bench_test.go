package auth

import (
	"net/http"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

func BenchmarkAuth(b *testing.B) {
	a := newTest(b, User{"hashed", fixture.Bcrypt4}, User{"plain", "secret"})
	plainOnly := newTest(b, User{"plain", "secret"})
	for _, bc := range []struct {
		name   string
		auth   *Users
		header http.Header
		want   Failure
	}{
		{"remembered", a, fixture.BasicLogin("hashed", "secret"), ""},
		{"plain", a, fixture.BasicLogin("plain", "secret"), ""},
		{"plain_only_failure", plainOnly, fixture.BasicLogin("eve", "secret"), UnknownUser},
		{"missing", a, http.Header{}, Missing},
	} {
		b.Run(bc.name, func(b *testing.B) {
			if _, _, failed := bc.auth.authenticate(bc.header); failed != bc.want {
				b.Fatal(failed)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					bc.auth.authenticate(bc.header)
				}
			})
		})
		b.Run(bc.name+"_serial", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bc.auth.authenticate(bc.header)
			}
		})
	}
}
