package sse

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// serve serves with f, on a server whose own deadlines are short.
func serve(t *testing.T, h2 bool, f http.HandlerFunc) (*http.Response, func()) {
	t.Helper()
	s := httptest.NewUnstartedServer(f)
	s.EnableHTTP2 = h2
	s.Config.ReadTimeout, s.Config.WriteTimeout = 300*time.Millisecond, 300*time.Millisecond
	if h2 {
		s.StartTLS()
	} else {
		s.Start()
	}
	resp, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Error(got)
	}
	return resp, func() { resp.Body.Close(); s.CloseClientConnections(); s.Close() }
}

// A stream goes on behind the deadlines of its server, and its events are as the standard
// has them.
func TestStream(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		deadlines := make(chan time.Time, 1)
		resp, stop := serve(t, h2, func(w http.ResponseWriter, _ *http.Request) {
			s, err := Begin(w)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Send("1-1", "a", []byte("x\r\ny")); err != nil {
				t.Error(err)
			}
			<-deadlines
			if err := s.Send("", "", []byte("z")); err != nil {
				t.Error(err)
			}
		})
		lines := bufio.NewReader(resp.Body)
		var got strings.Builder
		for strings.Count(got.String(), "\n") < 7 {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			got.WriteString(line)
		}
		deadlines <- <-time.After(time.Second) // both deadlines of the server are over
		rest, err := io.ReadAll(lines)
		if all := got.String() + string(rest); err != nil || all != ":\n\nid: 1-1\nevent: a\ndata: x\ndata: y\n\ndata: z\n\n" {
			t.Errorf("HTTP/2 %v: %v, %q", h2, err, all)
		}
		stop()
	}
}

// A client that takes nothing is dropped.
func TestStream_SlowReader(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		failed := make(chan error, 1)
		_, stop := serve(t, h2, func(w http.ResponseWriter, _ *http.Request) {
			s, err := Begin(w)
			s.patience = 50 * time.Millisecond
			for data := bytes.Repeat([]byte{'x'}, 1<<20); err == nil; {
				err = s.Send("", "", data)
			}
			failed <- err
		})
		select {
		case <-failed:
		case <-time.After(30 * time.Second):
			t.Errorf("HTTP/2 %v: the client is waited for", h2)
		}
		stop()
	}
}
