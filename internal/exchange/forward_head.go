package exchange

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/retry"
)

// This file contains how the head of a response is waited for.

// headWaits is how many times response_header_timeout informational responses can make
// the wait for the final head last, each by one at most.
const headWaits = 3

// noResponse sorts an error of reading the response head: nothing came at all,
// or it took too long, or what came is malformed.
func noResponse(c *h1.Conn, err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && !c.Heard():
		return failure.HeadTimeout.Because(fmt.Errorf("%w: %w", failure.ErrSilent, err))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return failure.HeadTimeout.Because(err)
	case endedUnheard(c, err):
		return &retry.StaleError{Written: true, Err: err}
	}
	return err
}

// endedUnheard reports whether a connection has ended before any byte of a response.
func endedUnheard(c *h1.Conn, err error) bool {
	return errors.Is(err, h1.ErrClosedBeforeResponse) ||
		!c.Heard() && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE))
}

// readFinalHead reads response heads until the final one and forwards the
// informational ones (RFC 9110 §15.2). It starts the upload: at once, or where
// the client expects a 100, when the origin has said so or has been silent for
// long enough (§10.1.1).
func (t *Exchange) readFinalHead(c *h1.Conn, hd *h1.Head, w *watch) error {
	up := t.upload
	begun := time.Now()
	deadline := t.headDeadline(begun)
	waiting := up != nil && up.expectsContinue
	switch {
	case waiting:
		deadline = begun.Add(t.Config.ExpectTimeout)
	case up != nil:
		up.start(c)
	}
	if up == nil || waiting {
		if err := c.SetReadDeadline(w.first(deadline)); err != nil {
			return err
		}
	}
	for {
		err := c.ReadHead(hd, t.Config.MaxHead)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			switch {
			case w.stop == nil:
				w.start()
				if err = c.SetReadDeadline(deadline); err == nil {
					continue
				}
			case waiting:
				waiting = false
				t.writeContinue(up)
				up.start(c)
				continue
			}
		}
		if err != nil {
			return err
		}
		if err := t.noteHead(hd); err != nil {
			return err
		}
		t.Answers()
		switch {
		case hd.Status >= 200:
			return nil
		case hd.Status == http.StatusSwitchingProtocols:
			return t.checkSwitch(hd)
		}
		if err := t.informational(c, hd, up, &waiting); err != nil {
			return err
		}
		switch {
		case up == nil:
			deadline = t.extended(begun)
			err = c.SetReadDeadline(w.first(deadline))
		case !waiting:
			up.extendHeadDeadline()
		}
		if err != nil {
			return err
		}
	}
}

// noteHead takes from a head what protects other requests. That is true of each head,
// the informational ones included: a parent that does not know them may have taken the
// first one for the answer, and named itself there alone.
func (t *Exchange) noteHead(hd *h1.Head) error {
	t.bound = t.bound || authenticatesConnection(hd)
	t.interim = t.interim || hd.Status < 200
	return t.noteRelay(hd)
}

// headDeadline is when the final head must be there that is waited for from then on.
func (t *Exchange) headDeadline(from time.Time) time.Time {
	return from.Add(t.Config.HeadTimeout)
}

// extended is the deadline behind an informational response: the origin works on it.
func (t *Exchange) extended(begun time.Time) time.Time {
	last := begun.Add(headWaits * t.Config.HeadTimeout)
	if next := t.headDeadline(time.Now()); next.Before(last) {
		return next
	}
	return last
}

// informational handles a 1xx response: a 100 that was waited for is passed on
// and starts the upload.
func (t *Exchange) informational(c *h1.Conn, hd *h1.Head, up *upload, waiting *bool) error {
	switch {
	case hd.Status == http.StatusContinue && up != nil && up.expectsContinue:
		t.writeContinue(up)
		if *waiting {
			*waiting = false
			up.start(c)
		}
	case up != nil && up.halfDuplex && !*waiting:
		// Nobody misses it.
	default:
		t.writeInformational(hd)
	}
	return nil
}
