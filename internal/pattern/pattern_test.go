package pattern

import (
	"bytes"
	"testing"
)

func TestBodyChecksWhatItMakes(t *testing.T) {
	id := []byte("0123456789abcdef")
	const size = 3*period + 1234
	whole := (&Body{ID: id}).Append(nil, size)
	var sent bytes.Buffer
	if b := (&Body{ID: id}); b.Send(&sent, 100) != nil || b.Send(&sent, size-100) != nil || !bytes.Equal(sent.Bytes(), whole) {
		t.Errorf("sent %d bytes that are not those made", sent.Len())
	}
	if len(whole) != size || !bytes.HasPrefix(whole, id) {
		t.Fatalf("made %d bytes, want %d that begin with the id", len(whole), size)
	}
	for _, step := range []int{1, 7, IDSize, 4096, period, size} {
		b := &Body{ID: id}
		for p := whole; len(p) > 0; p = p[min(step, len(p)):] {
			if err := b.Check(p[:min(step, len(p))]); err != nil {
				t.Fatalf("in steps of %d: %v", step, err)
			}
		}
	}
}

func TestBodySeesEveryMistake(t *testing.T) {
	id := []byte("0123456789abcdef")
	whole := (&Body{ID: id}).Append(nil, 2*period)
	for name, mistake := range map[string]func([]byte) []byte{
		"id of another":  func(p []byte) []byte { p[IDSize-1]++; return p },
		"first behind":   func(p []byte) []byte { p[IDSize]++; return p },
		"last":           func(p []byte) []byte { p[len(p)-1]++; return p },
		"one is missing": func(p []byte) []byte { return append(p[:5000], p[5001:]...) },
		"a block twice":  func(p []byte) []byte { return append(p[:4096], p[:4096]...) },
		"64 KiB missing": func(p []byte) []byte { return append(p[:100], p[100+64<<10:]...) },
	} {
		if err := (&Body{ID: id}).Check(mistake(bytes.Clone(whole))); err == nil {
			t.Errorf("%s: not seen", name)
		}
	}
}
