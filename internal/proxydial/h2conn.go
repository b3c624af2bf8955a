package proxydial

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-egress/egress/internal/layers"
)

const (
	// maxSendFrame bounds the DATA frames we send, whatever the peer allows, so
	// that one tunnel does not hold up the others for long.
	maxSendFrame = 16 << 10
	// outLimit is how many bytes of tunnels may wait for the socket. Frames that
	// control the connection come on top.
	outLimit = 64 << 10
	// unsentLimit is how many bytes more may wait in the socket itself, where the
	// system can bound that. Frames that control the connection wait behind them.
	unsentLimit = 64 << 10
	// controlLimit is how far they may. More is a peer that asks for answers
	// which it does not read.
	controlLimit = 64 << 10
	// connWindow is the flow-control window of the connection. It is given back
	// as bytes come in, so that a slow reader holds up its own tunnel alone: the
	// windows of the streams bound the memory.
	connWindow = 16 << 20
	// initialWindow is what every window is before somebody says otherwise (RFC
	// 9113 §6.9.2).
	initialWindow = 65535
	// maxWindow is what no window may exceed (RFC 9113 §6.9.1).
	maxWindow = 1<<31 - 1
	// flushTimeout is how long the last frames of a connection may take.
	flushTimeout = 5 * time.Second
)

// Ends of an HTTP/2 connection.
var (
	errPingTimeout = errors.New("http2: no sign of life in time")
	errGoAway      = errors.New("http2: connection ends (GOAWAY) before this stream")
	errNoCapacity  = errors.New("http2: proxy allows no streams")
	errConnClosed  = errors.New("http2: connection closed")
)

// h2Conn is an HTTP/2 connection to a proxy, which carries CONNECT streams only.
//
// Nobody but its writer goroutine waits for the socket: everything to be sent is
// put into out, so that whoever waits for room there, or for a window, can be
// interrupted. Its reader goroutine never waits for anything but the socket.
type h2Conn struct {
	nc   net.Conn
	cfg  *Config
	pool *pool

	settled chan struct{} // closed with the peer's first SETTINGS, or with err

	mu       sync.Mutex
	writable *sync.Cond // for the writer: out is not empty, or the end has come
	framer   *http2.Framer
	henc     *hpack.Encoder
	hbuf     headerBuffer
	out      []byte // frames to be sent; from outBuffers
	control  int    // bytes of out that do not belong to tunnels
	streams  map[uint32]*stream
	reserved int  // slots taken for streams that are not open yet
	used     bool // a slot was taken
	nextID   uint32
	err      error // why it is dead; sticky
	draining bool  // no new streams: GOAWAY, Close, ids used up
	flushed  bool  // ending: the writer closes the socket when out is empty

	// What the peer allows.
	peerStreams uint32
	peerWindow  int64 // of new streams
	peerFrame   int
	peerHead    int       // of the fields of a request
	sendWindow  int64     // of the connection
	fullWindow  int64     // the largest that sendWindow has been
	given       time.Time // when the peer last gave anything back, to whomever

	// Whether a tunnel waits for sendWindow, of which nothing is left; see h2share.go.
	starving     *time.Timer // runs from reached
	starved      bool
	starvedAt    time.Time
	starvedAfter uint64    // pings then
	reached      time.Time // when a later PING was answered: the peer has all that was sent
	ended        bool      // a tunnel was reset for others since the peer has given anything back

	// How tunnels share sendWindow; see h2credit.go.
	share    *time.Timer
	sharing  bool      // share runs
	beyond   *stream   // whose turn it is to be let beyond its share
	busy     bool      // others have sent since the last look
	prompt   bool      // windows are known to be given back from within a share
	likely   bool      // so is the connection's, which says something about streams
	lateOnce time.Time // when a stream was given back late nevertheless; or zero
	late     int64     // how much was, when they were not; or 0
	due      int64     // the least that was given back to the connection at once; or 0

	owed      int64 // connection window not given back yet
	ping      *time.Timer
	pings     uint64        // their count, which is their content
	pingOut   bool          // out has one
	writes    atomic.Uint64 // that the socket has taken
	heard     time.Time     // when the last frame came
	asked     time.Time     // when the PING was sent that waits for a sign of life; or zero
	onWay     pingWay       // where that PING is
	doubted   bool          // such a sign is overdue: no new streams before it comes
	sign      time.Duration // when it is
	waiting   int           // streams without an answer
	idle      *time.Timer
	everReady bool // SETTINGS came, or settled was closed by the end
}

// newH2Conn starts HTTP/2 on a connection, which it owns, and waits for the
// peer's settings: only they tell how many tunnels it takes.
func newH2Conn(ctx context.Context, nc net.Conn, p *pool) (*h2Conn, error) {
	c := &h2Conn{
		nc:          nc,
		cfg:         &p.dialer.cfg,
		pool:        p,
		settled:     make(chan struct{}),
		streams:     map[uint32]*stream{},
		nextID:      1,
		peerStreams: defaultTunnels, // RFC 9113 §6.5.2 recommends to allow that many
		peerWindow:  initialWindow,
		peerFrame:   maxSendFrame,
		peerHead:    maxHead,
		sendWindow:  initialWindow,
		fullWindow:  initialWindow,
		heard:       time.Now(),
	}
	layers.KeepUnsentLow(nc, unsentLimit)
	c.writable = sync.NewCond(&c.mu)
	c.framer = http2.NewFramer((*outWriter)(c), nc)
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(maxSendFrame)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.MaxHeaderListSize = uint32(c.cfg.MaxReplyHead)
	c.henc = hpack.NewEncoder(&c.hbuf)
	c.idle = time.AfterFunc(time.Hour, c.closeIdle)
	c.ping = time.AfterFunc(time.Hour, c.checkAlive)
	c.starving = time.AfterFunc(time.Hour, c.endStarving)
	c.starving.Stop()
	c.share = time.AfterFunc(time.Hour, c.lookAtShares)
	c.share.Stop()
	c.idle.Stop() // until watchIdle
	c.ping.Stop() // until watchAlive

	c.mu.Lock()
	c.appendRaw([]byte(http2.ClientPreface))
	_ = c.framer.WriteSettings(
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(c.cfg.StreamWindow)},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(c.cfg.MaxReplyHead)},
	)
	_ = c.framer.WriteWindowUpdate(0, connWindow-initialWindow)
	c.control = 0
	c.mu.Unlock()
	go c.writeLoop()
	go c.readLoop()

	began := time.Now()
	select {
	case <-c.settled:
	case <-ctx.Done():
		c.fail(ctx.Err())
		return nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// The settings took a round trip: a distant proxy gets more time.
	c.sign = min(max(c.cfg.SignTimeout, 4*time.Since(began)), c.cfg.PingTimeout)
	return c, c.err
}

func (w *outWriter) Write(p []byte) (int, error) {
	(*h2Conn)(w).appendRaw(p)
	return len(p), nil
}

// fail ends the connection and everything on it. The first error stays.
func (c *h2Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
}

func (c *h2Conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err, c.draining = err, true
	if !c.everReady {
		c.everReady = true
		close(c.settled)
	}
	for _, s := range c.streams {
		s.lost = true
		s.failLocked(err, false)
	}
	c.ping.Stop()
	c.idle.Stop()
	c.starving.Stop()
	c.share.Stop()
	c.writable.Signal()
	// The socket goes first: a closure alert might wait for a peer that does not
	// read.
	_ = below(c.nc).Close()
	c.pool.wake()
}

// below is the connection that TLS runs on.
func below(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c
}

// capacityLocked is how many tunnels it takes, those it has included.
func (c *h2Conn) capacityLocked() int {
	return min(c.cfg.MaxTunnelsPerConn, int(min(c.peerStreams, 1<<30)))
}

// reserve takes a slot for a tunnel.
func (c *h2Conn) reserve() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.usableLocked() || len(c.streams)+c.reserved >= c.capacityLocked() {
		return false
	}
	c.reserved++
	c.used = true
	c.idle.Stop()
	return true
}

// room reports how many tunnels more it would take, and whether it takes any at
// all any more.
func (c *h2Conn) room() (free int, usable bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.capacityLocked() - len(c.streams) - c.reserved, c.usableLocked()
}

// fit reports whether any tunnel was begun, and whether one may begin.
func (c *h2Conn) fit() (used, fit bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used, c.usableLocked() && c.capacityLocked() > 0
}

// usableLocked reports whether a new tunnel may begin, if there is a slot.
func (c *h2Conn) usableLocked() bool { return !c.draining && !c.doubted && !c.exhausted() }

// slotFreed is called with c.mu held when a stream or a reservation has ended.
func (c *h2Conn) slotFreed() {
	if len(c.streams)+c.reserved == 0 && c.err == nil {
		if c.draining || c.pool.retired.Load() {
			c.drainLocked()
		} else {
			c.idle.Reset(c.cfg.IdleTimeout)
		}
		c.watchAlive() // without tunnels, a sign of life is waited for less long
	}
	c.pool.wake()
}

// added begins to count the time without tunnels. It is false where the
// connection has ended already; if it ends later, the reader takes it off the
// pool, whose mutex is held here.
func (c *h2Conn) added() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams)+c.reserved == 0 && c.err == nil && !c.draining {
		c.idle.Reset(c.cfg.IdleTimeout)
	}
	return c.err == nil
}

// capacity is how many tunnels it takes in all.
func (c *h2Conn) capacity() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.capacityLocked()
}

// closeIdle closes it if it still has no tunnel.
func (c *h2Conn) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams)+c.reserved == 0 {
		c.drainLocked()
	}
}

// drain lets no new tunnel begin; the connection closes with its last one.
func (c *h2Conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drainLocked()
}

func (c *h2Conn) drainLocked() {
	c.draining = true
	if len(c.streams)+c.reserved == 0 && c.err == nil {
		c.finishLocked()
	}
}

// finishLocked says good-bye and closes behind what is still to be sent.
func (c *h2Conn) finishLocked() {
	if c.flushed {
		return
	}
	c.flushed = true
	c.idle.Stop()
	_ = c.framer.WriteGoAway(0, http2.ErrCodeNo, nil)
	_ = c.nc.SetWriteDeadline(time.Now().Add(flushTimeout))
	c.writable.Signal()
}

// open sends a CONNECT in a slot that was reserved.
// Where again is true, it may be sent again on another connection.
func (c *h2Conn) open(req request, again bool) (*stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserved--
	if c.err != nil || c.draining {
		err := c.err
		if err == nil {
			err = errGoAway
		}
		c.slotFreed()
		return nil, &Error{Stage: StageReply, Err: err, Retryable: true}
	}
	if req.size > c.peerHead {
		c.slotFreed()
		return nil, c.tooLarge(req)
	}
	s := newStream(c, c.nextID)
	s.again = again
	c.nextID += 2
	if c.nextID > maxWindow {
		c.draining = true // the ids are used up (RFC 9113 §5.1.1)
	}
	c.streams[s.id] = s
	c.writeHeaders(s.id, req)
	if c.waiting++; c.waiting == 1 {
		if c.asked.IsZero() && time.Since(c.heard) >= c.sign {
			c.askLocked() // in the same packet
		}
		c.watchAlive()
	}
	return s, nil
}

// tooLarge is the error of a CONNECT with larger fields than the peer takes. To send it
// nevertheless would end the connection, with the tunnels of others. A peer that does
// not even take what every CONNECT has takes none.
func (c *h2Conn) tooLarge(req request) error {
	if req.bare > c.peerHead {
		return &Error{Stage: StageNegotiate, Err: malformed("http2: header fields of %d bytes are allowed, CONNECT takes %d", c.peerHead, req.bare)}
	}
	return &HeadSizeError{req.size, c.peerHead}
}

// load counts its tunnels, those being asked for included.
func (c *h2Conn) load() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams) + c.reserved
}
