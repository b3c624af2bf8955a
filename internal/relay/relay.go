package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ErrStarted is the error of a Result when Run or Start is called on a relay
// that was started before.
var ErrStarted = errors.New("relay: already started")

// Stream is one side of a tunnel. *net.TCPConn and *tls.Conn satisfy it.
//
// A relay owns its streams from New on and closes both. Deadlines that an
// earlier phase (dialing, the handshake) set must have been cleared.
type Stream interface {
	io.Reader

	// Write delivers: it does not return before the bytes are on their way,
	// so a stream that buffers flushes by itself.
	io.Writer

	// CloseWrite ends the direction towards the peer, which sees the end of
	// the stream; reading goes on.
	CloseWrite() error

	// Close ends both directions and unblocks Read, Write and CloseWrite.
	Close() error
}

// Aborter is implemented by streams that can end with a reset instead of an
// orderly end. Abort does all that Close does, but so that the peer sees a
// failure; Close is not called after it.
//
// A stream need not implement it if it is a *net.TCPConn, or if methods NetConn()
// net.Conn (as *tls.Conn has) lead to one: that socket is then closed with
// SO_LINGER 0. Where they lead to something else, that is closed, without a
// good-bye of what is above it (layers.Abort).
type Aborter interface{ Abort() }

// Config is what a relay may be told. The zero value relays without limits.
type Config struct {
	// IdleTimeout ends the tunnel when no byte has come in, from either
	// side, for this long. Default: 0, no limit.
	IdleTimeout time.Duration

	// HalfCloseTimeout ends a tunnel of which one side has ended when no byte
	// has come in for this long. Default: 0, no limit.
	HalfCloseTimeout time.Duration

	// Lifetime is how long the tunnel may live in all, counted from Run or
	// Start. Default: 0, no limit.
	Lifetime time.Duration

	// UpRates and DownRates are the limits that the bytes to the origin and
	// those to the client keep to, all of them. Waiting for one's turn ends
	// with the tunnel, whatever ends it. Default: none.
	UpRates, DownRates []*Rate

	// EarlyUp are bytes the client sent before the relay began. The origin
	// gets them first, and they count. The relay keeps the slice until then.
	EarlyUp []byte

	// EarlyDown are bytes that arrived behind the upstream's reply. The
	// client gets them first, and they count.
	EarlyDown []byte
}

// Result says how a tunnel ended.
type Result struct {
	// BytesUp is how many bytes the origin's stream took, BytesDown how many
	// the client's did, early bytes included.
	BytesUp, BytesDown int64

	// Reason is why the tunnel ended: what cut it short if anything did,
	// otherwise the side that ended first.
	Reason Reason

	// Err is what broke, for ReasonClientError and ReasonOriginError, or
	// ErrStarted. Otherwise nil.
	Err error

	// Duration is the time from Run or Start to the end.
	Duration time.Duration
}

// The life of a relay.
const (
	phaseNew uint8 = iota
	phaseRunning
	phaseFinished
)

// Relay is one tunnel. Make it with New, then call Run or Start, once. Counts,
// End, Drain and Spliced may be called at any time from any goroutine.
type Relay struct {
	client, origin Stream
	idle           time.Duration
	halfClose      time.Duration
	lifetime       time.Duration

	up, down pump // client to origin, origin to client

	start   time.Time    // set before the pumps run
	last    atomic.Int64 // when a byte last came in, nanoseconds since start
	running atomic.Int32 // pumps that have not ended

	// mu guards what follows. It is taken when a tunnel begins, ends, or its
	// timer fires: never for a byte, and at
	// most once a second for those that wait.
	mu          sync.Mutex
	phase       uint8
	first       Reason        // ReasonClient or ReasonOrigin: who ended first
	lingering   bool          // one side has ended or broken: HalfCloseTimeout counts
	lingerFrom  time.Duration // since when, from start
	forced      Reason        // what cut the tunnel short; 0 while nothing did
	draining    Reason        // why the tunnel is being drained; 0 while it is not
	drainQuiet  bool          // nothing was cut by that: both peers are told the end
	drainBy     time.Duration // when that has to be over, from start
	err         error         // what broke, if forced is an error
	resetClient bool          // close the client's side with a reset
	resetOrigin bool
	timer       *time.Timer
	looked      time.Duration // when the timer last looked at what is unsent, from start; negative: never
	watcher     *time.Timer   // fires where the client has to be looked at; see watch

	socket  *net.TCPConn // the client's; nil if it has none that can be looked at
	watched atomic.Bool  // watcher is armed

	ticks sync.WaitGroup // timers armed or running: none outlives the relay
	stop  chan struct{}  // closed with the streams; nil without rates

	closing sync.Mutex // held while the streams are being closed
	closed  bool       // guarded by closing
}

// New makes a relay of two streams, which it owns from here on. Nothing moves
// before Run or Start.
func New(client, origin Stream, cfg Config) *Relay {
	r := &Relay{
		client:    orDead(client),
		origin:    orDead(origin),
		idle:      cfg.IdleTimeout,
		halfClose: cfg.HalfCloseTimeout,
		lifetime:  cfg.Lifetime,
		looked:    -1,
	}
	r.socket = watched(r.client)
	if len(cfg.UpRates) > 0 || len(cfg.DownRates) > 0 {
		r.stop = make(chan struct{})
	}
	c, o := rawTCP(r.client), rawTCP(r.origin)
	r.up.init(r, ReasonClient, r.client, r.origin, c, o, cfg.EarlyUp)
	r.down.init(r, ReasonOrigin, r.origin, r.client, o, c, cfg.EarlyDown)
	r.up.pacer = newPacer(cfg.UpRates, r.stop)
	r.down.pacer = newPacer(cfg.DownRates, r.stop)
	return r
}

// Run relays until both directions are done and both streams are closed. One
// direction runs in the caller's goroutine.
func (r *Relay) Run() Result {
	if err := r.begin(); err != nil {
		return Result{Err: err}
	}
	downDone := make(chan struct{})
	go func() {
		r.down.run()
		r.running.Add(-1)
		close(downDone)
	}()
	r.up.run()
	r.running.Add(-1)
	<-downDone
	return r.finish()
}

// Start relays in two goroutines of its own and returns at once. When both
// directions are done and both streams are closed, the last of the two calls
// done (which may be nil).
func (r *Relay) Start(done func(Result)) {
	if done == nil {
		done = func(Result) {}
	}
	if err := r.begin(); err != nil {
		go done(Result{Err: err})
		return
	}
	go r.runPump(&r.up, done)
	go r.runPump(&r.down, done)
}

// Counts returns how many bytes have been delivered to the origin and to the
// client so far.
func (r *Relay) Counts() (up, down int64) {
	return r.up.moved.Load(), r.down.moved.Load()
}

// End ends the tunnel from outside and closes both streams, with a reset where that
// cuts something off; Run returns, or done is called, soon after. The reason appears in the Result unless the
// tunnel was ending for another one; 0 stands for ReasonClosed. A second call
// does nothing. Before Run or Start, End makes these end at once.
func (r *Relay) End(reason Reason) {
	if reason == 0 {
		reason = ReasonClosed
	}
	r.force(reason)
	r.closeStreams()
}

// Cut is End for a tunnel in the middle of a transfer: both peers see a reset.
func (r *Relay) Cut(reason Reason) {
	r.mu.Lock()
	if r.forceLocked(reason, nil) {
		r.resetClient, r.resetOrigin = true, true
	}
	r.mu.Unlock()
	r.closeStreams()
}

// Spliced tells whether both sides are TCP sockets between which the kernel
// moves bulk data. Small bursts are copied nevertheless.
func (r *Relay) Spliced() bool {
	return r.up.canSplice() && r.down.canSplice()
}

// begin moves a new relay to running and arms its timer.
func (r *Relay) begin() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase != phaseNew {
		return ErrStarted
	}
	r.phase = phaseRunning
	r.start = time.Now()
	r.running.Store(2)
	r.arm(0)
	return nil
}

func (r *Relay) runPump(p *pump, done func(Result)) {
	p.run()
	if r.running.Add(-1) == 0 {
		done(r.finish())
	}
}

// dead stands in for a stream that was nil, so that a caller's mistake becomes
// a failed tunnel and not a panic in a goroutine nobody watches.
type dead struct{}

var errNilStream = errors.New("relay: nil stream")

func (dead) Read([]byte) (int, error)  { return 0, errNilStream }
func (dead) Write([]byte) (int, error) { return 0, errNilStream }
func (dead) CloseWrite() error         { return errNilStream }
func (dead) Close() error              { return nil }

func orDead(s Stream) Stream {
	if s == nil {
		return dead{}
	}
	if c, ok := s.(*net.TCPConn); ok && c == nil {
		return dead{}
	}
	return s
}

// Interface guards
var (
	_ Stream = (*net.TCPConn)(nil)
	_ Stream = dead{}
)
