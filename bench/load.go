//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/pattern"
)

// load is one run of the generator: what it does and how often. It travels from
// parent to part as JSON.
type load struct {
	Do    string // a key of operations
	Proxy string // where to connect to
	To    string // the origin's listener: what the proxy is asked for
	Conns int    // how many at once
	N     int64  // how often, by all of them together

	Size   int64  `json:",omitempty"` // of the response body, or of what a tunnel brings
	Post   int64  `json:",omitempty"` // of the request body
	Fixed  bool   `json:",omitempty"` // the answer does not depend on the request
	Closes bool   `json:",omitempty"` // the proxy ends the connection behind each answer
	Bare   bool   `json:",omitempty"` // the entry is a tunnel already: no CONNECT
	HTTP2  bool   `json:",omitempty"` // one connection for all tunnels, HTTP/2 over TLS
	Root   string `json:",omitempty"` // file of the certificate that the origin has

	// Stalled is how many tunnels are opened first that nobody reads.
	Stalled int64 `json:",omitempty"`

	// Hosts, if not 0, is how many names of the origin there are: request i
	// asks for the host 127.x.y.z that is number FirstHost+i. A proxy that runs
	// out of descriptors may end the client's connection.
	Hosts, FirstHost int64 `json:",omitempty"`

	// Rate is how many requests a second are offered, whether or not the ones
	// before are answered.
	Rate float64 `json:",omitempty"`

	// SlowBytes are read at SlowRate bytes a second, the rest as it comes.
	SlowBytes, SlowRate int64 `json:",omitempty"`

	session *http2Session // with HTTP2, once it is there
	clock   *schedule     // with Rate
}

// loadResult is what a run of the generator has brought.
type loadResult struct {
	OK     int64
	Errors int64
	First  string `json:",omitempty"` // the first error
	Seen   int64  // requests or tunnels that the origin must have seen

	P50, P99 float64 `json:",omitempty"` // µs from request to the end of its answer
}

// worker is one of those who do a load together.
type worker struct {
	id    int   // from 0
	first int64 // operations of the workers before it
	n     int64 // its own share
	*tally

	took []time.Duration // by each request
}

// operations are the things a load can do. Each does the worker's share and
// calls done for every operation of it.
var operations = map[string]func(l *load, w *worker){
	"requests": (*load).requests,
	"paced":    (*load).paced,
	"connects": (*load).connects,
	"secure":   (*load).secure,
	"bulk":     (*load).bulk,
	"push":     (*load).push,
	"pings":    (*load).pings,
	"beside":   (*load).beside,
	"gather":   (*load).gather,
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
	if _, ok := operations[l.Do]; !ok {
		return fmt.Errorf("unknown load %q", l.Do)
	}
	if err := l.prepare(); err != nil {
		return err
	}
	if l.Do == "hold" {
		return l.hold()
	}
	return serveParent(l.run(), func() any { return nil })
}

// prepare sets up what all workers share.
func (l *load) prepare() (err error) {
	if l.Rate > 0 {
		l.clock = &schedule{start: time.Now(), every: time.Duration(float64(time.Second) / l.Rate)}
	}
	if l.HTTP2 {
		l.session, err = l.dialHTTP2()
	}
	return err
}

// run divides the operations among the workers and counts how they end.
func (l *load) run() loadResult {
	var t tally
	var wg sync.WaitGroup
	var first int64
	workers := make([]worker, l.Conns)
	for i := range workers {
		n := l.N / int64(l.Conns)
		if int64(i) < l.N%int64(l.Conns) {
			n++
		}
		w := &workers[i]
		*w = worker{id: i, first: first, n: n, tally: &t}
		first += n
		wg.Go(func() { operations[l.Do](l, w) })
	}
	wg.Wait()
	r := t.result()
	r.P50, r.P99 = percentiles(workers)
	return r
}

// tally counts operations.
type tally struct {
	ok, failed, seen atomic.Int64
	firstError       atomic.Pointer[error]
}

// done counts an operation that the origin sees once.
func (t *tally) done(err error) {
	if err == nil {
		t.seen.Add(1)
	}
	t.doneUnseen(err)
}

// doneUnseen counts an operation that the origin does not count.
func (t *tally) doneUnseen(err error) {
	if err == nil {
		t.ok.Add(1)
		return
	}
	t.failed.Add(1)
	t.firstError.CompareAndSwap(nil, &err)
}

func (t *tally) result() loadResult {
	r := loadResult{OK: t.ok.Load(), Errors: t.failed.Load(), Seen: t.seen.Load()}
	if err := t.firstError.Load(); err != nil {
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
func (l *load) requests(w *worker) {
	c := l.client(w)
	defer c.close()
	for i := range w.n {
		start := time.Now()
		err := c.exchange(w.first + i)
		w.took = append(w.took, time.Since(start))
		w.done(err)
	}
}

// client is a worker's connection to the proxy, and room for what is sent.
type client struct {
	*load
	worker int
	conn   *conn
	out    []byte
}

func (l *load) client(w *worker) *client {
	w.took = make([]time.Duration, 0, w.n)
	return &client{load: l, worker: w.id}
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
	c.conn = nil
}

// exchange does the request with that number.
func (c *client) exchange(number int64) (err error) {
	if c.conn == nil {
		if c.conn, err = c.dial(); err != nil {
			return err
		}
	}
	id := fmt.Appendf(nil, "%0*x", pattern.IDSize, int64(c.worker)<<40|number)
	kept, err := c.request(id, c.host(number))
	if !kept {
		c.close()
	}
	return err
}

// host is what request number asks for.
func (l *load) host(number int64) string {
	if l.Hosts == 0 {
		return l.To
	}
	_, port, _ := strings.Cut(l.To, ":")
	n := l.FirstHost + number
	return fmt.Sprintf("127.%d.%d.%d:%s", 1+n>>16&127, n>>8&255, n&255, port)
}

// request does one exchange, and says whether there can be another on the same
// connection.
func (c *client) request(id []byte, host string) (kept bool, err error) {
	c.out = c.appendRequest(c.out[:0], id, host)
	if _, err := c.conn.Write(c.out); err != nil {
		return false, err
	}
	h, err := c.conn.readHead()
	if err != nil {
		return false, err
	}
	if err := checkStatus(h); err != nil {
		return false, err
	}
	if mayClose := c.Closes || c.Hosts > 0; h.length != c.Size || h.close && !mayClose {
		return false, fmt.Errorf("response with length %d, close %t; want length %d on a connection that stays", h.length, h.close, c.Size)
	}
	if c.Fixed {
		id = pattern.NoID
	}
	err = c.conn.readBody(&pattern.Body{ID: id}, c.Size, c.pace())
	return err == nil && !h.close && !c.Closes, err
}

// appendRequest writes a request in absolute form, with the fields that a usual
// client sends to a proxy.
func (l *load) appendRequest(b, id []byte, host string) []byte {
	method := "GET"
	if l.Post > 0 {
		method = "POST"
	}
	b = append(b, method...)
	b = append(b, " http://"...)
	b = append(b, host...)
	b = append(b, '/')
	b = strconv.AppendInt(b, l.Size, 10)
	b = append(b, '/')
	b = append(b, id...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\nUser-Agent: bench\r\nAccept: */*\r\nProxy-Connection: Keep-Alive\r\n"...)
	if l.Post > 0 {
		b = append(b, "Content-Type: text/plain\r\nContent-Length: "...)
		b = strconv.AppendInt(b, l.Post, 10)
		b = append(b, '\r', '\n')
	}
	b = append(b, '\r', '\n')
	if l.Post > 0 {
		b = (&pattern.Body{ID: id}).Append(b, l.Post)
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
