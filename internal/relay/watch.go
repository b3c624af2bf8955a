package relay

import "time"

// This file contains how a client is seen to have reset its connection while nobody
// reads from it: because its bytes wait for the origin or for their rate, or because it
// has ended its direction before. Its socket is looked at once a second then.
//
// A client that closes in order cannot be told from one that has ended its direction
// and waits for the answer.

const watchInterval = time.Second

// watch has the client looked at, if it is a socket, until there is no reason any more.
// It is called before a wait, so it costs next to nothing where that was done already.
func (r *Relay) watch() {
	if r.socket == nil || r.watched.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchLocked()
}

func (r *Relay) watchLocked() {
	if r.socket == nil || r.phase != phaseRunning || r.watched.Swap(true) {
		return
	}
	r.ticks.Add(1)
	if r.watcher == nil {
		r.watcher = time.AfterFunc(watchInterval, r.lookAtClient)
	} else {
		r.watcher.Reset(watchInterval)
	}
}

// unwatch stops the timer. A look that runs already is not affected. r.mu is held.
func (r *Relay) unwatch() {
	if r.watcher != nil && r.watcher.Stop() {
		r.ticks.Done()
	}
}

// lookAtClient ends the tunnel if the client has reset its connection. It is called by
// the timer.
func (r *Relay) lookAtClient() {
	defer r.ticks.Done()
	r.watched.Store(false) // first: whoever begins to wait after the look asks for another
	switch unread, reset := r.clientReset(); {
	case reset:
		r.readFailed(&r.up, errHiddenReset)
	case unread:
		r.watch()
	}
}

// clientReset reports whether nobody reads from the client, and whether it has reset its
// connection then.
func (r *Relay) clientReset() (unread, reset bool) {
	failed, closed := broken(r.socket)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining != 0 || r.up.through && r.down.through || !r.up.through && !r.up.holds() {
		return false, false
	}
	// A socket that both sides have ended is closed, too.
	return true, failed || closed && !r.down.through
}

// ClientBroke tells that the client has reset a stream that is no socket, and so cannot be
// looked at: the tunnel ends as if a read had said so. It may be called at any time from
// any goroutine.
func (r *Relay) ClientBroke(err error) {
	r.mu.Lock()
	draining := r.draining != 0
	r.mu.Unlock()
	if !draining {
		r.readFailed(&r.up, err)
	}
}
