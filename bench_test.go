package outhook

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkHungSubscriber delivers to 19 healthy subscribers over real sockets,
// alone and beside one that hangs with 10,000 deliveries waiting, and reports the
// ratio of their throughputs.
func BenchmarkHungSubscriber(b *testing.B) {
	const healthy, events = 19, 500
	release := make(chan struct{})
	var delivered atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/hung" {
			<-release
			return
		}
		delivered.Add(1)
	}))
	defer server.Close()
	defer close(release)

	throughput := func(hung bool) float64 {
		store := &MemoryStore{MaxPending: 100_000}
		d, err := New(store, &Options{Guard: DevelopmentGuard(), Grace: -1})
		require.NoError(b, err)
		send := func(id, path string, n int) {
			s := []Subscriber{{ID: id, URL: server.URL + path, Keys: []Key{testKey}}}
			for range n {
				_, err := d.Send(b.Context(), Event{Type: "bench.event", Data: "x"}, s)
				require.NoError(b, err)
			}
		}
		if hung {
			send("hung", "/hung", 10_000)
		}
		for i := range healthy {
			send(fmt.Sprintf("healthy%d", i), "/", events)
		}
		delivered.Store(0)
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error, 1)
		began := time.Now()
		go func() { done <- d.Run(ctx) }()
		for delivered.Load() < healthy*events {
			time.Sleep(100 * time.Microsecond)
		}
		took := time.Since(began)
		cancel()
		require.NoError(b, <-done)
		return healthy * events / took.Seconds()
	}

	throughput(false) // warm up
	var alone, beside float64
	rounds := 0.0
	for b.Loop() {
		alone += throughput(false)
		beside += throughput(true)
		rounds++
	}
	b.ReportMetric(alone/rounds, "alone/s")
	b.ReportMetric(beside/rounds, "beside/s")
	b.ReportMetric(beside/alone, "ratio")
}
