//go:build unix

package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
)

// pending measures what a MemoryStore spends on a pending delivery, of an event of its
// own, beside the payload, which is next to nothing here.
func pending(ctx context.Context, b *bench) error {
	if !slices.Contains(b.plan.stores, memory) {
		return nil
	}
	defer func(body []byte) { b.body = body }(b.body)
	b.body = []byte("x")
	n := b.plan.pending
	for _, fanout := range []int{1, len(b.subscribers)} {
		h, err := b.openOuthook(ctx, memory, b.options(memory))
		if err != nil {
			return err
		}
		before := heap()
		for i := range n / fanout {
			if _, err := h.dispatcher.Send(ctx, b.event(), some(b.subscribers, i, fanout)); err != nil {
				return err
			}
		}
		per := float64(heap()-before) / float64(n/fanout*fanout)
		runtime.KeepAlive(h)
		if fanout == 1 {
			b.figure("memory_bytes_per_pending", 0, series{per})
		} else {
			b.detail(fmt.Sprintf("memory_bytes_per_pending_of_%d", fanout), 0, series{per})
		}
	}
	return nil
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first has found
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// allocations compares those of a delivery with those of a bare post, without the
// receiver's.
func allocations(ctx context.Context, b *bench) error {
	if !slices.Contains(b.plan.stores, memory) {
		return nil
	}
	n := max(b.plan.n/4, 1)
	receivers, err := b.receiver.allocations(b.body, n)
	if err != nil {
		return err
	}
	var ratio, bare, ours series
	for range b.plan.rounds {
		l, err := b.measure(ctx, nethttp, drain, n)
		if err != nil {
			return err
		}
		m, err := b.measure(ctx, memory, drain, n)
		if err != nil {
			return err
		}
		bare, ours = append(bare, l.allocs-receivers), append(ours, m.allocs-receivers)
		ratio = append(ratio, (m.allocs-receivers)/(l.allocs-receivers))
	}
	b.figure("allocs_vs_nethttp", 2, ratio)
	b.detail("allocs_memory", 0, ours)
	b.detail("allocs_nethttp", 0, bare)
	b.detail("allocs_receiver", 0, series{receivers})
	return nil
}

// allocations returns how many the receiver makes for a request of a client that
// makes none.
func (r *receiver) allocations(body []byte, n int) (float64, error) {
	conn, err := net.Dial("tcp", r.url[len("http://"):])
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	request := []byte("POST /0 HTTP/1.1\r\nHost: " + r.url[len("http://"):] + "\r\n" +
		"User-Agent: outhook/1\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\nContent-Type: application/json\r\n" +
		"Webhook-Id: " + newID() + "\r\nWebhook-Timestamp: 1767225600\r\n" +
		"Webhook-Signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=\r\nAccept-Encoding: gzip\r\n\r\n")
	request = append(request, body...)
	r.expect(n)
	response := make([]byte, 4096)
	result, err := spend(n, func() error {
		for range n {
			if _, err := conn.Write(request); err != nil {
				return err
			}
			for read := 0; !bytes.HasSuffix(response[:read], []byte("\r\n\r\n")); {
				k, err := conn.Read(response[read:])
				if read += k; err != nil || read == len(response) {
					return fmt.Errorf("receiver: %w", cmp.Or(err, io.ErrShortBuffer))
				}
			}
		}
		return nil
	})
	return result.allocs, err
}
