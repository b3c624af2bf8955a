package h1

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// silences notes what it is told, and gives up after some.
type silences struct {
	told []time.Duration
	most int
}

var errSilences = errors.New("enough")

func (s *silences) Silent(d time.Duration) error {
	if s.told = append(s.told, d); len(s.told) == s.most {
		return errSilences
	}
	return nil
}

// Silence within a body is told, and does no harm to it, wherever it is; what its listener
// says ends it. A body that goes on, however slowly, is never silent.
func TestListen(t *testing.T) {
	const interval = 10 * time.Second
	const head = "HTTP/1.1 200 OK\r\n"
	for name, tc := range map[string]struct {
		pieces []string
		pause  time.Duration
		most   int
		want   string
		told   bool
		err    error
	}{
		"busy":            {[]string{head + "Content-Length: 6\r\n\r\n", "ab", "cd", "ef"}, 9 * time.Second, 0, "abcdef", false, nil},
		"silent":          {[]string{head + "Content-Length: 4\r\n\r\n", "ab", "cd"}, 25 * time.Second, 0, "abcd", true, nil},
		"within a chunk":  {[]string{head + "Transfer-Encoding: chunked\r\n\r\n", "4", "\r\nab", "cd\r\n", "0\r\n", "\r\n"}, 25 * time.Second, 0, "abcd", true, nil},
		"until the end":   {[]string{head + "\r\n", "ab", "cd"}, 25 * time.Second, 0, "abcd", true, nil},
		"given up":        {[]string{head + "Content-Length: 4\r\n\r\nab", "cd"}, time.Hour, 3, "ab", true, errSilences},
		"given up, chunk": {[]string{head + "Transfer-Encoding: chunked\r\n\r\n4\r", "\nabcd"}, time.Hour, 3, "", true, errSilences},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					defer far.Close()
					for i, piece := range tc.pieces {
						if i > 0 {
							time.Sleep(tc.pause)
						}
						if _, err := io.Copy(far, strings.NewReader(piece)); err != nil {
							return
						}
					}
				}()
				c := NewConn(near)
				c.Begin()
				hd := new(Head)
				if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
					t.Fatal(err)
				}
				if err := c.ReadHead(hd, 1<<16); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Frame(hd, "GET"); err != nil {
					t.Fatal(err)
				}
				s := &silences{most: tc.most}
				c.Listen(interval, s)
				body, err := io.ReadAll(c.Body())
				if string(body) != tc.want || err != tc.err || (len(s.told) > 0) != tc.told {
					t.Errorf("%q, %v, told of %v", body, err, s.told)
				}
				for i, d := range s.told {
					if d < interval || tc.most > 0 && d < time.Duration(i+1)*interval {
						t.Errorf("told of %v", s.told)
					}
				}
				c.End()
				near.Close()
				<-ended
			})
		})
	}
}
