package exchange

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/target"
)

// readerFunc is a reader of one function.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestUpload_KeptWhole: an attempt that fails while the last piece of a body is on
// its way from the client leaves the whole of it to be sent again, never a part.
func TestUpload_KeptWhole(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	c := h1.NewConn(ours)
	c.Begin()
	defer c.End()
	tr := newExchange(&http.Request{Method: http.MethodPut, ProtoMajor: 1, ProtoMinor: 1}, target.Target{})
	tr.Config.HeadTimeout = time.Minute
	u := &upload{t: tr, length: 10}
	pieces := []string{"hello", "world"}
	tr.Reader = readerFunc(func(p []byte) (int, error) {
		if len(pieces) == 1 { // the attempt ends meanwhile
			u.drop.Store(true)
			_ = c.Close()
		}
		n := copy(p, pieces[0])
		pieces = pieces[1:]
		return n, nil
	})
	u.start(c)
	<-u.done
	if !u.Replayable() || string(u.kept) != "helloworld" {
		t.Errorf("replayable %v, kept %q", u.Replayable(), u.kept)
	}
}
