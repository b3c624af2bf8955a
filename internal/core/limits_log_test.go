package core

import (
	"testing"
	"time"

	"go.uber.org/zap"
)

// That a limit refuses is told once until it has refused nobody for a while, over
// configurations too. Another handler's is another limit.
func TestLimitLog_TellsOnce(t *testing.T) {
	told := 0
	begin := func(place string) *LimitLog {
		l := new(LimitLog)
		if err := l.Tell(t.Name()+place, func(string, Client) { told++ }); err != nil {
			t.Fatal(err)
		}
		return l
	}
	now := time.Now()
	expect := func(when string, want int, l *LimitLog, after time.Duration) {
		t.Helper()
		told = 0
		now = now.Add(after)
		if l.tell("tunnel.max_tunnels", nil, now); told != want {
			t.Errorf("%s: told %d times, want %d", when, told, want)
		}
	}
	first := begin("a")
	expect("at first", 1, first, 0)
	expect("again", 0, first, time.Second)
	second := begin("a")
	expect("after a reload", 0, second, time.Second)
	first.End(zap.NewNop())
	expect("without the one before", 0, second, time.Second)
	expect("after a while", 1, second, limitQuiet)
	other := begin("b")
	expect("another handler", 1, other, 0)
	other.End(zap.NewNop())
	second.End(zap.NewNop())
	last := begin("a")
	expect("a handler that was gone", 1, last, time.Second)
	last.End(zap.NewNop())
}
