package clientend

import (
	"errors"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/origin"
)

// stuckWriter is that of a request whose client takes nothing. Writes end when the
// connection closes and, if it heeds deadlines, when theirs passes.
type stuckWriter struct {
	conn   net.Conn // what the client's end is
	heeds  bool
	passed chan struct{}
}

func (*stuckWriter) Header() http.Header             { return http.Header{} }
func (*stuckWriter) WriteHeader(int)                 {}
func (*stuckWriter) SetReadDeadline(time.Time) error { return nil }
func (w *stuckWriter) Write(p []byte) (int, error)   { return len(p), w.FlushError() }
func (w *stuckWriter) SetWriteDeadline(time.Time) error {
	if w.heeds {
		close(w.passed)
	}
	return nil
}

func (w *stuckWriter) FlushError() error {
	closed := make(chan struct{})
	go func() {
		_, _ = w.conn.Read(make([]byte, 1)) // ends with the connection
		close(closed)
	}()
	select {
	case <-closed:
		return net.ErrClosed
	case <-w.passed:
		return os.ErrDeadlineExceeded
	}
}

func stuckStream(t *testing.T, major int, heeds bool) *Stream {
	server, client := net.Pipe()
	t.Cleanup(func() { server.Close() })
	ctx := origin.WithClient(t.Context(), server)
	r := (&http.Request{ProtoMajor: major, Body: http.NoBody}).WithContext(ctx)
	return NewStream(&stuckWriter{conn: client, heeds: heeds, passed: make(chan struct{})}, r, nil)
}

// A write to a client of HTTP/2 whose connection takes nothing ends soon after the
// tunnel does: with the connection, if nothing else helps.
func TestStream_StuckWrite(t *testing.T) {
	for name, end := range map[string]func(*Stream){
		"closed":  func(s *Stream) { _ = s.Close() },
		"aborted": func(s *Stream) { s.Abort() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := stuckStream(t, 2, false)
				written := make(chan error, 1)
				go func() {
					_, err := s.Write([]byte("x"))
					written <- err
				}()
				synctest.Wait()
				end(s)
				select {
				case err := <-written:
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
				case <-time.After(time.Minute):
					t.Error("the write is stuck")
				}
			})
		})
	}
}

// A client that does not even take the head of the answer is given up.
func TestStream_StuckHead(t *testing.T) {
	for _, major := range []int{2, 3} {
		synctest.Test(t, func(t *testing.T) {
			s := stuckStream(t, major, major == 3)
			sent := make(chan error, 1)
			go func() { sent <- s.SendHead() }()
			select {
			case err := <-sent:
				if err == nil || !s.Closed() {
					t.Errorf("HTTP/%d: %v", major, err)
				}
			case <-time.After(5 * time.Minute):
				t.Errorf("HTTP/%d: stuck", major)
			}
		})
	}
}
