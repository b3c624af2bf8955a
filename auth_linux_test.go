package egress

import (
	"testing"

	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// The client that a login waits for is that of the request's connection.
func TestAuthHungUp(t *testing.T) {
	client, server := fixture.TCPEnds(t)
	gone := hungUp(origin.WithClient(t.Context(), server))
	if gone() || hungUp(t.Context())() {
		t.Error("a client that is there is taken for gone")
	}
	client.Close()
	fixture.WaitFor(t, "seen to have left", gone)
}
