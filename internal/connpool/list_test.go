package connpool

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

type item struct {
	id   int
	node node[item]
}

func (l *list[T]) all() (items []*T) {
	for n := l.front; n != nil; n = n.next {
		items = append(items, n.item)
	}
	return items
}

// A list behaves as a slice.
func TestListModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l list[item]
		var model []*item
		id := 0
		t.Repeat(map[string]func(*rapid.T){
			"back": func(*rapid.T) {
				id++
				it := &item{id: id}
				l.pushBack(&it.node, it)
				model = append(model, it)
			},
			"front": func(*rapid.T) {
				id++
				it := &item{id: id}
				l.pushFront(&it.node, it)
				model = slices.Insert(model, 0, it)
			},
			"remove": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(model)-1).Draw(t, "i")
				model[i].node.remove()
				model[i].node.remove() // nothing the second time
				model = slices.Delete(model, i, i+1)
			},
			"": func(t *rapid.T) {
				if l.n != len(model) || !slices.Equal(l.all(), model) {
					t.Fatalf("list of %d differs from model of %d", l.n, len(model))
				}
				if l.n > 0 && (l.back.item != model[l.n-1] || l.front.prev != nil || l.back.next != nil) {
					t.Fatal("ends are wrong")
				}
			},
		})
	})
}
