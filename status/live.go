package status

import (
	"bytes"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/events"
	"github.com/caddy-egress/egress/internal/sse"
)

// This file contains how a page that is open is kept up to date: what it shows is sent anew
// when something has happened, and every few seconds for rates and times.

const (
	refreshPause = 5 * time.Second
	// settle is the least time between two states of a page.
	settle = 200 * time.Millisecond
	// maxViewers bounds the pages of a handler that are open.
	maxViewers = 32
)

// viewers are those who have the page open, and what they were shown last: it is made once
// for all of them.
type viewers struct {
	mu    sync.Mutex
	n     int       // guarded by mu
	at    time.Time // when shown was made; guarded by mu
	event uint64    // the last event that shown knows of; guarded by mu
	shown []byte    // guarded by mu
}

func (v *viewers) enter() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.n == maxViewers {
		return false
	}
	v.n++
	return true
}

func (v *viewers) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.n--; v.n == 0 {
		v.shown = nil
	}
}

// fragment is the part of the page that changes.
func (v *viewers) fragment() ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if last := events.Recent.Last(); v.shown == nil || v.event != last || time.Since(v.at) >= refreshPause/2 {
		view, err := look()
		if err != nil {
			return nil, err
		}
		var buf bytes.Buffer
		if err := templates.ExecuteTemplate(&buf, "live", view); err != nil {
			return nil, err
		}
		v.shown, v.at, v.event = buf.Bytes(), time.Now(), last
	}
	return v.shown, nil
}

// serveLive sends what a page shows until its reader goes, or the server shuts down.
func (s *Status) serveLive(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", "text/event-stream")
		return nil
	}
	if !s.viewers.enter() {
		w.Header().Set("Retry-After", "10")
		return caddyhttp.Error(http.StatusServiceUnavailable, errors.New("egress_status: too many pages are open"))
	}
	defer s.viewers.leave()
	stream, err := sse.Begin(w)
	if err != nil {
		return nil // the client has gone
	}
	pause := time.NewTicker(refreshPause)
	defer pause.Stop()
	for {
		_, _, next := events.Recent.After(events.Recent.Last())
		shown, err := s.viewers.fragment()
		if err != nil {
			return err
		}
		if stream.Send("", "page", shown) != nil {
			return nil
		}
		select {
		case <-time.After(settle):
		case <-s.end:
			return nil
		case <-r.Context().Done():
			return nil
		}
		select {
		case <-next:
		case <-pause.C:
		case <-s.end:
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}
