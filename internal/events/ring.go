package events

import (
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Event is an event that has happened.
type Event struct {
	Number uint64 // from 1, without gaps
	Time   time.Time
	Name   string
	Data   map[string]any // it is not changed
}

// Ring keeps the last events of all queues, for people who look. Readers hold nothing of it:
// a slow one misses events. It is safe for concurrent use.
type Ring struct {
	epoch string // tells the numbers of this process from those of the one before

	mu   sync.Mutex
	last uint64           // number of the newest event; guarded by mu
	kept [maxKept]Event   // by number; guarded by mu
	next chan struct{}    // closed with the next event; nil while nobody waits; guarded by mu
	now  func() time.Time // for tests
}

// maxKept is how many events are kept. They are changes of state, not requests.
const maxKept = 512

// NewRing makes a ring without events.
func NewRing() *Ring {
	return &Ring{epoch: strconv.FormatInt(time.Now().UnixNano(), 36), now: time.Now}
}

// Recent is the ring of this process: every queue that has started adds to it.
var Recent = NewRing()

// Add adds an event. It takes a copy of data.
func (r *Ring) Add(name string, data map[string]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	r.kept[r.last%maxKept] = Event{Number: r.last, Time: r.now(), Name: name, Data: maps.Clone(data)}
	if r.next != nil {
		close(r.next)
		r.next = nil
	}
}

// Last is the number of the newest event, 0 if there is none.
func (r *Ring) Last() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// After returns the events after a number, how many of them are not kept any more, and a
// channel that is closed with the next event.
func (r *Ring) After(n uint64) (list []Event, missed uint64, next <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n > r.last {
		n = 0 // not a number of this ring
	}
	first := n + 1
	if r.last > maxKept && first < r.last-maxKept+1 {
		first = r.last - maxKept + 1
		missed = first - (n + 1)
	}
	for i := first; i <= r.last; i++ {
		list = append(list, r.kept[i%maxKept])
	}
	if r.next == nil {
		r.next = make(chan struct{})
	}
	return list, missed, r.next
}

// ID is what a reader remembers an event by.
func (r *Ring) ID(number uint64) string { return r.epoch + "-" + strconv.FormatUint(number, 10) }

// Number returns the number of an event by its ID. One of another process has none: its
// reader has seen nothing of this ring, and its number is 0.
func (r *Ring) Number(id string) (number uint64, ok bool) {
	epoch, text, found := strings.Cut(id, "-")
	number, err := strconv.ParseUint(text, 10, 64)
	if !found || err != nil {
		return 0, false
	}
	if epoch != r.epoch {
		number = 0
	}
	return number, true
}
