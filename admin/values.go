package admin

import (
	"math"
	"time"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains what the answers are made of.

// seconds are a duration in JSON. They are told to the microsecond.
type seconds float64

func secondsOf(d time.Duration) seconds { return seconds(math.Round(d.Seconds()*1e6) / 1e6) }

// list is a part of what there is.
type list[T any] struct {
	Total int `json:"total" doc:"How many there are; more than in items where the limit is reached."`
	Items []T `json:"items" doc:"The first of them."`

	limit int
}

func newList[T any](limit int) list[T] { return list[T]{Items: []T{}, limit: limit} }

// add counts an item, which is made only if there is room for it, and reports whether there
// was.
func (l *list[T]) add(item func() T) bool {
	l.Total++
	if len(l.Items) >= l.limit {
		return false
	}
	l.Items = append(l.Items, item())
	return true
}

func (l *list[T]) done() list[T] { return *l }

// anyOf wants any report.
func anyOf[R any](*R) bool { return true }

// maxText is how much is told of an error, which may be somebody else's words.
const maxText = 256

// cut makes a text fit for people.
func cut(s string) string { return plaintext.Short(s, maxText) }

// reported is a handler, and what it is now.
type reported struct {
	selected
	core.Report
}

// reports asks handlers what they are.
func reports(handlers []selected) []reported {
	all := make([]reported, len(handlers))
	for i, h := range handlers {
		all[i] = reported{h, h.Entry.Report()}
	}
	return all
}
