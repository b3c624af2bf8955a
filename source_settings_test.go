package egress

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/dial"
)

// as is the context of a request of a user at a client address.
func as(ctx context.Context, user, client string) context.Context {
	repl := caddy.NewEmptyReplacer()
	if user != "" {
		repl.Set("http.auth.user.id", user)
	}
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, repl)
	return context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: client})
}

// Without a user, the client address decides.
func TestSourceByClient(t *testing.T) {
	s := transportSources(t, Transport{
		LocalAddresses:   []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8::3"},
		LocalAddressPick: "user_hash",
	})
	slotOf := func(user, client string) uint32 {
		r := httptest.NewRequest(http.MethodGet, "http://a.example/", nil)
		return newIncoming(new(Handler), nil, r.WithContext(as(t.Context(), user, client))).SlotOf(s)
	}
	if slotOf("alice", "198.51.100.1") != s.Slot("alice") {
		t.Error("the user does not decide")
	}
	one, two := slotOf("", "198.51.100.1"), uint32(0)
	for i := range 50 {
		if two = slotOf("", fmt.Sprintf("198.51.100.%d", i)); two != one {
			break
		}
	}
	if one == two {
		t.Error("all clients have the same address")
	}
}

func transportSources(t *testing.T, tr Transport) *dial.Sources {
	t.Helper()
	tr = tr.withDefaults()
	s, err := tr.localSources()
	if err != nil {
		t.Fatal(err)
	}
	return s
}
