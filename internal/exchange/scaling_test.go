//go:build !race

package exchange

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/proxydial"
)

// This file contains tests of how work grows with what the other side sends: ten times
// as much must cost ten times as much, not a hundred times.

// allocated is how many bytes f allocates.
func allocated(f func()) int64 {
	return testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f()
		}
	}).AllocedBytesPerOp()
}

func TestEqualFieldsCostNoMoreThanTheirNumber(t *testing.T) {
	tx := exchangeOf(t, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n")
	for name, cost := range map[string]func(head *h1.Head) func(){
		"response head": func(head *h1.Head) func() {
			return func() { tx.setFields(make(http.Header), head, nil) }
		},
		"what a parent says of itself": func(head *h1.Head) func() {
			return func() { proxydial.ReplyOf(head) }
		},
	} {
		heads := [2]*h1.Head{{Status: 200}, {Status: 200}}
		for i, n := range []int{100, h1.MaxFields} {
			for range n {
				heads[i].Fields = append(heads[i].Fields, h1.Field{Name: "Via", Value: "1.1 a-proxy"})
			}
		}
		few, many := allocated(cost(heads[0])), allocated(cost(heads[1]))
		if many > 25*few {
			t.Errorf("%s: ten times the fields cost %d bytes instead of %d", name, many, few)
		}
	}
}

// Fields that a handler before has set may share what is behind them in memory.
func TestFieldsAreAddedToThoseOfOthers(t *testing.T) {
	tx := exchangeOf(t, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n")
	shared := []string{"Origin", "untouched"}
	header := http.Header{"Vary": shared[:1]}
	tx.setFields(header, &h1.Head{Fields: []h1.Field{{Name: "Vary", Value: "Accept"}, {Name: "A", Value: "1"}, {Name: "B", Value: "2"}, {Name: "A", Value: "3"}, {Name: "A", Value: "4"}}}, nil)
	if got := fmt.Sprint(header); got != "map[A:[1 3 4] B:[2] Vary:[Origin Accept]]" || shared[1] != "untouched" {
		t.Errorf("%s, and %q", got, shared)
	}
}

// However many options Connection lists, each names a field that stays behind, and a
// look at one field does not go through all of them.
func TestManyConnectionOptions(t *testing.T) {
	for _, n := range []int{1, fewOptions, fewOptions + 1, 5000} {
		var options connectionOptions
		for i := range n {
			options = options.add(fmt.Sprintf("x-%d, close", n-i))
		}
		options.complete()
		for i := range n {
			if !options.has(fmt.Sprintf("X-%d", i+1)) {
				t.Fatalf("%d options: X-%d is not among them", n, i+1)
			}
		}
		if options.has("X-0") || options.has("Close") {
			t.Errorf("%d options: one is found that is not among them", n)
		}
	}
}

func BenchmarkManyConnectionOptions(b *testing.B) {
	for _, n := range []int{fewOptions, 1000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			options := connectionOptions(nil).add(strings.Repeat("X-Listed, ", n))
			options.complete()
			for b.Loop() {
				options.has("X-Other")
			}
		})
	}
}

func TestTooManyFieldsOfAClient(t *testing.T) {
	for n, want := range map[int]bool{h1.MaxFields: true, h1.MaxFields + 1: false} {
		tx := exchangeOf(t, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n"+strings.Repeat("X-Many: 1\r\n", n)+"\r\n")
		_, err := tx.appendRequestHead(nil)
		switch {
		case want && err != nil:
			t.Errorf("%d fields: %v", n, err)
		case !want && (err == nil || failure.Of(err) != failure.Fields || err.Error() != "request has too many header fields: over 1000"):
			t.Errorf("%d fields: %v", n, err)
		}
	}
}
