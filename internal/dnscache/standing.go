package dnscache

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	// missesToCheck is for how many names in a row a server must give no answer before
	// it is checked.
	missesToCheck = 3

	// downFor is how long a server that has failed its check is asked last, before it
	// is checked again.
	downFor = 30 * time.Second
)

// standing is what is known of whether a server answers at all. A name that it does not
// answer for is no evidence: the name servers of that name may be silent, and whoever
// asks for such names must not decide which server the others are asked from. So
// several names only make it checked, with a question that every resolver answers of
// itself; the check decides. The zero value is a server that is up. It is safe for
// concurrent use.
type standing struct {
	mu       sync.Mutex
	missed   []string  // names without an answer since the last answer, each once
	downTill time.Time // zero where the server is up; later, it is due for a check
	checking bool
}

// answered notes an answer, whatever it says.
func (s *standing) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missed, s.downTill = s.missed[:0], time.Time{}
}

// miss notes that there was no answer about a name, and reports whether the server is
// to be checked now.
func (s *standing) miss(name string) (check bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.downTill.IsZero() || s.checking || slices.Contains(s.missed, name) {
		return false
	}
	s.missed = append(s.missed, name)
	s.checking = len(s.missed) >= missesToCheck
	return s.checking
}

// up reports whether the server is up, and whether it is to be checked now.
func (s *standing) up(now time.Time) (up, check bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.downTill.IsZero() {
		return true, false
	}
	check = !s.checking && !now.Before(s.downTill)
	s.checking = s.checking || check
	return false, check
}

// checked notes what a check has found.
func (s *standing) checked(answered bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missed, s.checking, s.downTill = s.missed[:0], false, time.Time{}
	if !answered {
		s.downTill = now.Add(downFor)
	}
}

// isUp reports whether the server is asked in its turn. Nobody waits for a check.
func (e *exchanger) isUp() bool {
	up, check := e.standing.up(time.Now())
	if check {
		go e.check()
	}
	return up
}

// missed notes that there was no answer about a name, unless that was our own fault.
func (e *exchanger) missed(name string, err error) {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return
	}
	if e.standing.miss(name) {
		go e.check()
	}
}

// check asks for the name servers of the root, which every resolver knows. One that
// does not tell them to us says so, which is an answer as well.
func (e *exchanger) check() {
	q := new(dns.Msg)
	q.SetQuestion(".", dns.TypeNS)
	q.SetEdns0(maxUDP, false)
	_, err := e.query(context.Background(), q)
	_, refused := errors.AsType[*rcodeError](err)
	e.standing.checked(err == nil || refused, time.Now())
}
