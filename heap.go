package outhook

import "container/heap"

// A queue is a priority queue whose items know where they are in it, so that
// each can be moved or removed. Items are *T; place returns where an item keeps
// its index, which is -1 outside of the queue.
type queue[T any] struct {
	items []*T
	less  func(a, b *T) bool
	place func(*T) *int32
}

func (q *queue[T]) first() *T {
	if len(q.items) == 0 {
		return nil
	}
	return q.items[0]
}

// put adds an item, or restores the order after it changed.
func (q *queue[T]) put(x *T) {
	if i := int(*q.place(x)); i >= 0 {
		heap.Fix((*heapItems[T])(q), i)
	} else {
		heap.Push((*heapItems[T])(q), x)
	}
}

// remove takes an item out, if it is there.
func (q *queue[T]) remove(x *T) {
	if i := int(*q.place(x)); i >= 0 {
		heap.Remove((*heapItems[T])(q), i)
	}
}

// heapItems keeps the methods of container/heap apart from those of queue.
type heapItems[T any] queue[T]

func (h *heapItems[T]) Len() int           { return len(h.items) }
func (h *heapItems[T]) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }

func (h *heapItems[T]) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	*h.place(h.items[i]), *h.place(h.items[j]) = int32(i), int32(j)
}

func (h *heapItems[T]) Push(x any) {
	*h.place(x.(*T)) = int32(len(h.items))
	h.items = append(h.items, x.(*T))
}

func (h *heapItems[T]) Pop() any {
	last := len(h.items) - 1
	x := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	*h.place(x) = -1
	return x
}
