package events

import (
	"testing"
)

// slowEvents are taken by a handler that waits.
type slowEvents struct {
	begun, goOn chan struct{}
	got         chan int
}

func (slowEvents) Wanted(string) bool { return true }

func (e slowEvents) Emit(_ string, data map[string]any) {
	e.begun <- struct{}{}
	<-e.goOn
	e.got <- data["n"].(int)
}

// Where a handler hangs, upstreams that come and go do not fill the memory. The last
// events are told when it goes on.
func TestEvents_HandlerHangs(t *testing.T) {
	const n = 10_000
	e := slowEvents{begun: make(chan struct{}, n), goOn: make(chan struct{}), got: make(chan int, n)}
	q := To(e)
	q.Start()
	q.Add("healthy", map[string]any{"n": 0})
	<-e.begun
	for i := range n {
		q.Add("healthy", map[string]any{"n": i + 1})
	}
	q.mu.Lock()
	waiting := len(q.waiting)
	q.mu.Unlock()
	if waiting != maxWaitingEvents {
		t.Errorf("%d events wait", waiting)
	}
	close(e.goOn)
	if first := <-e.got; first != 0 {
		t.Errorf("the first is %d", first)
	}
	for i := range waiting {
		if got := <-e.got; got != n-waiting+1+i {
			t.Fatalf("%d instead of %d", got, n-waiting+1+i)
		}
	}
}
