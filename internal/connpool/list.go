package connpool

// list is a doubly linked list of values that carry their own node, so that
// joining allocates nothing and leaving takes the same time from anywhere.
// It has no lock of its own.
type list[T any] struct {
	front, back *node[T]
	n           int
}

// node is a value's place in at most one list.
type node[T any] struct {
	prev, next *node[T]
	in         *list[T] // the list it is in, nil if none
	item       *T
}

// pushBack appends item, whose node is n and in no list.
func (l *list[T]) pushBack(n *node[T], item *T) {
	*n = node[T]{prev: l.back, in: l, item: item}
	if l.back != nil {
		l.back.next = n
	} else {
		l.front = n
	}
	l.back = n
	l.n++
}

// pushFront prepends item, whose node is n and in no list.
func (l *list[T]) pushFront(n *node[T], item *T) {
	*n = node[T]{next: l.front, in: l, item: item}
	if l.front != nil {
		l.front.prev = n
	} else {
		l.back = n
	}
	l.front = n
	l.n++
}

// remove takes n out of its list, if it is in one.
func (n *node[T]) remove() {
	l := n.in
	if l == nil {
		return
	}
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		l.front = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		l.back = n.prev
	}
	l.n--
	*n = node[T]{}
}
