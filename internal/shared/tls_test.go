package shared

import (
	"crypto/x509"
	"runtime"
	"testing"
)

// sets of roots have the number of their like as long as any of these is in use, and
// are not kept for ever.
func TestRootSets(t *testing.T) {
	rootsOf := func(name string) *x509.CertPool {
		p := x509.NewCertPool()
		p.AddCert(&x509.Certificate{Raw: []byte(name), RawSubject: []byte(name)})
		return p
	}
	var all rootSets
	if n := all.number(nil); n != 0 {
		t.Errorf("no roots have number %d", n)
	}
	first, other := rootsOf("a"), rootsOf("b")
	a, b := all.number(first), all.number(other)
	if a == b || all.number(first) != a {
		t.Errorf("numbers %d and %d", a, b)
	}
	// A configuration takes the place of the one before, and the next that of it.
	second := rootsOf("a")
	if n := all.number(second); n != a {
		t.Errorf("the same roots have number %d and %d", a, n)
	}
	runtime.KeepAlive(first)
	first = nil
	runtime.GC()
	third := rootsOf("a")
	if n := all.number(third); n != a {
		t.Errorf("after the first is gone: number %d, want %d", n, a)
	}
	runtime.KeepAlive(second)
	runtime.KeepAlive(other)
	for range 100 {
		all.number(rootsOf("c"))
		runtime.GC()
	}
	if n := len(all.sets); n > 5 {
		t.Errorf("%d sets are kept", n)
	}
	if n := all.number(rootsOf("b")); n == a || n == b {
		t.Errorf("a number that connections may have was given away again: %d", n)
	}
	runtime.KeepAlive(third)
}
