package exchange

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/h1"
)

// Informational responses are no sign of an end, but one of life: each lets the origin
// take as long again as it may for a head, up to three times that in all.
func TestInformationalResponsesExtendTheWait(t *testing.T) {
	const timeout = 10 * time.Second
	for _, tc := range []struct {
		name   string
		pauses []time.Duration // before each 102, and before the answer
		late   bool
	}{
		{"none, in time", []time.Duration{9 * time.Second}, false},
		{"none, late", []time.Duration{11 * time.Second}, true},
		{"one", []time.Duration{9 * time.Second, 9 * time.Second}, false},
		{"one, then silence", []time.Duration{time.Second, 11 * time.Second}, true},
		{"many quick ones", append(make([]time.Duration, 500), 9*time.Second), false},
		{"up to the last", []time.Duration{9 * time.Second, 9 * time.Second, 9 * time.Second, 2 * time.Second}, false},
		{"for too long", []time.Duration{9 * time.Second, 9 * time.Second, 9 * time.Second, 4 * time.Second}, true},
	} {
		for _, body := range []string{"", "body"} {
			t.Run(tc.name+" "+body, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tx := exchangeOf(t, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n")
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					tx.HTTP, tx.Writer = tx.HTTP.WithContext(ctx), httptest.NewRecorder()
					tx.Config.HeadTimeout = timeout
					near, far := net.Pipe()
					var origin sync.WaitGroup
					defer origin.Wait()
					defer near.Close()
					defer far.Close()
					origin.Go(func() {
						go func() { _, _ = io.Copy(io.Discard, far) }()
						for i, pause := range tc.pauses {
							time.Sleep(pause)
							head := "HTTP/1.1 102 Processing\r\n\r\n"
							if i == len(tc.pauses)-1 {
								head = "HTTP/1.1 207 Multi-Status\r\nContent-Length: 0\r\n\r\n"
							}
							_, _ = io.WriteString(far, head)
						}
					})
					c := h1.NewConn(near)
					c.Begin()
					if body != "" {
						tx.BodyRead = false
						tx.HTTP.ContentLength, tx.HTTP.Method = int64(len(body)), "PUT"
						tx.Reader = &once{text: body}
						tx.upload = newUpload(tx)
					}
					hd := new(h1.Head)
					err := tx.readFinalHead(c, hd, &watch{ctx: ctx, conn: c})
					if tx.upload != nil {
						_ = c.Close()
						<-tx.upload.done
					}
					switch {
					case tc.late && !errors.Is(err, os.ErrDeadlineExceeded):
						t.Errorf("status %d, %v: want a timeout", hd.Status, err)
					case !tc.late && (err != nil || hd.Status != 207):
						t.Errorf("status %d, %v", hd.Status, err)
					}
				})
			})
		}
	}
}

// once is a body that is read once.
type once struct{ text string }

func (o *once) Read(p []byte) (int, error) {
	n := copy(p, o.text)
	if o.text = o.text[n:]; o.text == "" {
		return n, io.EOF
	}
	return n, nil
}
