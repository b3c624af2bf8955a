package dnscache

import (
	"context"
	"errors"
	"net"
)

// ErrNoTurn is why nothing is known of a name that was never asked for: too many other
// questions were under way.
var ErrNoTurn = errors.New("too many questions to the resolver are under way")

// notFound is the error for a name that does not exist, or has no addresses of a
// family.
func notFound(name string, f Family, noName bool) error {
	reason := "no such host"
	if !noName {
		reason = "no " + f.String() + " address"
	}
	return &net.DNSError{Err: reason, Name: name, IsNotFound: true}
}

// failed is the error for a name of which nothing could be learned.
func failed(name string, err error) error {
	var d *net.DNSError
	if errors.As(err, &d) {
		return d
	}
	var ne net.Error
	timeout := errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
	return &net.DNSError{UnwrapErr: err, Err: err.Error(), Name: name, IsTimeout: timeout, IsTemporary: true}
}
