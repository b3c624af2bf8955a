//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// load is one run of the generator: what it does and how often. It travels from
// parent to part as JSON.
type load struct {
	Do    string // a key of operations
	Proxy string // where to connect to
	To    string // the origin's listener: what the proxy is asked for
	Conns int    // how many at once
	N     int64  // how often, by all of them together

	Size  int64 `json:",omitempty"` // of the response body, or of what a tunnel brings
	Post  int64 `json:",omitempty"` // of the request body
	Fixed bool  `json:",omitempty"` // the answer does not depend on the request
	Bare  bool  `json:",omitempty"` // the entry is a tunnel already: no CONNECT

	// SlowBytes are read at SlowRate bytes a second, the rest as it comes.
	SlowBytes, SlowRate int64 `json:",omitempty"`
}

// loadResult is what a run of the generator has brought.
type loadResult struct {
	OK     int64
	Errors int64
	First  string `json:",omitempty"` // the first error
}

// operations are the things a load can do. Each does its share of n and calls
// done for every one of them.
var operations = map[string]func(l *load, worker int, n int64, done func(error)){
	"requests": (*load).requests,
	"connects": (*load).connects,
	"bulk":     (*load).bulk,
	"hold":     nil, // in loadMain: it goes on until told to end
}

// opTimeout is when something hangs: no single operation takes as long.
const opTimeout = 2 * time.Minute

// loadMain runs the load that its argument describes and prints the result.
func loadMain(args []string) error {
	l := new(load)
	if len(args) != 1 {
		return fmt.Errorf("load wants one argument, got %d", len(args))
	}
	if err := json.Unmarshal([]byte(args[0]), l); err != nil {
		return err
	}
	if l.Do == "hold" {
		return l.hold()
	}
	if operations[l.Do] == nil {
		return fmt.Errorf("unknown load %q", l.Do)
	}
	return serveParent(l.run(), func() any { return nil })
}

// run divides the operations among the workers and counts how they end.
func (l *load) run() loadResult {
	var t tally
	var wg sync.WaitGroup
	for worker := range l.Conns {
		n := l.N / int64(l.Conns)
		if int64(worker) < l.N%int64(l.Conns) {
			n++
		}
		wg.Go(func() { operations[l.Do](l, worker, n, t.done) })
	}
	wg.Wait()
	return t.result()
}

// tally counts operations.
type tally struct {
	ok, failed atomic.Int64
	first      atomic.Pointer[error]
}

func (t *tally) done(err error) {
	if err == nil {
		t.ok.Add(1)
		return
	}
	t.failed.Add(1)
	t.first.CompareAndSwap(nil, &err)
}

func (t *tally) result() loadResult {
	r := loadResult{OK: t.ok.Load(), Errors: t.failed.Load()}
	if err := t.first.Load(); err != nil {
		r.First = (*err).Error()
	}
	return r
}

// dial connects to the proxy.
func (l *load) dial() (*conn, error) {
	nc, err := net.DialTimeout("tcp", l.Proxy, opTimeout)
	if err != nil {
		return nil, err
	}
	size := largeBuffer
	if l.Size == 0 {
		size = smallBuffer
	}
	return newConn(nc, size), nc.SetDeadline(time.Now().Add(opTimeout))
}

// requests sends requests one after the other on one connection, which is
// replaced when one fails.
func (l *load) requests(worker int, n int64, done func(error)) {
	var c *conn
	var out []byte
	for i := range n {
		var err error
		if c == nil {
			if c, err = l.dial(); err != nil {
				done(err)
				continue
			}
		}
		id := fmt.Appendf(nil, "%0*x", idSize, int64(worker)<<40|i)
		if out, err = l.request(c, out[:0], id); err != nil {
			_ = c.Close()
			c = nil
		}
		done(err)
	}
	if c != nil {
		_ = c.Close()
	}
}

// request does one exchange. out is room for what is sent.
func (l *load) request(c *conn, out, id []byte) ([]byte, error) {
	out = l.appendRequest(out, id)
	if _, err := c.Write(out); err != nil {
		return out, err
	}
	h, err := c.readHead()
	if err != nil {
		return out, err
	}
	if err := checkStatus(h); err != nil {
		return out, err
	}
	if h.length != l.Size || h.close {
		return out, fmt.Errorf("response with length %d, close %t; want length %d on a connection that stays", h.length, h.close, l.Size)
	}
	if l.Fixed {
		id = noID
	}
	return out, c.readBody(&body{id: id}, l.Size, l.pace())
}

// appendRequest writes a request in absolute form, with the fields that a usual
// client sends to a proxy.
func (l *load) appendRequest(b, id []byte) []byte {
	method := "GET"
	if l.Post > 0 {
		method = "POST"
	}
	b = append(b, method...)
	b = append(b, " http://"...)
	b = append(b, l.To...)
	b = append(b, '/')
	b = strconv.AppendInt(b, l.Size, 10)
	b = append(b, '/')
	b = append(b, id...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, l.To...)
	b = append(b, "\r\nUser-Agent: bench\r\nAccept: */*\r\nProxy-Connection: Keep-Alive\r\n"...)
	if l.Post > 0 {
		b = append(b, "Content-Type: text/plain\r\nContent-Length: "...)
		b = strconv.AppendInt(b, l.Post, 10)
		b = append(b, '\r', '\n')
	}
	b = append(b, '\r', '\n')
	if l.Post > 0 {
		b = (&body{id: id}).append(b, l.Post)
	}
	return b
}

func checkStatus(h head) error {
	if len(h.line) < 12 || string(h.line[8:12]) != " 200" {
		return fmt.Errorf("status line %q", h.line)
	}
	return nil
}

// pace slows the reader down over the first bytes, or returns nil.
func (l *load) pace() func(int) {
	if l.SlowBytes == 0 {
		return nil
	}
	start, read := time.Now(), int64(0)
	return func(n int) {
		if read += int64(n); read < l.SlowBytes {
			time.Sleep(time.Until(start.Add(time.Duration(float64(read) / float64(l.SlowRate) * float64(time.Second)))))
		}
	}
}
