package hostile_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
)

// An idleReceiver answers all requests and closes connections that are idle for 5 ms. Its
// log has what it has read and what it has answered.
type idleReceiver struct {
	mu          sync.Mutex     // guards all below
	read        map[string]int // by event
	answered    map[string]int
	connections int
}

func (w *idleReceiver) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for first := true; ; first = false {
		wait := 5 * time.Millisecond
		if first {
			wait = patience
		}
		_ = c.SetReadDeadline(time.Now().Add(wait))
		if _, err := r.Peek(1); err != nil {
			return
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		buffer := make([]byte, 64)
		n, _ := request.Body.Read(buffer)
		id := request.Header.Get("Webhook-Id")
		w.mu.Lock()
		w.read[id] += strings.Count(string(buffer[:n]), payload)
		w.mu.Unlock()
		if _, err := c.Write([]byte(ok)); err != nil {
			return
		}
		w.mu.Lock()
		w.answered[id]++
		w.mu.Unlock()
	}
}

// outlasted reports whether an attempt took so long that it is not repeated at once, whatever
// it met: here the machine must have been late.
func outlasted(a outhook.Attempt) bool { return a.Duration >= 500*time.Millisecond }

// soon is when those are repeated.
func soon(outhook.DeliveryID, outhook.Attempt) (time.Duration, bool) { return time.Millisecond, true }

// 2,000 deliveries to a receiver that closes idle connections after 5 ms. They are sent a
// little later than that, so that many meet a connection which is being closed.
func TestReceiversIdle(t *testing.T) {
	const posts, together = 2000, 16
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &idleReceiver{read: make(map[string]int), answered: make(map[string]int)}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.mu.Lock()
			w.connections++
			w.mu.Unlock()
			serving.Go(func() { w.serve(c) })
		}
	})

	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Guard: outhook.DevelopmentGuard(), Concurrency: together, SubscriberConcurrency: together,
		Retry: soon, Breaker: outhook.Breaker{Failures: -1},
	})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	running := make(chan error, 1)
	go func() { running <- d.Run(ctx) }()
	for i := range posts {
		_, err := d.Send(t.Context(), outhook.Event{
			ID: fmt.Sprintf("event%d", i), Type: "invoice.paid", Payload: &outhook.Payload{Body: []byte(payload)},
		}, []outhook.Subscriber{{ID: "customer", URL: "http://" + l.Addr().String(), Unsigned: true}})
		require.NoError(t, err)
		if i%together == together-1 { // just as the connections become too old
			time.Sleep(5*time.Millisecond + time.Duration(i/together%16-4)*100*time.Microsecond)
		}
	}
	require.Eventually(t, func() bool {
		n, err := d.Count(t.Context(), outhook.Filter{States: []outhook.State{outhook.Pending}})
		return err == nil && n == 0
	}, patience, 10*time.Millisecond)
	stop()
	require.NoError(t, <-running)
	require.NoError(t, l.Close())
	serving.Wait()

	var stale, most, twice int
	for i := range posts {
		id := fmt.Sprintf("event%d", i)
		r, err := d.Get(t.Context(), outhook.DeliveryID{Event: id, Subscriber: "customer"})
		require.NoError(t, err)
		require.Equal(t, outhook.Delivered, r.State, "%+v", r)
		number := 1
		for _, a := range r.Attempts {
			require.Equal(t, number, a.Number, "it waited for a retry delay")
			if outlasted(a) {
				number++
			}
		}
		stale += len(r.Attempts) - 1
		most = max(most, len(r.Attempts))
		require.Equal(t, 1, w.answered[id], "answered more than once")
		require.Equal(t, 1, w.read[id], "read again, though it had been answered")
		twice += w.read[id] - 1
	}
	t.Logf("figures: idle connections closed under us | delivered at once | %d posts on %d connections; %d requests met a closed one, at most %d attempts for a delivery; 0 waited, %d delivered twice",
		posts, w.connections, stale, most, twice)
}

// A receiver that takes one request on each connection and closes at the second, as if all
// had been idle for too long at once.
func TestReceiversIdleAll(t *testing.T) {
	for !tryIdleAll(t) {
		t.Log("the machine was late, once more")
	}
}

func tryIdleAll(t *testing.T) bool {
	const together = 8
	var asked atomic.Int32
	c := &receiverCase{receive: func(p *peer) {
		if !p.request() {
			return
		}
		for asked.Add(1); asked.Load() < together; { // so that each has a connection
			time.Sleep(time.Millisecond)
		}
		if p.say(ok) && p.request() {
			_ = p.Close()
		}
	}}
	w := listen(t, c)
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
		Guard: outhook.DevelopmentGuard(), SubscriberConcurrency: together, Retry: soon,
	})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	running := make(chan error, 1)
	go func() { running <- d.Run(ctx) }()
	send := func(id string) {
		_, err := d.Send(t.Context(), outhook.Event{ID: id, Type: "invoice.paid", Payload: &outhook.Payload{Body: []byte(payload)}},
			[]outhook.Subscriber{{ID: "customer", URL: w.url, Unsigned: true}})
		require.NoError(t, err)
	}
	settled := func(state outhook.State, n int) {
		t.Helper()
		require.Eventually(t, func() bool {
			count, err := d.Count(t.Context(), outhook.Filter{States: []outhook.State{state}})
			return err == nil && count == n
		}, patience, time.Millisecond)
	}
	for i := range together {
		send(fmt.Sprintf("event%d", i))
	}
	settled(outhook.Delivered, together)
	send("last")
	settled(outhook.Delivered, together+1)
	r, err := d.Get(t.Context(), outhook.DeliveryID{Event: "last", Subscriber: "customer"})
	require.NoError(t, err)
	stop()
	require.NoError(t, <-running)
	w.requireClosed(t, d, worked()+slack)
	if slices.ContainsFunc(r.Attempts, outlasted) {
		return false
	}
	require.Len(t, r.Attempts, 4, "the last on a connection of its own")
	require.Equal(t, 1, r.Attempts[3].Number, "it waited for a retry delay")
	t.Logf("figures: all idle connections closed at once | delivered at once | %d closed, %d attempts, all with number %d", together, len(r.Attempts), r.Attempts[3].Number)
	return true
}
