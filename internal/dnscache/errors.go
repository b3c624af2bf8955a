package dnscache

import (
	"context"
	"errors"
	"net"
)

// ErrNoTurn is why nothing is known of a name that was never asked for: too many other
// questions were under way.
var ErrNoTurn = errors.New("too many questions to the resolver are under way")

// ErrHostsFile is why nothing is known of a name: it might stand in the hosts file, which
// cannot be read.
var ErrHostsFile = errors.New("the hosts file cannot be read")

// ErrHostsFileEmpty is what Config.TellHostsFile is told of a hosts file in which nothing
// stands any more: it was cut off, more likely than not.
var ErrHostsFileEmpty = errors.New("the hosts file is empty now")

// Question tells one question to a backend from the next. Whoever waits for its answer, or
// gets it while it is remembered, finds the same one in the error.
type Question struct{ _ byte }

// fixedQuestion is that of names whose addresses nobody is asked for.
var fixedQuestion = new(Question)

// Because is the error with the question that brought it.
func (q *Question) Because(err error) error { return &askedError{q, err} }

// QuestionOf returns the question that an error is an answer to, nil if there is none.
func QuestionOf(err error) *Question {
	if e, ok := errors.AsType[*askedError](err); ok {
		return e.question
	}
	return nil
}

// askedError is what a question brought.
type askedError struct {
	question *Question
	err      error // nil where a *net.DNSError above it says all
}

func (e *askedError) Error() string {
	if e.err == nil {
		return "the name has no addresses"
	}
	return e.err.Error()
}

func (e *askedError) Unwrap() error { return e.err }

// Answered reports whether servers have answered, if only that they cannot tell.
func Answered(err error) bool {
	if _, ok := errors.AsType[refusal](err); ok {
		return true
	}
	d, ok := errors.AsType[*net.DNSError](err)
	return ok && (d.IsNotFound || d.Err == "server misbehaving") // as Go's resolver has it
}

// notFound is the error for a name that does not exist, or has no addresses of a
// family.
func notFound(name string, f Family, noName bool, q *Question) error {
	reason := "no such host"
	if !noName {
		reason = "no " + f.String() + " address"
	}
	return &net.DNSError{UnwrapErr: q.Because(nil), Err: reason, Name: name, IsNotFound: true}
}

// failed is the error for a name of which nothing could be learned.
func failed(name string, err error, q *Question) error {
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		out := *d
		out.UnwrapErr = q.Because(d.UnwrapErr)
		return &out
	}
	var ne net.Error
	timeout := errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
	return &net.DNSError{UnwrapErr: q.Because(err), Err: err.Error(), Name: name, IsTimeout: timeout, IsTemporary: true}
}
