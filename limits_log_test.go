package egress

import (
	"net/http/httptest"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// However many requests are shed, one line a second tells of each reason at Warn, with
// the number of those that it stands for; at Debug each has its line.
func TestLimitLog(t *testing.T) {
	const pause = time.Second // between two lines for one reason
	synctest.Test(t, func(t *testing.T) {
		tx, logs := failing(nil, "GET")
		shed := func(err error, times int) {
			for range times {
				next := newIncoming(tx.h, httptest.NewRecorder(), tx.HTTP)
				next.Use, next.Target, next.BodyRead = tx.Use, tx.Target, true
				if err := next.finish(err); err != nil {
					t.Fatal(err)
				}
			}
		}
		expect := func(when string, lines, debug int, withheld int64) {
			t.Helper()
			warned := logs.FilterLevelExact(zap.WarnLevel).All()
			if len(warned) != lines || logs.FilterLevelExact(zap.DebugLevel).Len() != debug {
				t.Fatalf("%s: %d lines at Warn and %d at Debug, want %d and %d", when, len(warned), logs.Len()-len(warned), lines, debug)
			}
			if got, _ := warned[lines-1].ContextMap()["withheld"].(int64); got != withheld {
				t.Errorf("%s: %d withheld, want %d", when, got, withheld)
			}
			logs.TakeAll()
		}
		pending := &connpool.LimitError{Scope: connpool.ScopePending}
		shed(pending, 1000)
		expect("the first burst", 1, 999, 0)
		time.Sleep(pause - 1)
		shed(pending, 1)
		shed(failure.Limit.Because(tunnels.ErrMax), 1)
		expect("another reason within the second", 1, 1, 0)
		shed(opError(syscall.EMFILE), 2)
		expect("a third", 1, 1, 0)
		time.Sleep(time.Nanosecond)
		shed(pending, 3)
		expect("after a second", 1, 2, 1000)
		shed(failure.LocalAddress, 2)
		if n := logs.FilterLevelExact(zap.ErrorLevel).Len(); n != 2 {
			t.Errorf("%d lines at Error, want both", n)
		}
		logs.TakeAll()
		time.Sleep(pause)
		shed(pending, 1)
		expect("a second later", 1, 0, 2)
	})
}
