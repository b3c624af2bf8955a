package relay

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// event is what happens to a tunnel at a time.
type event struct {
	After time.Duration // from the event before
	Side  int           // 0 client, 1 origin
	Send  int           // bytes; 0: the side ends its direction
}

// timedModel is when and why a tunnel with limits should end. It knows nothing of
// goroutines, timers and streams.
type timedModel struct {
	cfg    Config
	now    time.Duration
	last   time.Duration // of the last byte
	linger time.Duration // since when one side has ended; negative: not yet
	ended  []int         // the sides that have, in order
	moved  [2]int64
	resets [2]bool // what the sides should see at last: client, origin
}

// deadline is the earliest limit; a tie goes to the one that stands first.
func (m *timedModel) deadline() (at time.Duration, why Reason) {
	limits := []struct {
		on  bool
		at  time.Duration
		why Reason
	}{
		{m.cfg.Lifetime > 0, m.cfg.Lifetime, ReasonLifetime},
		{m.cfg.IdleTimeout > 0, m.last + m.cfg.IdleTimeout, ReasonIdle},
		{m.cfg.HalfCloseTimeout > 0 && m.linger >= 0, max(m.linger, m.last) + m.cfg.HalfCloseTimeout, ReasonHalfClose},
	}
	at = -1
	for _, l := range limits {
		if l.on && (at < 0 || l.at < at) {
			at, why = l.at, l.why
		}
	}
	return at, why
}

// cut tells which sides must see a reset when a limit or an operator ends the tunnel:
// those that have not got all of the other one, but for a tunnel that was at rest.
func (m *timedModel) cut(at time.Duration, why Reason) (sides [2]bool) {
	quiet := why == ReasonIdle || m.moved == [2]int64{} || at-m.last >= restTime
	if len(m.ended) == 0 && quiet {
		return sides
	}
	for side := range sides {
		sides[side] = !slices.Contains(m.ended, 1-side)
	}
	return sides
}

// run goes through the events and returns what the relay should.
func (m *timedModel) run(events []event) Result {
	result := func(at time.Duration, why Reason) Result {
		m.resets = m.cut(at, why)
		return Result{BytesUp: m.moved[0], BytesDown: m.moved[1], Reason: why, Duration: at}
	}
	m.linger = -1
	for _, e := range events {
		m.now += e.After
		if at, why := m.deadline(); at >= 0 && at < m.now {
			return result(at, why)
		}
		switch {
		case slices.Contains(m.ended, e.Side):
		case e.Send > 0:
			m.moved[e.Side] += int64(e.Send)
			m.last = m.now
		default:
			if m.ended = append(m.ended, e.Side); len(m.ended) == 2 {
				return result(m.now, ReasonClient+Reason(m.ended[0]))
			}
			m.linger = m.now
		}
	}
	if at, why := m.deadline(); at >= 0 {
		return result(at, why)
	}
	return result(m.now, ReasonAdmin) // nothing would end it: the test does
}

// TestTimedModel is scenario 19 and 20 and all that lies around: whoever ends
// first, the rest still arrives until the half-close timer; a byte now and then
// keeps a tunnel open, silence closes it; counts and times are exact.
func TestTimedModel(t *testing.T) {
	seconds := func(most int) *rapid.Generator[time.Duration] {
		return rapid.Map(rapid.IntRange(0, most), func(n int) time.Duration { return time.Duration(n) * time.Second })
	}
	rapid.Check(t, func(rt *rapid.T) {
		cfg := Config{
			IdleTimeout:      seconds(90).Draw(rt, "idle"),
			HalfCloseTimeout: seconds(90).Draw(rt, "half-close"),
			Lifetime:         10 * seconds(60).Draw(rt, "lifetime"),
		}
		events := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) event {
			return event{
				// No event falls on a limit.
				After: seconds(60).Draw(rt, "after") + time.Microsecond,
				Side:  rapid.IntRange(0, 1).Draw(rt, "side"),
				Send:  rapid.SampledFrom([]int{0, 1, 1, 1, smallSize, bufferSize + 1}).Draw(rt, "send"),
			}
		}), 0, 30).Draw(rt, "events")
		model := &timedModel{cfg: cfg}
		want := model.run(events)
		var got Result
		var arrived [2]int64
		var resets [2]bool
		synctest.Test(t, func(t *testing.T) { got, arrived, resets = play(t, cfg, events) })
		if got != want {
			rt.Errorf("result %+v; want %+v", got, want)
		}
		if resets != model.resets {
			rt.Errorf("client and origin see a reset: %v; want %v", resets, model.resets)
		}
		if arrived != [2]int64{want.BytesUp, want.BytesDown} {
			rt.Errorf("%d bytes arrived; want %d and %d", arrived, want.BytesUp, want.BytesDown)
		}
	})
}

// play lets the events happen to a real relay between two fakes.
func play(t *testing.T, cfg Config, events []event) (result Result, arrived [2]int64, resets [2]bool) {
	links := [2]link{fakeLink(t), fakeLink(t)}
	var received [2]chan int64
	for i, to := range []Stream{links[1].far, links[0].far} {
		received[i] = make(chan int64, 1)
		go func() {
			n, err := io.Copy(io.Discard, struct{ io.Reader }{to})
			resets[1-i] = errors.Is(err, syscall.ECONNRESET)
			if err != nil && !resets[1-i] {
				t.Errorf("side %d sees %v", 1-i, err)
			}
			received[i] <- n
		}()
	}
	results := make(chan Result, 1)
	r := New(links[0].near, links[1].near, cfg)
	r.Start(func(res Result) { results <- res })
	var ended [2]bool
	for _, e := range events {
		time.Sleep(e.After)
		synctest.Wait()
		switch {
		case len(results) > 0 || ended[e.Side]:
		case e.Send > 0:
			_, _ = links[e.Side].far.Write(make([]byte, e.Send))
		default:
			ended[e.Side] = true
			_ = links[e.Side].far.CloseWrite()
		}
		synctest.Wait()
	}
	if cfg.IdleTimeout == 0 && cfg.Lifetime == 0 && (cfg.HalfCloseTimeout == 0 || ended == [2]bool{}) && len(results) == 0 {
		r.End(ReasonAdmin)
	}
	result = <-results
	arrived = [2]int64{<-received[0], <-received[1]}
	return result, arrived, resets
}

func (e event) String() string {
	return fmt.Sprintf("+%v side %d sends %d", e.After, e.Side, e.Send)
}
