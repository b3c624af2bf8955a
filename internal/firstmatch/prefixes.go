package firstmatch

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// Entry is a rule on the addresses of a prefix.
type Entry struct {
	Prefix netip.Prefix
	Pos    uint32 // among all rules, from 0: the lowest wins
}

// Prefixes finds the first rule on addresses. It is immutable. The zero value has
// no rules.
//
// A prefix trie answers with the longest prefix that has an address in it, which
// is rarely the first rule. So each prefix holds the lowest position of all those
// that cover it, its own included, and one look-up answers.
type Prefixes struct {
	table bart.Table[uint32]
}

// NewPrefixes makes the list of entries, whose prefixes must be valid, masked and
// not IPv4-mapped. It takes the slice over.
func NewPrefixes(entries []Entry) *Prefixes {
	// Whatever covers a prefix comes before it then, and what is equal side by
	// side with the first rule in front.
	slices.SortFunc(entries, func(a, b Entry) int {
		if c := a.Prefix.Compare(b.Prefix); c != 0 {
			return c
		}
		return int(int64(a.Pos) - int64(b.Pos))
	})
	p := new(Prefixes)
	var around []Entry // those in the trie that cover the current one, widest first
	for _, e := range entries {
		for len(around) > 0 && !covers(around[len(around)-1].Prefix, e.Prefix) {
			around = around[:len(around)-1]
		}
		// Positions in around only fall, so the last one is the lowest. A rule
		// behind it decides nothing.
		if len(around) > 0 && around[len(around)-1].Pos <= e.Pos {
			continue
		}
		p.table.Insert(e.Prefix, e.Pos)
		around = append(around, e)
	}
	return p
}

// covers reports whether every address of b is in a.
func covers(a, b netip.Prefix) bool { return a.Bits() <= b.Bits() && a.Contains(b.Addr()) }

// First returns the lowest position of the rules whose prefix has the address in
// it, or None. An address that is IPv4-mapped or has a zone is in no prefix.
func (p *Prefixes) First(ip netip.Addr) uint32 {
	if ip.Is4In6() || ip.Zone() != "" {
		return None
	}
	if pos, ok := p.table.Lookup(ip); ok {
		return pos
	}
	return None
}

// Len returns how many prefixes decide something.
func (p *Prefixes) Len() int { return p.table.Size() }
