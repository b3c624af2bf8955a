package sse

import (
	"bytes"
	"net/http"
	"time"
)

// Heartbeat is the pause after which a comment is sent, so that a client, and what is
// between, knows that the stream goes on.
const Heartbeat = 15 * time.Second

// writeTimeout is how long a client may take none of what was sent. It is dropped then.
const writeTimeout = 10 * time.Second

// Stream is the response to one client. It is not safe for concurrent use.
type Stream struct {
	w http.ResponseWriter
	c *http.ResponseController

	patience time.Duration // writeTimeout, but in tests

	buf bytes.Buffer
}

// Begin sends the head of a response that goes on until its handler returns: the deadlines
// of the server do not end it.
func Begin(w http.ResponseWriter) (*Stream, error) {
	s := &Stream{w: w, c: http.NewResponseController(w), patience: writeTimeout}
	_ = s.c.SetReadDeadline(time.Time{}) // where there is none, it ends nothing
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	return s, s.Beat()
}

// Send sends an event. Of id and name, "" is for none.
func (s *Stream) Send(id, name string, data []byte) error {
	s.buf.Reset()
	field := func(name, value string) {
		if value != "" {
			s.buf.WriteString(name + ": " + value + "\n")
		}
	}
	field("id", id)
	field("event", name)
	for line := range bytes.SplitSeq(data, []byte{'\n'}) {
		s.buf.WriteString("data: ")
		s.buf.Write(bytes.ReplaceAll(line, []byte{'\r'}, nil)) // it would end the line
		s.buf.WriteByte('\n')
	}
	s.buf.WriteByte('\n')
	return s.flush()
}

// Beat sends a comment, which clients ignore.
func (s *Stream) Beat() error {
	s.buf.Reset()
	s.buf.WriteString(":\n\n")
	return s.flush()
}

func (s *Stream) flush() error {
	_ = s.c.SetWriteDeadline(time.Now().Add(s.patience))
	if _, err := s.w.Write(s.buf.Bytes()); err != nil {
		return err
	}
	if err := s.c.Flush(); err != nil {
		return err
	}
	return s.c.SetWriteDeadline(time.Time{}) // on HTTP/2, it would end the stream while it is at rest
}
