package firstmatch

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Names and prefixes that overlap, and addresses and names near them.
var (
	labels  = rapid.SampledFrom([]string{"a", "b", "com", "example", "x-y", "1"})
	nameGen = rapid.Custom(func(t *rapid.T) string {
		name := strings.Join(rapid.SliceOfN(labels, 1, 5).Draw(t, "labels"), ".")
		if rapid.IntRange(0, 3).Draw(t, "long") == 0 { // more labels than are looked up at once
			name += strings.Repeat(".a", rapid.IntRange(1, 20).Draw(t, "more"))
		}
		return name
	})
	addrGen4 = rapid.Custom(func(t *rapid.T) netip.Addr {
		b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 10, 127, 128, 192, 255}), 4, 4).Draw(t, "bytes")
		return netip.AddrFrom4([4]byte(b))
	})
	addrGen6 = rapid.Custom(func(t *rapid.T) netip.Addr {
		b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 0, 1, 0x80, 0xff, 0x20}), 16, 16).Draw(t, "bytes")
		return netip.AddrFrom16([16]byte(b)).Unmap()
	})
	addrGen   = rapid.OneOf(addrGen4, addrGen6)
	prefixGen = rapid.Custom(func(t *rapid.T) netip.Prefix {
		a := addrGen.Draw(t, "addr")
		p, _ := a.Prefix(rapid.IntRange(0, a.BitLen()).Draw(t, "bits"))
		return p
	})
	posGen = rapid.Uint32Range(0, 40)
)

func add(t rapid.TB, n *Names, name string, below bool, pos uint32) {
	t.Helper()
	if err := n.Add(name, below, pos); err != nil {
		t.Fatal(err)
	}
}

// Names answers as a walk through the rules does.
func TestNames_Model(t *testing.T) {
	type rule struct {
		name  string
		below bool
		pos   uint32
	}
	rapid.Check(t, func(t *rapid.T) {
		n := NewNames()
		var rules []rule
		for range rapid.IntRange(0, 30).Draw(t, "rules") {
			r := rule{nameGen.Draw(t, "name"), rapid.Bool().Draw(t, "below"), posGen.Draw(t, "pos")}
			rules = append(rules, r)
			add(t, n, r.name, r.below, r.pos)
		}
		for range 20 {
			name := nameGen.Draw(t, "asked")
			want := uint32(None)
			for _, r := range rules {
				if name == r.name || r.below && strings.HasSuffix(name, "."+r.name) {
					want = min(want, r.pos)
				}
			}
			if got := n.First(name); got != want {
				t.Fatalf("%q in %+v: %d, want %d", name, rules, got, want)
			}
		}
	})
}

// What is added later, and the growth that comes with it, leaves alone what is
// there.
func TestNames_Many(t *testing.T) {
	n := NewNames()
	const many = 50000
	name := func(i int) string { return fmt.Sprintf("%s%d.example.com", strings.Repeat("x", i%60), i) }
	for i := range many {
		add(t, n, name(i), i%2 == 0, uint32(i))
		add(t, n, name(i), i%2 == 0, uint32(i)+many)
	}
	for i := range many {
		if got := n.First(name(i)); got != uint32(i) {
			t.Fatalf("%s: %d, want %d", name(i), got, i)
		}
		if got := n.First("x" + name(i)); got != None && got != uint32(i)+1 {
			t.Fatalf("x%s: %d", name(i), got)
		}
	}
	if n.Len() != many {
		t.Errorf("%d names", n.Len())
	}
}

// A name of any length finds its way in and out, or is none.
func TestNames_Lengths(t *testing.T) {
	n := NewNames()
	for i := range MaxName + 1 {
		add(t, n, strings.Repeat("y", i), false, uint32(i))
	}
	if err := n.Add(strings.Repeat("y", MaxName+1), false, 0); !errors.Is(err, ErrLong) {
		t.Errorf("a name that is too long: %v", err)
	}
	for i := range MaxName + 1 {
		if got := n.First(strings.Repeat("y", i)); got != uint32(i) {
			t.Errorf("%d letters: %d", i, got)
		}
	}
	if got := n.First(strings.Repeat("y", MaxName+1)); got != None || n.Len() != MaxName+1 {
		t.Errorf("more letters than a name has: %d of %d", got, n.Len())
	}
}

// However many labels a name has, only as many are looked at as rules have.
func TestNames_ManyLabels(t *testing.T) {
	n := NewNames()
	add(t, n, "example.com", true, 3)
	add(t, n, strings.Repeat("a.", 60)+"net", false, 5)
	for name, want := range map[string]uint32{
		strings.Repeat("a.", 120) + "example.com": 3,
		strings.Repeat("a.", 60) + "net":          5,
		strings.Repeat("a.", 61) + "net":          None,
		"example.com":                             3,
		"com":                                     None,
		"badexample.com":                          None,
		"":                                        None,
		".":                                       None,
		".example.com":                            3,
	} {
		if got := n.First(name); got != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
	if n.labels != 2 {
		t.Errorf("%d labels are looked at", n.labels)
	}
}

// Prefixes answers as a walk through the rules does.
func TestPrefixes_Model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rules []Entry
		for range rapid.IntRange(0, 40).Draw(t, "rules") {
			rules = append(rules, Entry{prefixGen.Draw(t, "prefix"), posGen.Draw(t, "pos")})
		}
		p := NewPrefixes(append([]Entry(nil), rules...))
		asked := rapid.SliceOfN(addrGen, 10, 10).Draw(t, "asked")
		for _, r := range rules {
			asked = append(asked, r.Prefix.Addr())
		}
		for _, a := range asked {
			want := uint32(None)
			for _, r := range rules {
				if r.Prefix.Contains(a) {
					want = min(want, r.Pos)
				}
			}
			if got := p.First(a); got != want {
				t.Fatalf("%v in %+v: %d, want %d", a, rules, got, want)
			}
		}
		if p.Len() > len(rules) {
			t.Fatalf("%d prefixes of %d rules", p.Len(), len(rules))
		}
	})
}

// As netip has it, no prefix contains an address with a zone or one that is
// IPv4-mapped, and nothing contains none.
func TestPrefixes_OtherForms(t *testing.T) {
	p := NewPrefixes([]Entry{{netip.MustParsePrefix("0.0.0.0/0"), 1}, {netip.MustParsePrefix("::/0"), 2}})
	for a, want := range map[netip.Addr]uint32{
		netip.MustParseAddr("::ffff:1.2.3.4"): None,
		netip.MustParseAddr("fe80::1%eth0"):   None,
		netip.MustParseAddr("fe80::1"):        2,
		netip.MustParseAddr("1.2.3.4"):        1,
		{}:                                    None,
	} {
		if got := p.First(a); got != want {
			t.Errorf("%v: %d, want %d", a, got, want)
		}
	}
	if got := new(Prefixes).First(netip.MustParseAddr("1.2.3.4")); got != None {
		t.Errorf("the zero value: %d", got)
	}
}

// What decides nothing takes no room.
func TestPrefixes_Redundant(t *testing.T) {
	p := NewPrefixes([]Entry{
		{netip.MustParsePrefix("10.1.0.0/16"), 4},
		{netip.MustParsePrefix("10.0.0.0/8"), 4},
		{netip.MustParsePrefix("10.0.0.0/8"), 7},
		{netip.MustParsePrefix("10.2.0.0/16"), 3},
	})
	if p.Len() != 2 {
		t.Errorf("%d prefixes, want 2", p.Len())
	}
}
