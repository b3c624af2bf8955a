package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/events"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/sse"
)

// This file contains the stream of events.

// Event is something that has happened.
type Event struct {
	Time time.Time `json:"time" doc:"When it happened."`
	// It is the name of Caddy's event too.
	Event string         `json:"event" doc:"What it is: healthy, unhealthy, circuit_open, circuit_closed, auth_failed, group_down, group_up, panic_on, panic_off, suspect, source_failed, source_recovered, rules_reloaded, rules_rejected, reloaded, limit_reached, admin_changed, emergency_on, emergency_off; missed where events were lost for this reader."`
	Data  map[string]any `json:"data" doc:"What it is about: group, upstream and reason; by, reason and until; and so on."`
}

// streamed is an answer that is sent as it comes.
type streamed func(w http.ResponseWriter) error

// maxReaders bounds those that follow events at once.
const maxReaders = 64

var readers atomic.Int64

var recent = flag("recent", "Whether to begin with the events that are remembered (512 at most). Default: false.")

// streamEvents follows events until the client goes, the configuration changes, or the
// process exits.
func streamEvents(c *call) (any, error) {
	from := events.Recent.Last()
	if id := c.r.Header.Get("Last-Event-ID"); id != "" {
		n, ok := events.Recent.Number(id)
		if !ok {
			return nil, apiError(http.StatusBadRequest,
				fmt.Errorf("field Last-Event-ID: '%s' is not the id of an event", plaintext.Short(id, maxText)))
		}
		from = n
	} else if asked[bool](c, "recent") {
		from = 0
	}
	return streamed(func(w http.ResponseWriter) error {
		if readers.Add(1) > maxReaders {
			readers.Add(-1)
			return apiError(http.StatusServiceUnavailable, fmt.Errorf("%d others follow events already; try again when one has gone", maxReaders))
		}
		defer readers.Add(-1)
		return follow(c.r.Context(), w, events.Recent, from, endOf(c.r))
	}), nil
}

// follow sends events after a number. What went wrong is nobody's business: the client has
// gone, or takes nothing.
func follow(ctx context.Context, w http.ResponseWriter, ring *events.Ring, from uint64, end <-chan struct{}) error {
	s, err := sse.Begin(w)
	beat := time.NewTicker(sse.Heartbeat)
	defer beat.Stop()
	config := activeConfig()
	for err == nil {
		list, missed, next := ring.After(from)
		if missed > 0 {
			err = s.Send("", "missed", encode(Event{Time: time.Now(), Event: "missed", Data: map[string]any{"events": missed}}))
		}
		for i := 0; i < len(list) && err == nil; i++ {
			from = list[i].Number
			err = s.Send(ring.ID(from), list[i].Name, encode(eventOf(&list[i])))
		}
		if err != nil {
			break
		}
		select {
		case <-next:
		case <-beat.C:
			if config != activeConfig() {
				return nil // the server ended before it was asked to tell
			}
			err = s.Beat()
		case <-end:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
	if errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

func eventOf(e *events.Event) Event {
	out := Event{Time: e.Time, Event: e.Name, Data: e.Data}
	if out.Data == nil {
		out.Data = map[string]any{}
	}
	return out
}

// encode makes JSON of an event, all of whose values are our own.
func encode(e Event) []byte {
	text, err := json.Marshal(e)
	if err != nil {
		text, _ = json.Marshal(Event{Time: e.Time, Event: e.Event, Data: map[string]any{}}) // no error
	}
	return text
}

// activeConfig is what tells the active configuration from others; nil if there is none.
func activeConfig() <-chan struct{} {
	if ctx := caddy.ActiveContext().Context; ctx != nil {
		return ctx.Done()
	}
	return nil
}

// ends are channels that are closed when a server of the admin endpoint begins to shut down,
// which it does at each reload and at exit. It would wait for streams otherwise.
var ends struct {
	mu sync.Mutex
	of map[*http.Server]chan struct{}
}

// endOf is closed when the server that serves a request shuts down.
func endOf(r *http.Request) <-chan struct{} {
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	if server == nil {
		return nil
	}
	ends.mu.Lock()
	defer ends.mu.Unlock()
	if end := ends.of[server]; end != nil {
		return end
	}
	if ends.of == nil {
		ends.of = make(map[*http.Server]chan struct{})
	}
	end := make(chan struct{})
	ends.of[server] = end
	server.RegisterOnShutdown(func() {
		ends.mu.Lock()
		defer ends.mu.Unlock()
		if ends.of[server] == end {
			delete(ends.of, server)
			close(end)
		}
	})
	return end
}
