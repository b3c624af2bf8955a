package proxydial

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/textproto"
	"strconv"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-egress/egress/internal/h1"
)

// readLoop takes in what the peer sends until the connection ends.
func (c *h2Conn) readLoop() {
	defer c.pool.remove(c)
	for {
		f, err := c.framer.ReadFrame()
		if se, ok := errors.AsType[http2.StreamError](err); ok {
			err = c.handle(nil, &se)
		} else if err == nil {
			err = c.handle(f, nil)
		}
		if err != nil {
			c.end(err)
			return
		}
	}
}

// end ends the connection for what was wrong in what came, and tells the peer.
func (c *h2Conn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.flushed:
		err = errConnClosed
	case errors.Is(err, http2.ErrFrameTooLarge):
		err = &MalformedError{Reason: err.Error(), TooLarge: true}
	default:
		if ce, ok := errors.AsType[http2.ConnectionError](err); ok {
			err = malformed("http2 %v", http2.ErrCode(ce))
		}
	}
	c.failLocked(err)
}

// streamError resets a stream whose peer broke the protocol in it alone.
func (c *h2Conn) streamError(se *http2.StreamError) error {
	s, err := c.known(se.StreamID)
	if err != nil {
		return err
	}
	if s == nil {
		_ = c.framer.WriteRSTStream(se.StreamID, se.Code)
		return nil
	}
	s.resetLocked(se.Code, malformed("http2 %v in the stream", se.Code))
	return nil
}

// noteFrame records a sign of life. It is called with c.mu held.
func (c *h2Conn) noteFrame() {
	c.heard = time.Now()
	if !c.asked.IsZero() {
		c.asked = time.Time{}
		c.watchAlive()
	}
	if c.doubted {
		c.doubted = false
		c.pool.wake()
	}
}

// handle takes one frame in, or what was wrong with it. An error is the end of
// the connection.
func (c *h2Conn) handle(f http2.Frame, se *http2.StreamError) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.noteFrame()
	if _, ok := f.(*http2.SettingsFrame); !ok && !c.everReady {
		return malformed("http2: the first frame is no SETTINGS") // RFC 9113 §3.4
	}
	if se != nil {
		err = c.streamError(se)
	} else {
		err = c.dispatch(f)
	}
	if err != nil {
		return err
	}
	if c.control > controlLimit {
		return malformed("http2: more questions than the peer reads answers")
	}
	return nil
}

func (c *h2Conn) dispatch(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.onData(f)
	case *http2.MetaHeadersFrame:
		return c.onHeaders(f)
	case *http2.WindowUpdateFrame:
		return c.onWindowUpdate(f)
	case *http2.RSTStreamFrame:
		return c.onReset(f)
	case *http2.SettingsFrame:
		return c.onSettings(f)
	case *http2.PingFrame:
		if f.IsAck() {
			c.onPong(binary.LittleEndian.Uint64(f.Data[:]))
		} else {
			_ = c.framer.WritePing(true, f.Data)
		}
	case *http2.GoAwayFrame:
		c.onGoAway(f)
	case *http2.PushPromiseFrame:
		return malformed("http2: PUSH_PROMISE, which was forbidden")
	}
	return nil // unknown frames are to be ignored (RFC 9113 §4.1)
}

// known returns the stream of a frame; it is nil where the stream has ended. One
// that was never opened is an error (RFC 9113 §5.1).
func (c *h2Conn) known(id uint32) (*stream, error) {
	if id%2 == 0 || id >= c.nextID {
		return nil, malformed("http2: frame for stream %d, which is not open", id)
	}
	return c.streams[id], nil
}

func (c *h2Conn) onData(f *http2.DataFrame) error {
	s, err := c.known(f.StreamID)
	if err != nil {
		return err
	}
	// Half of the window at a time, so that small frames do not double.
	if c.owed += int64(f.Length); c.owed >= connWindow/2 {
		_ = c.framer.WriteWindowUpdate(0, uint32(c.owed))
		c.owed = 0
	}
	if s == nil {
		return nil // on its way when the stream was reset
	}
	s.onData(f)
	return nil
}

func (c *h2Conn) onHeaders(f *http2.MetaHeadersFrame) error {
	s, err := c.known(f.StreamID)
	if s == nil || err != nil {
		return err
	}
	switch {
	case f.Truncated:
		s.resetLocked(http2.ErrCodeCancel, &MalformedError{
			Reason: fmt.Sprintf("response head over %d bytes", c.cfg.MaxReplyHead), TooLarge: true,
		})
		return nil
	case s.answered():
		// No frames but DATA on a tunnel (RFC 9113 §8.5).
		s.resetLocked(http2.ErrCodeProtocol, malformed("http2: HEADERS within a tunnel"))
		return nil
	}
	status, err := strconv.Atoi(f.PseudoValue("status"))
	if err != nil || status < 100 || status > 999 || len(f.PseudoValue("status")) != 3 {
		s.resetLocked(http2.ErrCodeProtocol, malformed("http2: status %.10q", f.PseudoValue("status")))
		return nil
	}
	if status < 200 {
		s.onInformational(status, f)
		return nil
	}
	reply := Reply{Status: status}
	regular := f.RegularFields()
	fields := make([]h1.Field, len(regular))
	for i := range regular {
		fields[i] = h1.Field{Name: textproto.CanonicalMIMEHeaderKey(regular[i].Name), Value: regular[i].Value}
	}
	reply.take(fields)
	reply.BodyLess = reply.BodyLess || f.StreamEnded()
	s.onReply(reply, f.StreamEnded())
	return nil
}

func (c *h2Conn) onWindowUpdate(f *http2.WindowUpdateFrame) error {
	if f.StreamID == 0 {
		return c.windowGiven(int64(f.Increment))
	}
	s, err := c.known(f.StreamID)
	if s == nil || err != nil {
		return err
	}
	s.windowGiven(int64(f.Increment))
	return nil
}

func (c *h2Conn) onReset(f *http2.RSTStreamFrame) error {
	s, err := c.known(f.StreamID)
	if s == nil || err != nil {
		return err
	}
	s.onReset(f.ErrCode)
	return nil
}

func (c *h2Conn) onSettings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	capacity, window := c.capacityLocked(), c.peerWindow
	if err := f.ForeachSetting(c.onSetting); err != nil {
		return err
	}
	if err := c.moveWindows(c.peerWindow - window); err != nil {
		return err
	}
	_ = c.framer.WriteSettingsAck()
	if !c.everReady {
		c.everReady = true
		close(c.settled)
	}
	if c.capacityLocked() != capacity {
		c.pool.wake()
	}
	return nil
}

// moveWindows moves the windows of open streams with that of new ones (RFC 9113 §6.9.2).
// It is called once for a frame, which can have thousands of values.
func (c *h2Conn) moveWindows(delta int64) error {
	if delta == 0 {
		return nil
	}
	for _, s := range c.streams {
		if s.sendWindow += delta; s.sendWindow > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		s.noteOwing()
	}
	c.wakeWriters()
	return nil
}

func (c *h2Conn) onSetting(s http2.Setting) error {
	if err := s.Valid(); err != nil {
		return err
	}
	switch s.ID {
	case http2.SettingMaxConcurrentStreams:
		c.peerStreams = s.Val
	case http2.SettingMaxFrameSize:
		c.peerFrame = min(int(s.Val), maxSendFrame)
	case http2.SettingMaxHeaderListSize:
		c.peerHead = int(min(s.Val, maxHead))
	case http2.SettingHeaderTableSize:
		c.henc.SetMaxDynamicTableSize(min(s.Val, 4096))
	case http2.SettingInitialWindowSize:
		c.peerWindow = int64(s.Val)
	}
	return nil
}

// onGoAway lets no new stream begin. Those the peer will not look at fail at
// once, and may be repeated elsewhere (RFC 9113 §6.8).
func (c *h2Conn) onGoAway(f *http2.GoAwayFrame) {
	began := !c.draining
	c.draining = true
	for id, s := range c.streams {
		if id > f.LastStreamID {
			s.failLocked(errGoAway, true)
		}
	}
	if len(c.streams)+c.reserved == 0 {
		c.finishLocked()
	}
	if began {
		c.pool.wake()
	}
}
