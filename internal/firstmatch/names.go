// Package firstmatch finds, of a long ordered list of rules, the first one that
// matches a name or an address: among a million rules in the time of a few
// look-ups in memory, without allocating. It knows rules by their position in the
// list only.
package firstmatch

import (
	"math"
	"strings"
)

// None is the position of the match that there is not: behind every other.
const None = math.MaxUint32

// Names finds the first rule on names. Build it with Add; after that it may be
// read from any goroutine.
type Names struct {
	rules map[string]namePos

	// labels is how many labels the longest name of a rule has that stands for
	// what is below it. More of a name never needs to be looked at, however
	// many labels a client makes up.
	labels int

	text strings.Builder // of the names that were added last
}

// namePos is where the first rules on a name stand.
type namePos struct {
	exact uint32 // on the name alone
	below uint32 // on the name and everything below it
}

// NewNames makes an empty list.
func NewNames() *Names { return &Names{rules: make(map[string]namePos)} }

// Len returns how many different names there are.
func (n *Names) Len() int { return len(n.rules) }

// Add adds a rule at a position: on the name, or with below on the name and
// everything below it. Names must be canonical: what is not equal byte for byte is
// another name. The string is not kept.
func (n *Names) Add(name string, below bool, pos uint32) {
	at, known := n.rules[name]
	if !known {
		at = namePos{None, None}
		name = n.keep(name)
	}
	if below {
		at.below = min(at.below, pos)
		n.labels = max(n.labels, strings.Count(name, ".")+1)
	} else {
		at.exact = min(at.exact, pos)
	}
	n.rules[name] = at
}

// textBlock is how much text of names is allocated at once.
const textBlock = 64 << 10

// keep copies a name to where it lies side by side with the others: a million
// strings by themselves would cost the garbage collector more than their text. A
// block is never grown, so what was cut from it stays where it is.
func (n *Names) keep(name string) string {
	if n.text.Cap()-n.text.Len() < len(name) {
		n.text = strings.Builder{}
		n.text.Grow(max(textBlock, len(name)))
	}
	start := n.text.Len()
	n.text.WriteString(name)
	return n.text.String()[start:]
}

// First returns the lowest position of the rules that match a name, or None.
func (n *Names) First(name string) uint32 {
	first := uint32(None)
	if at, ok := n.rules[name]; ok {
		first = min(at.exact, at.below)
	}
	// From the right, since that is where the rules' names end.
	dot := len(name)
	for range n.labels {
		dot = strings.LastIndexByte(name[:dot], '.')
		if dot < 0 {
			break // the name itself has been looked up
		}
		if at, ok := n.rules[name[dot+1:]]; ok {
			first = min(first, at.below)
		}
	}
	return first
}
