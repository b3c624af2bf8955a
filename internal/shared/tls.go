package shared

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strconv"
	"sync"
	"weak"
)

// This file contains what tells TLS configurations apart whose settings are the same:
// the files that they name may have changed.

// TLSIdentity is the same for configurations with the same certificates and roots.
// Managed certificates are no part of it: they are looked up for each handshake.
func TLSIdentity(c *tls.Config) string {
	if c == nil {
		return ""
	}
	sum := sha256.New()
	for _, cert := range c.Certificates {
		for _, der := range cert.Certificate {
			_, _ = sum.Write(der)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)) + " " + strconv.Itoa(knownRoots.number(c.RootCAs))
}

// knownRoots are the sets of roots in use.
var knownRoots rootSets

// rootSets numbers sets of roots: a set can be compared, but not written down. Equal
// sets have one number as long as any of them is in use, by a configuration or by the
// connections of one before; a number is never given to others.
type rootSets struct {
	mu   sync.Mutex
	last int
	sets []numberedRoots
}

type numberedRoots struct {
	number int
	roots  weak.Pointer[x509.CertPool] // or they would all stay for ever
}

// number returns the number of a set of roots; 0: none, which is the system's.
func (r *rootSets) number(roots *x509.CertPool) int {
	if roots == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sets = slices.DeleteFunc(r.sets, func(s numberedRoots) bool { return s.roots.Value() == nil })
	number := 0
	for _, s := range r.sets {
		switch known := s.roots.Value(); {
		case known == roots:
			return s.number
		case known != nil && known.Equal(roots):
			number = s.number
		}
	}
	if number == 0 {
		r.last++
		number = r.last
	}
	r.sets = append(r.sets, numberedRoots{number, weak.Make(roots)})
	return number
}
