package relay

import (
	"errors"
	"io"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

// model is what a tunnel should be after any sequence of events.
type model struct {
	open  [2]bool // client, origin: may still send
	moved [2]int64
	first Reason
	end   Reason // 0 while the tunnel lives
}

// TestModel lets clients, origins and operators do as they like, one after the
// other, and compares counts, ends and reasons with the model.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		client, origin := fakeLink(t), fakeLink(t)
		far := [2]*fake{client.far.(*fake), origin.far.(*fake)}
		r := New(client.near, origin.near, Config{})
		results := make(chan Result, 2)
		r.Start(func(res Result) { results <- res })
		m := model{open: [2]bool{true, true}}
		side := func() int { return rapid.IntRange(0, 1).Draw(rt, "side") }

		for m.end == 0 {
			switch rapid.SampledFrom([]string{"send", "send", "send", "end", "abort", "close"}).Draw(rt, "event") {
			case "send":
				s := side()
				n := rapid.SampledFrom([]int{1, smallSize, smallSize + 1, bufferSize, 50_000}).Draw(rt, "n")
				if m.open[s] {
					m.moved[s] += int64(n)
					exchange(rt, far[s], far[1-s], n)
				}
			case "end":
				s := side()
				if !m.open[s] {
					break
				}
				m.open[s] = false
				if m.first == 0 {
					m.first = ReasonClient + Reason(s)
				}
				if !m.open[1-s] {
					m.end = m.first
				}
				_ = far[s].CloseWrite()
				expectEnd(rt, far[1-s], io.EOF)
			case "abort":
				s := side()
				if !m.open[s] {
					break // its end has been seen, the reset is nobody's news
				}
				m.end = (ReasonClient + Reason(s)).broken()
				far[s].Abort()
				expectEnd(rt, far[1-s], syscall.ECONNRESET)
			case "close":
				m.end = ReasonPolicy
				r.End(ReasonPolicy)
			}
		}
		res := <-results
		if res.Reason != m.end || res.BytesUp != m.moved[0] || res.BytesDown != m.moved[1] {
			rt.Fatalf("result %+v; want %v, %d up, %d down", res, m.end, m.moved[0], m.moved[1])
		}
		for _, s := range []Stream{client.near, origin.near} {
			calls := s.(*fake).called()
			if last := calls[len(calls)-1]; last != "Close" && last != "Abort" || len(calls) > 2 {
				rt.Fatalf("calls %v", calls)
			}
		}
	})
}

// exchange sends n bytes and reads them at the other end.
func exchange(rt *rapid.T, from, to *fake, n int) {
	failed := make(chan error, 1)
	go func() {
		_, err := from.Write(make([]byte, n))
		failed <- err
	}()
	_, err := io.CopyN(io.Discard, to, int64(n))
	if err := errors.Join(err, <-failed); err != nil {
		rt.Fatalf("%d bytes: %v", n, err)
	}
}

func expectEnd(rt *rapid.T, s *fake, want error) {
	if n, err := s.Read(make([]byte, 1)); n != 0 || !errors.Is(err, want) {
		rt.Fatalf("read %d bytes, %v; want %v", n, err, want)
	}
}
