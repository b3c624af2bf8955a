package firstmatch

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"math"
	"strings"
)

// None is the position of the match that there is not: behind every other.
const None = math.MaxUint32

// MaxName is the length of the longest name, in bytes. That of a host name is 253.
const MaxName = math.MaxUint8

// Errors of Names.Add.
var (
	ErrLong = errors.New("the name is longer than 255 bytes")
	ErrFull = errors.New("there are more names than 4 GiB can hold")
)

// Names finds the first rule on names. Build it with Add; after that it may be
// read from any goroutine.
//
// It is a hash table with open addressing that holds no pointers. In a list of this
// size next to nothing is in the processor's caches, and nearly every suffix of a
// name that is asked for is not in the list: such a miss costs one access to memory
// here, where a Go map takes several. Nor does the garbage collector have a million
// strings to visit.
type Names struct {
	seed    maphash.Seed
	slots   []slot // a power of two of them
	records []byte // one behind the other
	count   int

	// labels is how many labels the longest name of a rule has that stands for
	// what is below it. More of a name never needs to be looked at, however
	// many labels a client makes up.
	labels int
}

// slot is empty, or half of the hash of a name and, above it, the place of its
// record plus one.
type slot uint64

func newSlot(hash uint64, place int) slot { return slot(hash>>32 | uint64(place+1)<<32) }

func (s slot) mayBe(hash uint64) bool { return uint32(s) == uint32(hash>>32) }
func (s slot) place() int             { return int(s>>32) - 1 }

// A record is the position of the first rule on the name alone, that of the first
// on the name and everything below it, the length of the name, and the name.
const (
	recordExact = 0
	recordBelow = 4
	recordLen   = 8
	recordName  = 9
)

func position(record []byte, which int) uint32 { return binary.LittleEndian.Uint32(record[which:]) }

func lowerPosition(record []byte, which int, pos uint32) {
	binary.LittleEndian.PutUint32(record[which:], min(pos, position(record, which)))
}

func nameOf(record []byte) []byte { return record[recordName:][:record[recordLen]] }

// NewNames makes an empty list.
func NewNames() *Names { return &Names{seed: maphash.MakeSeed(), slots: make([]slot, 8)} }

// Len returns how many different names there are.
func (n *Names) Len() int { return n.count }

// Add adds a rule at a position: on the name, or with below on the name and
// everything below it. Names must be canonical: what is not equal byte for byte is
// another name. The string is not kept. The error is ErrLong or ErrFull.
func (n *Names) Add(name string, below bool, pos uint32) error {
	if len(name) > MaxName {
		return ErrLong
	}
	hash := maphash.String(n.seed, name)
	record := n.find(name, hash, n.slots[hash&n.mask()])
	if record == nil {
		if len(n.records)+recordName+len(name) >= math.MaxUint32 {
			return ErrFull
		}
		record = n.insert(name)
	}
	if below {
		lowerPosition(record, recordBelow, pos)
		n.labels = max(n.labels, strings.Count(name, ".")+1)
	} else {
		lowerPosition(record, recordExact, pos)
	}
	return nil
}

// probe is a part of a name that is looked up.
type probe struct {
	start int // of the part in the name
	hash  uint64
	slot  slot // the first that it may be in
}

// First returns the lowest position of the rules that match a name, or None.
//
// It goes through the name from the right, where the rules' names end, and looks at
// the name itself last. The slots of several parts are read before any is looked
// at, so that the processor waits for memory once and not for each.
func (n *Names) First(name string) uint32 {
	first := uint32(None)
	var probes [8]probe
	count := 0
	for depth, dot := 0, len(name); ; depth++ {
		start := 0
		if depth < n.labels {
			dot = strings.LastIndexByte(name[:dot], '.')
			start = dot + 1 // 0 where there is no dot
		}
		hash := maphash.String(n.seed, name[start:])
		probes[count] = probe{start, hash, n.slots[hash&n.mask()]}
		count++
		if start > 0 && count < len(probes) {
			continue
		}
		for i := range probes[:count] {
			first = min(first, n.firstOf(name, &probes[i]))
		}
		if start == 0 {
			return first
		}
		count = 0
	}
}

// firstOf returns the lowest position of the rules on a part of a name that match
// the name.
func (n *Names) firstOf(name string, p *probe) uint32 {
	record := n.find(name[p.start:], p.hash, p.slot)
	switch {
	case record == nil:
		return None
	case p.start == 0:
		return min(position(record, recordExact), position(record, recordBelow))
	}
	return position(record, recordBelow)
}

// find returns the record of a name, or nil. s is the slot that its hash points to.
func (n *Names) find(name string, hash uint64, s slot) []byte {
	for at := hash + 1; s != 0; at++ {
		if s.mayBe(hash) {
			if record := n.records[s.place():]; string(nameOf(record)) == name {
				return record
			}
		}
		s = n.slots[at&n.mask()]
	}
	return nil
}

func (n *Names) mask() uint64 { return uint64(len(n.slots) - 1) }

// insert adds a name that is not in the list, without rules.
func (n *Names) insert(name string) (record []byte) {
	if 3*len(n.slots) < 4*(n.count+1) { // at most three of four are taken
		n.grow()
	}
	place := len(n.records)
	n.records = binary.LittleEndian.AppendUint32(n.records, None)
	n.records = binary.LittleEndian.AppendUint32(n.records, None)
	n.records = append(n.records, byte(len(name)))
	n.records = append(n.records, name...)
	n.count++
	n.point(place)
	return n.records[place:]
}

func (n *Names) grow() {
	n.slots = make([]slot, 2*len(n.slots))
	for place := 0; place < len(n.records); {
		n.point(place)
		place += recordName + int(n.records[place+recordLen])
	}
}

// point lets the first empty slot from where the hash of a name points hold its
// record.
func (n *Names) point(place int) {
	hash := maphash.Bytes(n.seed, nameOf(n.records[place:]))
	at := hash & n.mask()
	for n.slots[at] != 0 {
		at = (at + 1) & n.mask()
	}
	n.slots[at] = newSlot(hash, place)
}
