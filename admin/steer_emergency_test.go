package admin

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/orders"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// hanging is a storage that does not answer before it is told to.
type hanging struct{ answer chan struct{} }

func (hanging) Runs() bool                           { return true }
func (hanging) Name() string                         { return "hanging" }
func (hanging) Load(context.Context) ([]byte, error) { return nil, nil }
func (h hanging) Change(_ context.Context, change func([]byte) ([]byte, error)) error {
	<-h.answer
	_, err := change(nil)
	return err
}

// silent is a side of a tunnel that sends nothing.
type silent struct {
	closed <-chan struct{}
	close  func()
}

func newSilent() silent {
	closed := make(chan struct{})
	return silent{closed, sync.OnceFunc(func() { close(closed) })}
}

func (s silent) Read([]byte) (int, error)  { <-s.closed; return 0, io.EOF }
func (silent) Write(b []byte) (int, error) { return len(b), nil }
func (silent) CloseWrite() error           { return nil }
func (s silent) Close() error              { s.close(); return nil }

// An emergency ends tunnels whether storage answers or not.
func TestEmergency_StorageHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		use, err := tunnels.Acquire("test", zap.NewNop)
		if err != nil {
			t.Fatal(err)
		}
		defer use.Release()
		slot, err := use.Take("", "", tunnels.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		r := relay.New(newSilent(), newSilent(), relay.Config{})
		slot.Follow(r, tunnels.Asked{}, netip.Addr{}, nil, time.Hour)
		moved := slot.Move()
		r.Start(func(relay.Result) { moved.Release(); close(ended) })

		storage := hanging{make(chan struct{})}
		if _, err := orders.Of.Keep(t.Context(), storage); err != nil {
			t.Fatal(err)
		}
		ask := func(method, body string, do func(*call) (any, error)) *EmergencyState {
			req := httptest.NewRequest(method, "/egress/emergency", strings.NewReader(body))
			m, path, err := find(nil, req)
			if err != nil {
				t.Fatal(err)
			}
			c, err := newCall(httptest.NewRecorder(), req, m, path)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := do(c)
			if err != nil {
				t.Fatal(err)
			}
			return answer.(*EmergencyState)
		}
		answered := make(chan *EmergencyState)
		go func() { answered <- ask(http.MethodPut, `{"end_tunnels":true}`, orderEmergency) }()
		select {
		case <-ended:
		case <-answered:
			t.Error("the tunnel waits for storage")
		}
		if orders.Of.Emergency() == nil {
			t.Error("there is no emergency")
		}
		if s := <-answered; *s.Order.Stored || *s.Ended != 1 {
			t.Errorf("%+v", s)
		}
		close(storage.answer)
		if s := ask(http.MethodDelete, "", endEmergency); s.On || !*s.Order.Stored {
			t.Errorf("%+v", s)
		}
	})
}
