package failure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/caddy-egress/egress/internal/dnscache"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/target"
)

// ErrSilent is a peer that has sent no byte of a response in time.
var ErrSilent = errors.New("nothing came")

// IsLimit reports whether a limit of a pool has refused.
func IsLimit(err error) bool {
	_, ok := errors.AsType[*connpool.LimitError](err)
	return ok
}

// Of is the one place that turns an error into a failure: everything that
// depends on how a request ended reads its result.
func Of(err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	if e, ok := errors.AsType[interface {
		error
		Failure() *Failure
	}](err); ok {
		return e.Failure()
	}
	if _, ok := errors.AsType[*target.Error](err); ok {
		return Target
	}
	if e, ok := errors.AsType[*connpool.LimitError](err); ok {
		if e.Scope == connpool.ScopeDialsPerKey {
			return Dialing
		}
		return Limit
	}
	if _, ok := errors.AsType[*proxydial.HeadSizeError](err); ok {
		return FieldsSize
	}
	if p, ok := errors.AsType[*h1.ProtocolError](err); ok {
		if p.TooLarge {
			return HeaderSize
		}
		return Protocol
	}
	return classifyNetwork(err)
}

// classifyNetwork sorts what the resolver, the sockets and TLS report.
func classifyNetwork(err error) *Failure {
	if errors.Is(err, context.Canceled) {
		return Canceled
	}
	if descriptors.Out(err) || IsAny(err, syscall.ENOBUFS, syscall.ENOMEM) || errors.Is(err, dnscache.ErrNoTurn) {
		return Limit // also where it is the resolver that needs a descriptor
	}
	if errors.Is(err, dnscache.ErrHostsFile) {
		return Internal
	}
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		if d.IsTimeout {
			return DNSTimeout
		}
		if d.IsNotFound {
			return NoName // the servers are well, and have answered
		}
		return DNS
	}
	if f := classifyTLS(err); f != nil {
		return f
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case IsAny(err, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE) && !NoIPv6(err):
		return Limit // local ports are used up
	case IsAny(err, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN,
		syscall.EADDRNOTAVAIL, syscall.EACCES, syscall.EPERM, syscall.EAFNOSUPPORT):
		return Unroutable
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return DialTimeout
	case errors.Is(err, io.ErrUnexpectedEOF):
		return Incomplete
	case errors.Is(err, h1.ErrClosedBeforeResponse), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return Terminated
	}
	return classifyCall(err)
}

// classifyCall sorts the other errors of system calls on a connection. What is sent by
// others, by ICMP for example, decides about their numbers: none is a fault of ours.
func classifyCall(err error) *Failure {
	call, ok := errors.AsType[*os.SyscallError](err)
	if _, isErrno := errors.AsType[syscall.Errno](err); !ok || !isErrno {
		return Internal
	}
	if _, ok := errors.AsType[*net.OpError](err); !ok {
		return Internal
	}
	switch call.Syscall {
	case "connect", "connectex":
		return Unroutable
	case "read", "write", "readv", "writev", "splice", "sendfile", "wsarecv", "wsasend":
		return Terminated
	}
	return Internal
}

// IsAny reports whether an error is one of some of the system's.
func IsAny(err error, targets ...syscall.Errno) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// NoIPv6 reports whether a dial failed because this machine has no IPv6: the
// same error tells of used-up ports otherwise.
func NoIPv6(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || !errors.Is(err, syscall.EADDRNOTAVAIL) {
		return false
	}
	addr, ok := op.Addr.(*net.TCPAddr)
	return ok && addr.IP.To4() == nil
}

func classifyTLS(err error) *Failure {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return Certificate
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return Certificate
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return TLSAlert // how crypto/tls reports an alert of the peer
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "local error" {
		return TLS // and one of its own, as about a record that is broken
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return TLS
	}
	if h, ok := errors.AsType[*TLSError](err); ok {
		if h.Timeout() {
			return TLSTimeout
		}
		return TLS
	}
	return nil
}

// TLSError is a TLS handshake that failed, so that a reset or an EOF within it
// is told apart from one of the connection.
type TLSError struct{ Err error }

func (e *TLSError) Error() string { return "TLS handshake: " + e.Err.Error() }

func (e *TLSError) Unwrap() error { return e.Err }

// Timeout reports whether the handshake ran out of time.
func (e *TLSError) Timeout() bool {
	ne, ok := errors.AsType[net.Error](e.Err)
	return ok && ne.Timeout() || errors.Is(e.Err, context.DeadlineExceeded)
}
