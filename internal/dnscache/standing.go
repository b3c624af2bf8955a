package dnscache

import (
	"context"
	"errors"
	"math/rand/v2"
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

	// outdoneToCheck is how many questions that a server gave no answer to others must
	// have answered before it is checked: about however few names.
	outdoneToCheck = 2

	// downFor is how long a server that has failed its check is asked last, before it
	// is checked again.
	downFor = 30 * time.Second

	// knownQuestions is how many questions that a server has answered are remembered.
	knownQuestions = 4
)

// known is a question.
type known struct {
	name string
	kind uint16
}

// standing is what is known of whether a server answers at all. A name that it does not
// answer for is no evidence: the name servers of that name may be silent, and whoever
// asks for such names must not decide which server the others are asked from. So
// several names only make it checked, or a few questions that another server has answered:
// with questions that it has answered before and with one about the root, which most
// resolvers answer of themselves. The check decides. The zero value is a server that is up.
// It is safe for concurrent use.
type standing struct {
	mu       sync.Mutex
	missed   []string  // names without an answer since the last answer, each once
	outdid   int       // questions since then that another server has answered
	downTill time.Time // zero where the server is up; later, it is due for a check
	checking bool
	known    []known // some that it has told about, picked at random
}

// answered notes an answer, whatever it says.
func (s *standing) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missed, s.outdid, s.downTill = s.missed[:0], 0, time.Time{}
}

// told notes an answer that says something about a name. Which ones are remembered is
// left to chance: whoever asks for names that fall silent later has only a share.
func (s *standing) told(k known) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missed, s.outdid, s.downTill = s.missed[:0], 0, time.Time{}
	switch {
	case slices.Contains(s.known, k):
	case len(s.known) < knownQuestions:
		s.known = append(s.known, k)
	default:
		s.known[rand.IntN(knownQuestions)] = k
	}
}

// questions are those that a server is checked with: each an own message, also about
// the root. Servers that drop questions about the root are common.
func (s *standing) questions() []*dns.Msg {
	s.mu.Lock()
	list := append([]known{{".", dns.TypeNS}}, s.known...)
	s.mu.Unlock()
	var out []*dns.Msg
	for _, k := range list {
		q := new(dns.Msg)
		q.SetQuestion(k.name, k.kind)
		q.SetEdns0(maxUDP, false)
		out = append(out, q)
	}
	return out
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

// outdone notes that another server has answered what this one gave no answer to, and
// reports whether it is to be checked now.
func (s *standing) outdone() (check bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.downTill.IsZero() || s.checking {
		return false
	}
	s.outdid++
	s.checking = s.outdid >= outdoneToCheck
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
	s.missed, s.outdid, s.checking, s.downTill = s.missed[:0], 0, false, time.Time{}
	if !answered {
		s.downTill = now.Add(downFor)
	}
}

// isUp reports whether the server is asked in its turn. Nobody waits for a check, which
// puts the question that somebody has now as well.
func (e *exchanger) isUp(name string, f Family) bool {
	up, check := e.standing.up(time.Now())
	if check {
		go e.check(question(name, f))
	}
	return up
}

// isOwnFault reports whether a question was never put for want of a descriptor.
func isOwnFault(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// missed notes that there was no answer about a name, and reports whether it did: not
// where that was our own fault.
func (e *exchanger) missed(name string, err error) bool {
	if isOwnFault(err) {
		return false
	}
	if e.standing.miss(name) {
		go e.check()
	}
	return true
}

// outdoes notes that the server has answered what others gave no answer to.
func (e *exchanger) outdoes(others []*exchanger) {
	for _, o := range others {
		if o != e && o.standing.outdone() {
			go o.check()
		}
	}
}

// check asks what the server is known to answer, about the root, and more. Any answer
// will do, an error too. Where nothing could be asked, it is taken to be up.
func (e *exchanger) check(more ...*dns.Msg) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	list := append(e.standing.questions(), more...)
	answers := make(chan bool, len(list))
	for _, q := range list {
		go func() {
			_, err := e.query(ctx, q)
			_, refused := errors.AsType[refusal](err)
			answers <- err == nil || refused || isOwnFault(err)
		}()
	}
	answered := false
	for range list {
		if answered = <-answers; answered {
			break
		}
	}
	e.standing.checked(answered, time.Now())
}
