package outhook

import "container/heap"

// A queue is a priority queue whose items know where they are in it, so that
// each can be moved or removed. Items are *T; place returns where an item keeps
// its place, which is -1 outside of the queue.
//
// Most items come in order: they stand in a line, where all is done in constant time. Only
// those that come before its last are in a heap.
type queue[T any] struct {
	line  []*T // nil where an item has been removed, but not at the end
	begin int  // of the line: all before are nil
	count int  // items in the line
	heap  []*T
	less  func(a, b *T) bool
	place func(*T) *int32 // in the heap; or -2 for the first of the line, -3 for the second
}

func (q *queue[T]) len() int { return q.count + len(q.heap) }

// first returns the least item, nil if there is none.
func (q *queue[T]) first() (x *T) {
	if q.count > 0 {
		x = q.line[q.begin]
	}
	if len(q.heap) > 0 && (x == nil || q.less(q.heap[0], x)) {
		x = q.heap[0]
	}
	return x
}

// put adds an item, or restores the order after it changed.
func (q *queue[T]) put(x *T) {
	if i := int(*q.place(x)); i >= 0 {
		heap.Fix((*heapItems[T])(q), i)
		return
	}
	q.remove(x)
	if q.count > 0 && q.less(x, q.line[len(q.line)-1]) {
		heap.Push((*heapItems[T])(q), x)
		return
	}
	if len(q.line) == cap(q.line) && 2*q.count <= len(q.line) {
		q.close()
	}
	q.line = append(q.line, x)
	q.count++
	*q.place(x) = -1 - int32(len(q.line))
}

// remove takes an item out, if it is there.
func (q *queue[T]) remove(x *T) {
	i := int(*q.place(x))
	if i >= 0 {
		heap.Remove((*heapItems[T])(q), i)
		return
	}
	if i == -1 {
		return
	}
	*q.place(x) = -1
	q.line[-2-i] = nil
	if q.count--; q.count == 0 {
		q.line, q.begin = q.line[:0], 0
		return
	}
	for q.line[q.begin] == nil {
		q.begin++
	}
	for q.line[len(q.line)-1] == nil {
		q.line = q.line[:len(q.line)-1]
	}
}

// close closes the gaps of the line.
func (q *queue[T]) close() {
	closed := q.line[:0]
	for _, x := range q.line[q.begin:] {
		if x != nil {
			closed = append(closed, x)
			*q.place(x) = -1 - int32(len(closed))
		}
	}
	clear(q.line[len(closed):])
	q.line, q.begin = closed, 0
}

// heapItems keeps the methods of container/heap apart from those of queue.
type heapItems[T any] queue[T]

func (h *heapItems[T]) Len() int           { return len(h.heap) }
func (h *heapItems[T]) Less(i, j int) bool { return h.less(h.heap[i], h.heap[j]) }

func (h *heapItems[T]) Swap(i, j int) {
	h.heap[i], h.heap[j] = h.heap[j], h.heap[i]
	*h.place(h.heap[i]), *h.place(h.heap[j]) = int32(i), int32(j)
}

func (h *heapItems[T]) Push(x any) {
	*h.place(x.(*T)) = int32(len(h.heap))
	h.heap = append(h.heap, x.(*T))
}

func (h *heapItems[T]) Pop() any {
	last := len(h.heap) - 1
	x := h.heap[last]
	h.heap[last] = nil
	h.heap = h.heap[:last]
	*h.place(x) = -1
	return x
}
