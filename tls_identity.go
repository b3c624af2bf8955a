package egress

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strconv"
	"sync"
)

// This file contains what tells TLS configurations apart whose settings are the same:
// the files that they name may have changed.

// tlsIdentity is the same for configurations with the same certificates and roots.
// Managed certificates are no part of it: they are looked up for each handshake.
func tlsIdentity(c *tls.Config) string {
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

// knownRoots are the sets of roots of this process so far.
var knownRoots rootSets

// rootSets numbers sets of roots: a set can be compared, but not written down. What is
// seen once stays; there are as many as the operator has had versions of them.
type rootSets struct {
	mu   sync.Mutex
	sets []*x509.CertPool
}

func (r *rootSets) number(roots *x509.CertPool) int {
	if roots == nil {
		return -1
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.sets, roots.Equal)
	if i < 0 {
		i = len(r.sets)
		r.sets = append(r.sets, roots)
	}
	return i
}
