package acl

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/target"
)

const (
	manyNames    = 1_000_000
	manyPrefixes = 100_000
)

// hugeName is a name of a block list, of two to four labels.
func hugeName(i int) string {
	r := rand.New(rand.NewPCG(uint64(i), 1))
	name := fmt.Sprintf("%x%d.example%d.net", r.Uint32(), i, r.IntN(5000))
	return strings.Repeat("ads.", r.IntN(2)) + name
}

// hugePrefix is a prefix outside of 8.0.0.0/8.
func hugePrefix(i int) netip.Prefix {
	r := rand.New(rand.NewPCG(uint64(i), 2))
	a := netip.AddrFrom4([4]byte{11 + byte(r.IntN(80)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
	p, _ := a.Prefix(16 + r.IntN(17))
	return p
}

// hugeFiles writes a million names, every other with all that is below it, and a
// hundred thousand CIDRs.
func hugeFiles(tb testing.TB) []Rule {
	tb.Helper()
	dir := tb.TempDir()
	write := func(name string, n int, line func(i int) string) string {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			tb.Fatal(err)
		}
		defer f.Close()
		w := bufio.NewWriter(f)
		for i := range n {
			fmt.Fprintln(w, line(i))
		}
		if err := w.Flush(); err != nil {
			tb.Fatal(err)
		}
		return path
	}
	names := write("names", manyNames, func(i int) string {
		if i%2 == 0 {
			return "*." + hugeName(i)
		}
		return hugeName(i)
	})
	cidrs := write("cidrs", manyPrefixes, func(i int) string { return hugePrefix(i).String() })
	return []Rule{{Files: []string{names, cidrs}}}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Huge lists refuse what they name, and nothing else, without allocating.
func TestAccessList_Huge(t *testing.T) {
	if testing.Short() {
		t.Skip("a million rules")
	}
	before := heap()
	l, err := New(hugeFiles(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if mib := (heap() - before) >> 20; mib > 200 {
		t.Errorf("the list takes %d MiB", mib)
	}
	if l.files != manyNames+manyPrefixes {
		t.Errorf("%d subjects", l.files)
	}
	for i := 0; i < manyNames; i += 97 {
		name := hugeName(i)
		if l.CheckTarget(target.Target{Host: name, Port: 443}) == nil {
			t.Errorf("%s is allowed", name)
		}
		below := l.CheckTarget(target.Target{Host: "www." + name, Port: 443}) != nil
		if below != (i%2 == 0) {
			t.Errorf("what is below %s: refused %t", name, below)
		}
	}
	for i := 0; i < manyPrefixes; i += 97 {
		ip := hugePrefix(i).Addr()
		if l.CheckAddr(target.Target{Host: "example.org", Port: 443}, ip) == nil {
			t.Errorf("%s is allowed", ip)
		}
	}
	if n := testing.AllocsPerRun(100, func() { hugeMatches(t, l, 5) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	runtime.KeepAlive(l)
}

var hugeAllowed = mustTargets("www.a.shop.example.org", "cdn.example77.net", "login.example.com", "x.y.z.w.v.example4999.net")

func mustTargets(names ...string) (targets []target.Target) {
	for _, name := range names {
		targets = append(targets, target.Target{Host: name, Port: 443})
	}
	return targets
}

// hugeMatches asks for a name, and for an address of it, that are allowed.
func hugeMatches(tb testing.TB, l *List, i int) {
	t := hugeAllowed[i%len(hugeAllowed)]
	ip := netip.AddrFrom4([4]byte{8, byte(i >> 16), byte(i >> 8), byte(i)})
	if l.CheckTarget(t) != nil || l.CheckAddr(t, ip) != nil {
		tb.Fatal("refused")
	}
}

func BenchmarkAccessListHuge(b *testing.B) {
	rules := hugeFiles(b)
	b.Run("load", func(b *testing.B) {
		b.ReportAllocs()
		var l *List
		before := heap()
		for b.Loop() {
			var err error
			if l, err = New(rules, nil); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(heap()-before)/(1<<20), "MiB/list")
		runtime.KeepAlive(l)
	})
	l, err := New(rules, nil)
	if err != nil {
		b.Fatal(err)
	}
	// Names and addresses in no order, so that little of the list is in the cache.
	names := make([]target.Target, 1<<16)
	addrs := make([]netip.Addr, 1<<16)
	for i := range names {
		names[i] = target.Target{Host: "www." + hugeName(rand.IntN(manyNames)), Port: 443}
		addrs[i] = hugePrefix(rand.IntN(manyPrefixes)).Addr()
	}
	b.Run("allowed name and address", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			hugeMatches(b, l, i)
		}
	})
	b.Run("name", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			_ = l.CheckTarget(names[i%len(names)])
		}
	})
	b.Run("address", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			_ = l.CheckAddr(hugeAllowed[0], addrs[i%len(addrs)])
		}
	})
	b.Run("many labels", func(b *testing.B) {
		b.ReportAllocs()
		t := target.Target{Host: strings.Repeat("a.", 110) + "example.net", Port: 443}
		for b.Loop() {
			_ = l.CheckTarget(t)
		}
	})
}
