package relay

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv("RELAY_BENCH_PROXY"); mode != "" && benchProxy != nil {
		benchProxy(mode) // this process is the proxy of a benchmark
		return
	}
	goleak.VerifyTestMain(m)
}

// benchProxy is set where there are benchmarks.
var benchProxy func(mode string)

// link is one side of a tunnel in a test: the relay gets near, the test plays
// the peer with far.
type link struct {
	near, far Stream
}

// kinds of tunnels, by the streams of the client's and the origin's side.
var kinds = []struct {
	name           string
	client, origin func(testing.TB) link
}{
	{"tcp_tcp", tcpLink, tcpLink},
	{"tls_tcp", tlsLink, tcpLink},
	{"tcp_tls", tcpLink, tlsLink},
	{"tls_tls", tlsLink, tlsLink},
	{"fake_tcp", fakeLink, tcpLink},
	{"tcp_fake", tcpLink, fakeLink},
	{"fake_fake", fakeLink, fakeLink},
}

// eachKind runs f for every kind of tunnel.
func eachKind(t *testing.T, f func(t *testing.T, client, origin link)) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			f(t, k.client(t), k.origin(t))
		})
	}
}

// loopback is an address of this process's own where there are many: other
// tests on the machine may use up the ports of 127.0.0.1.
func loopback() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1:0"
	}
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d:0", 1+pid>>16&0x7f, pid>>8&0xff, 1+pid&0x7f)
}

var listener = sync.OnceValues(func() (net.Listener, error) { return net.Listen("tcp4", loopback()) })

var dialing sync.Mutex // between Dial and Accept

func tcpLink(t testing.TB) link {
	t.Helper()
	return linkVia(t, func(near string) string { return near })
}

// linkVia is a TCP connection whose far end dialed what via says for the address of
// the near one.
func linkVia(t testing.TB, via func(near string) string) link {
	t.Helper()
	dialing.Lock()
	defer dialing.Unlock()
	ln, err := listener()
	if err != nil {
		t.Fatal(err)
	}
	far, err := net.Dial("tcp4", via(ln.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return link{near.(*net.TCPConn), far.(*net.TCPConn)}
}

var testTLS = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		InsecureSkipVerify: true,
	}
})

func tlsLink(t testing.TB) link {
	t.Helper()
	raw := tcpLink(t)
	near := tls.Server(raw.near.(net.Conn), testTLS())
	far := tls.Client(raw.far.(net.Conn), testTLS())
	served := make(chan error, 1)
	go func() { served <- near.Handshake() }()
	if err := errors.Join(far.Handshake(), <-served); err != nil {
		t.Fatal(err)
	}
	return link{near, far}
}

// fake is a stream in memory that is neither a socket nor on one. Unlike
// net.Pipe it has buffers and half-close, and it remembers what was done to it.
type fake struct {
	in, out *queue

	mu    sync.Mutex
	calls []string // CloseWrite, Close, Abort
}

func fakeLink(testing.TB) link {
	a, b := newQueue(), newQueue()
	return link{&fake{in: a, out: b}, &fake{in: b, out: a}}
}

func (f *fake) Read(p []byte) (int, error)  { return f.in.read(p) }
func (f *fake) Write(p []byte) (int, error) { return f.out.write(p) }

func (f *fake) CloseWrite() error {
	f.note("CloseWrite")
	f.out.end(io.EOF, io.ErrClosedPipe)
	return nil
}

// Close: the peer reads what was sent and then the end.
func (f *fake) Close() error {
	f.note("Close")
	f.out.end(io.EOF, net.ErrClosed)
	f.in.drop(net.ErrClosed, syscall.EPIPE)
	return nil
}

// Abort: the peer reads ECONNRESET.
func (f *fake) Abort() {
	f.note("Abort")
	f.out.end(syscall.ECONNRESET, net.ErrClosed)
	f.in.drop(net.ErrClosed, syscall.ECONNRESET)
}

func (f *fake) note(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
}

func (f *fake) called() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

// queue is one direction between two fakes.
type queue struct {
	mu         sync.Mutex
	cond       sync.Cond
	data       bytes.Buffer
	rerr, werr error
	maxRead    int // longest buffer a reader brought
	limit      int
}

func newQueue() *queue {
	q := &queue{limit: 64 << 10}
	q.cond.L = &q.mu
	return q
}

func (q *queue) read(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.data.Len() == 0 && q.rerr == nil {
		q.maxRead = len(p) // what a parked reader holds
		q.cond.Wait()
	}
	if q.data.Len() == 0 {
		return 0, q.rerr
	}
	defer q.cond.Broadcast()
	return q.data.Read(p)
}

func (q *queue) write(p []byte) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.werr != nil {
			return n, q.werr
		}
		room := min(q.limit-q.data.Len(), len(p))
		if room > 0 {
			q.data.Write(p[:room])
			p, n = p[room:], n+room
			q.cond.Broadcast()
		}
		if len(p) == 0 {
			return n, nil
		}
		q.cond.Wait()
	}
}

// end lets the reader see rerr after what was written.
func (q *queue) end(rerr, werr error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.rerr == nil {
		q.rerr = rerr
	}
	if q.werr == nil {
		q.werr = werr
	}
	q.cond.Broadcast()
}

// drop is end by the reader: what was written is gone.
func (q *queue) drop(rerr, werr error) {
	q.mu.Lock()
	q.data.Reset()
	q.rerr, q.werr = rerr, werr
	q.mu.Unlock()
	q.cond.Broadcast()
}

// parkedWith returns the size of the buffer the last waiting reader holds.
func (q *queue) parkedWith() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.maxRead
}

// abort resets a stream from the peer's side.
func abort(t testing.TB, s Stream) {
	t.Helper()
	closeStream(s, true)
}

// start runs a relay and returns a function that waits for its result.
func start(t testing.TB, r *Relay) func() Result {
	t.Helper()
	results := make(chan Result, 2)
	r.Start(func(res Result) { results <- res })
	t.Cleanup(func() { r.End(ReasonClosed) })
	return func() Result {
		t.Helper()
		select {
		case res := <-results:
			return res
		case <-time.After(30 * time.Second):
			t.Fatal("the relay did not end")
			return Result{}
		}
	}
}

// send writes n pseudo-random bytes in pieces of random sizes, ends the stream
// if asked, and returns the hash of what it wrote.
func send(s Stream, seed uint64, n int, end bool) ([]byte, error) {
	rnd := mrand.New(mrand.NewPCG(seed, uint64(n)))
	src := mrand.NewChaCha8([32]byte{byte(seed), byte(n), byte(n >> 8)})
	h := sha256.New()
	buf := make([]byte, 256<<10)
	for n > 0 {
		piece := buf[:min(n, 1+rnd.IntN(len(buf)))]
		_, _ = src.Read(piece)
		h.Write(piece)
		if _, err := s.Write(piece); err != nil {
			return nil, err
		}
		n -= len(piece)
	}
	if end {
		if err := s.CloseWrite(); err != nil {
			return nil, err
		}
	}
	return h.Sum(nil), nil
}

// receive reads to the end and returns length and hash.
func receive(s Stream) (int64, []byte, error) {
	h := sha256.New()
	n, err := io.Copy(h, struct{ io.Reader }{s})
	return n, h.Sum(nil), err
}

// mustRead reads exactly want.
func mustRead(t testing.TB, s io.Reader, want string) {
	t.Helper()
	buf := make([]byte, len(want))
	if _, err := io.ReadFull(s, buf); err != nil || string(buf) != want {
		t.Fatalf("read %q, %v; want %q", buf, err, want)
	}
}

func mustWrite(t testing.TB, s io.Writer, b string) {
	t.Helper()
	if _, err := io.WriteString(s, b); err != nil {
		t.Fatal(err)
	}
}

// mustEnd reads the end of the stream and nothing else.
func mustEnd(t testing.TB, s io.Reader) {
	t.Helper()
	if rest, err := io.ReadAll(s); err != nil || len(rest) > 0 {
		t.Fatalf("read %q, %v; want a clean end", rest, err)
	}
}

// mustBreak reads what is expected and then a reset.
func mustBreak(t testing.TB, s io.Reader, want string) {
	t.Helper()
	if got, err := io.ReadAll(s); string(got) != want || !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read %q, %v; want %q and a reset", got, err, want)
	}
}

// eventually polls for what has no event to wait for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("timed out: " + what)
}

// awaitStuck waits until the relay takes no more from the origin.
func awaitStuck(t testing.TB, r *Relay) {
	t.Helper()
	last := int64(-1)
	eventually(t, "the relay gets stuck", func() bool {
		time.Sleep(20 * time.Millisecond)
		_, down := r.Counts()
		was := last
		last = down
		return down > 0 && down == was
	})
}
