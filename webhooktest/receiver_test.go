package webhooktest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What is recorded of a request is what was sent.
func TestRecord(t *testing.T) {
	both(t, "record", func(t *testing.T, f form) {
		d := f.r.Dispatcher(nil)
		shop := f.r.Subscriber("a/b%?#c")
		shop.Header = http.Header{"X-Custom": {"value"}}
		happened := time.Date(1999, 12, 31, 23, 59, 59, 0, time.UTC)
		before := time.Now()
		_, err := d.Send(t.Context(), outhook.Event{ID: "e1", Type: "invoice.paid", Time: happened, Data: "data"}, []outhook.Subscriber{shop})
		require.NoError(t, err)

		q := f.r.Wait(1)[0]
		require.Equal(t, q, f.r.WaitFor("e1"))
		require.Equal(t, Requests{q}, f.r.WaitRequests(1))
		require.Equal(t, "e1", q.ID)
		require.Equal(t, "a/b%?#c", q.Subscriber)
		require.Equal(t, 1, q.Attempt)
		require.Equal(t, "invoice.paid", q.Type)
		require.True(t, happened.Equal(q.Time))
		require.False(t, q.Timestamp.Before(before.Truncate(time.Second)))
		require.False(t, q.Timestamp.After(q.Arrived))
		require.False(t, q.Arrived.Before(before))
		require.Equal(t, shop.URL, q.URL)
		require.Equal(t, "value", q.Header.Get("X-Custom"))
		require.Equal(t, "outhook/1", q.Header.Get("User-Agent"))
		require.Equal(t, `{"type":"invoice.paid","timestamp":"1999-12-31T23:59:59Z","data":"data"}`, string(q.Body))
		require.NoError(t, q.Err)
		require.Equal(t, http.StatusNoContent, q.Status)

		data, err := outhook.Decode[string](q.Event())
		require.NoError(t, err)
		require.Equal(t, "data", data)
		event := q.Event()
		require.Equal(t, "e1", event.ID)
		require.Equal(t, "invoice.paid", event.Type)
		require.True(t, happened.Equal(event.Time))
		require.Equal(t, "application/json", event.Payload.ContentType)
		require.Equal(t, "value", event.Payload.Header.Get("X-Custom"))
	})
}

// A body that is no envelope, and a request without an ID, are recorded as they are.
func TestRecordOfOthers(t *testing.T) {
	both(t, "raw", func(t *testing.T, f form) {
		d := f.r.Dispatcher(nil)
		_, err := d.Send(t.Context(), outhook.Event{ID: "e1", Type: "a.b", Payload: &outhook.Payload{
			ContentType: "text/plain", Body: []byte("hello"),
		}}, []outhook.Subscriber{f.r.Subscriber("shop")})
		require.NoError(t, err)
		q := f.r.Wait(1)[0]
		require.Equal(t, "hello", string(q.Body))
		require.Empty(t, q.Type)
		require.Zero(t, q.Time)
		require.Equal(t, "e1", q.ID)
	})
	both(t, "bare", func(t *testing.T, f form) {
		f.r.AllowUnverified()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.r.URL+"/", nil)
		require.NoError(t, err)
		response, err := f.wire.RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		q := f.r.Wait(1)[0]
		require.Empty(t, q.ID)
		require.Empty(t, q.Subscriber)
		require.Zero(t, q.Timestamp)
		require.Error(t, q.Err)
	})
}

// Attempts are counted for each delivery, and a delivery that comes again counts
// once.
func TestDeliveriesAreCounted(t *testing.T) {
	both(t, "counts", func(t *testing.T, f form) {
		shop, bank := f.r.Subscriber("shop"), f.r.Subscriber("bank")
		for _, to := range []outhook.Subscriber{shop, bank, shop, shop} {
			_, _, err := f.post(t, t.Context(), to, "e1", `{"type":"a.b"}`)
			require.NoError(t, err)
		}
		_, _, err := f.post(t, t.Context(), shop, "e2", `{"type":"a.c"}`)
		require.NoError(t, err)

		var attempts []int
		for _, q := range f.r.Requests() {
			attempts = append(attempts, q.Attempt)
		}
		require.Equal(t, []int{1, 1, 2, 3, 1}, attempts)
		accepted := f.r.Wait(3)
		require.Equal(t, []string{"e1", "e1", "e2"}, []string{accepted[0].ID, accepted[1].ID, accepted[2].ID})
		require.Equal(t, []string{"bank", "shop"}, accepted.Subscribers())
		require.Equal(t, []string{"shop"}, accepted.OfType("a.c").Subscribers())
		require.Len(t, f.r.Requests().To("shop"), 4)
		require.Empty(t, f.r.Requests().OfType("a"))
		require.Equal(t, accepted[:1], f.r.Wait(1))
		require.Empty(t, f.r.Wait(0))
		f.r.CheckAccepted("a.b", "shop", "bank", "shop")
		f.r.CheckAccepted("a.c", "shop")
		f.r.CheckAccepted("a.d")
	})
}

// A Receiver keeps the keys of its subscribers apart.
func TestVerification(t *testing.T) {
	other := outhook.GenerateKey()
	for _, test := range []struct {
		name  string
		keys  func(r *Receiver) []outhook.Key // of a request to shop
		trust []outhook.Key
		url   string // empty: shop's
		want  error
	}{
		{name: "own key", keys: func(r *Receiver) []outhook.Key { return r.Subscriber("shop").Keys }},
		{name: "two keys", keys: func(r *Receiver) []outhook.Key { return append([]outhook.Key{other}, r.Subscriber("shop").Keys...) }},
		{name: "unknown key", keys: func(*Receiver) []outhook.Key { return []outhook.Key{other} }, want: outhook.ErrSignature},
		{name: "another subscriber's key", keys: func(r *Receiver) []outhook.Key { return r.Subscriber("bank").Keys }, want: outhook.ErrSignature},
		{name: "trusted key", keys: func(*Receiver) []outhook.Key { return []outhook.Key{other} }, trust: []outhook.Key{other}},
		{name: "own key, another URL", keys: func(r *Receiver) []outhook.Key { return r.Subscriber("shop").Keys }, url: "/elsewhere"},
		{name: "own key, with a query", keys: func(r *Receiver) []outhook.Key { return r.Subscriber("shop").Keys }, url: "/shop?v=1"},
		{name: "another subscriber's key, with a query", keys: func(r *Receiver) []outhook.Key { return r.Subscriber("bank").Keys }, url: "/shop?v=1", want: outhook.ErrSignature},
		{name: "trusted key, another URL", keys: func(*Receiver) []outhook.Key { return []outhook.Key{other} }, trust: []outhook.Key{other}, url: "/elsewhere"},
		{name: "unknown key, another URL", keys: func(*Receiver) []outhook.Key { return []outhook.Key{other} }, url: "/elsewhere", want: outhook.ErrSignature},
	} {
		both(t, test.name, func(t *testing.T, f form) {
			f.r.AllowUnverified()
			f.r.Trust(test.trust...)
			shop := f.r.Subscriber("shop")
			shop.Keys = test.keys(f.r)
			if test.url != "" {
				shop.URL = f.r.URL + test.url
			}
			_, _, err := f.post(t, t.Context(), shop, "e1", `{}`)
			require.NoError(t, err)
			q := f.r.Wait(1)[0]
			if test.want == nil {
				require.NoError(t, q.Err)
			} else {
				require.ErrorIs(t, q.Err, test.want)
			}
			if test.url == "/elsewhere" {
				require.Empty(t, q.Subscriber)
			} else {
				require.Equal(t, "shop", q.Subscriber)
			}
		})
	}
	both(t, "another body", func(t *testing.T, f form) {
		f.r.AllowUnverified()
		req := signed(t, t.Context(), f.r.Subscriber("shop"), "e1", `{"a":1}`)
		req.Body = io.NopCloser(strings.NewReader(`{"a":2}`))
		response, err := f.wire.RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.ErrorIs(t, f.r.Wait(1)[0].Err, outhook.ErrSignature)
	})
	r := New(t)
	require.Equal(t, r.Subscriber("a").Keys[0].Secret.Reveal(), r.Subscriber("a").Keys[0].Secret.Reveal())
	require.NotEqual(t, r.Subscriber("a").Keys[0].Secret.Reveal(), r.Subscriber("b").Keys[0].Secret.Reveal())
}

// A host that signs by other schemes has its keys trusted.
func TestOtherSchemes(t *testing.T) {
	both(t, "schemes", func(t *testing.T, f form) {
		stripe := outhook.Key{Secret: outhook.NewSecret("whsec_as it is"), Scheme: "stripe"}
		edwards := outhook.GenerateEd25519Key()
		public, err := edwards.Public()
		require.NoError(t, err)
		f.r.Trust(stripe, public)
		shop, bank := f.r.Subscriber("shop"), f.r.Subscriber("bank")
		shop.Keys, bank.Keys = []outhook.Key{stripe}, []outhook.Key{edwards}
		send(t, f.r.Dispatcher(nil), "e1", shop, bank)
		for _, q := range f.r.Wait(2) {
			require.NoError(t, q.Err)
			require.Equal(t, 1, q.Attempt)
		}
	})
}

// What cannot be verified is refused and leaves the script alone, unless it is
// allowed.
func TestUnverified(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		both(t, "allowed "+strconv.FormatBool(allowed), func(t *testing.T, f form) {
			shop := f.r.Subscriber("shop")
			unknown := shop
			unknown.Keys = []outhook.Key{outhook.GenerateKey()}
			var got []int
			texts := failures(t, func(ft *fake) {
				f.r.t = ft
				if allowed {
					f.r.AllowUnverified()
				}
				f.r.Script(Status(500), Status(501))
				for _, to := range []outhook.Subscriber{unknown, shop, unknown} {
					response, _, err := f.post(t, t.Context(), to, "e1", `{}`)
					require.NoError(t, err)
					got = append(got, response.StatusCode)
				}
				f.r.WaitRequests(3)
			})
			f.r.t = t
			if allowed {
				require.Equal(t, []int{500, 501, 204}, got)
				require.Empty(t, texts)
			} else {
				require.Equal(t, []int{401, 500, 401}, got)
				require.Len(t, texts, 1)
			}
		})
	}
}

// The options of a Dispatcher are the host's where it has set them.
func TestDispatcherOptions(t *testing.T) {
	bubble(t, "in memory", func(t *testing.T) {
		r := New(t)
		r.Respond(func(Request) Answer { return Status(500) })
		var hosts []string
		var mu sync.Mutex
		options := &outhook.Options{
			Retry: constant(time.Hour),
			Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
				mu.Lock()
				hosts = append(hosts, req.URL.Host)
				mu.Unlock()
				return r.RoundTrip(req)
			}),
		}
		before := *options
		d := r.Dispatcher(options)
		require.Nil(t, options.Observers)
		require.Equal(t, before.Guard, options.Guard) // it was copied
		send(t, d, "e1", r.Subscriber("shop"))
		got := r.WaitRequests(3)
		require.Equal(t, 2*time.Hour, got[2].Arrived.Sub(got[0].Arrived))
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, []string{"receiver.example", "receiver.example", "receiver.example"}, hosts)
	})
	bubble(t, "ten attempts by default", func(t *testing.T) {
		r := New(t)
		r.Respond(func(Request) Answer { return Status(500) })
		dead := make(chan outhook.Observation, 1)
		d := r.Dispatcher(&outhook.Options{Observers: []outhook.Observer{{
			Dead: func(_ context.Context, o outhook.Observation) { dead <- o },
		}}})
		send(t, d, "e1", r.Subscriber("shop"))
		require.Equal(t, 10, (<-dead).Attempt.Number)
		all := r.Requests()
		require.Len(t, all, 10)
		gap := all[9].Arrived.Sub(all[0].Arrived)
		require.GreaterOrEqual(t, gap, 90*time.Millisecond)
		require.Less(t, gap, 100*time.Millisecond)
	})
	t.Run("a guard for a server", func(t *testing.T) {
		r := NewServer(t)
		guard := outhook.Guard{PlainHTTP: true} // no loopback
		d := r.Dispatcher(&outhook.Options{Guard: guard})
		_, err := d.Send(t.Context(), outhook.Event{Type: "a.b"}, []outhook.Subscriber{r.Subscriber("shop")})
		require.ErrorIs(t, err, outhook.ErrBlocked)
	})
	bubble(t, "production's guard in memory", func(t *testing.T) {
		r := New(t)
		d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Transport: r})
		require.NoError(t, err)
		attempt, err := d.Try(t.Context(), outhook.Event{Type: "a.b"}, r.Subscriber("shop"))
		require.NoError(t, err)
		require.Equal(t, http.StatusNoContent, attempt.Status)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Many at once are all recorded, and wake all who wait.
func TestConcurrency(t *testing.T) {
	const events = 40
	fail := map[string]bool{"e3": true, "e7": true, "e20": true} // at first
	both(t, "storm", func(t *testing.T, f form) {
		texts := failures(t, func(ft *fake) { // any goroutine may fail it
			f = f.with(ft)
			f.r.Respond(func(q Request) Answer {
				if fail[q.ID] && q.Attempt == 1 {
					return Status(500)
				}
				return Answer{}
			})
			d := f.r.Dispatcher(&outhook.Options{SubscriberConcurrency: 64})
			to := []outhook.Subscriber{f.r.Subscriber("a"), f.r.Subscriber("b")}
			var others sync.WaitGroup
			for i := range events {
				others.Go(func() { send(t, d, "e"+strconv.Itoa(i), to...) })
			}
			others.Go(func() { f.r.WaitRequests(events) })
			others.Go(func() { f.r.WaitFor("e7") })
			others.Go(func() { f.r.Wait(events * len(to)) })
			f.r.Wait(events * len(to))
			others.Wait()
		})
		require.Empty(t, texts)
		seen := make(map[delivery]bool)
		for _, q := range f.r.accepted {
			require.Equal(t, fail[q.ID], q.Attempt == 2)
			seen[delivery{q.ID, q.Subscriber}] = true
		}
		require.Len(t, seen, 2*events)
		require.Len(t, f.r.Requests(), 2*(events+len(fail)))
	})
}

// A Receiver ends with its test: what hangs is let go, and nothing more is taken.
func TestEnd(t *testing.T) {
	both(t, "requests", func(t *testing.T, f form) {
		var got [3]error
		var sending sync.WaitGroup
		texts := failures(t, func(ft *fake) {
			f = f.with(ft)
			f.r.Script(Hang(), Answer{Delay: time.Hour}, Answer{Body: "slow", Pause: time.Hour})
			for i := range got {
				id := "e" + strconv.Itoa(i)
				sending.Go(func() { _, _, got[i] = f.post(t, context.Background(), f.r.Subscriber("shop"), id, `{}`) })
				f.r.WaitRequests(i + 1)
			}
		})
		sending.Wait()
		require.Empty(t, texts)
		_, _, after := f.post(t, context.Background(), f.r.Subscriber("shop"), "e9", `{}`)
		for _, err := range append(got[:], after) {
			require.Error(t, err)
			if f.inMemory {
				require.ErrorIs(t, err, errOver)
			}
		}
		require.PanicsWithValue(t, http.ErrAbortHandler, func() {
			f.r.ServeHTTP(httptest.NewRecorder(), signed(t, t.Context(), f.r.Subscriber("shop"), "e9", `{}`))
		})
		require.Len(t, f.r.Requests(), len(got))
		require.Empty(t, f.r.open)
		require.Empty(t, f.r.waiting)
	})

	both(t, "a Dispatcher", func(t *testing.T, f form) {
		begin := time.Now()
		ended := make(chan outhook.Observation, 1)
		texts := failures(t, func(ft *fake) {
			f = f.with(ft)
			f.r.Script(Hang())
			d := f.r.Dispatcher(&outhook.Options{Timeout: time.Minute, Observers: []outhook.Observer{{
				Attempted: func(_ context.Context, o outhook.Observation) { ended <- o },
			}}})
			send(t, d, "e1", f.r.Subscriber("shop"))
			f.r.WaitRequests(1)
		})
		require.Empty(t, texts)
		require.NotContains(t, (<-ended).Attempt.Error, "cut off") // Run has not had to wait for its grace
		if f.inMemory {
			require.Zero(t, time.Since(begin))
		}
	})
}

// What has been returned does not change when a request is answered later.
func TestRequestsAreCopies(t *testing.T) {
	bubble(t, "copies", func(t *testing.T) {
		r := New(t)
		r.Script(Answer{Delay: time.Second})
		d := r.Dispatcher(nil)
		send(t, d, "e1", r.Subscriber("shop"))
		waited, all := r.WaitRequests(1), r.Requests()
		require.Equal(t, []int{204}, statuses(r.Wait(1)))
		require.Equal(t, []int{0}, statuses(waited))
		require.Equal(t, []int{0}, statuses(all))
	})
}

// On a socket, a reset is an attempt like any other, and not taken for a
// connection that had been closed before, which is repeated under its number.
func TestServerKeepsNoConnections(t *testing.T) {
	both(t, "reset", func(t *testing.T, f form) {
		attempts := make(chan int, 9)
		settled := make(chan struct{}, 9)
		d := f.r.Dispatcher(&outhook.Options{Observers: []outhook.Observer{{
			Attempted: func(_ context.Context, o outhook.Observation) { attempts <- o.Attempt.Number },
			Delivered: func(context.Context, outhook.Observation) { settled <- struct{}{} },
		}}})
		f.r.Script(Answer{}, Reset())
		for _, id := range []string{"e1", "e2"} {
			send(t, d, id, f.r.Subscriber("shop"))
			<-settled
		}
		require.Equal(t, []int{1, 1, 2}, []int{<-attempts, <-attempts, <-attempts})
		require.Empty(t, attempts)
	})
}

// No goroutine is left by what has been on a socket. In memory the bubbles show
// it: synctest.Test waits for all of theirs.
func TestNoGoroutineIsLeft(t *testing.T) {
	texts := failures(t, func(ft *fake) {
		r := NewServer(ft)
		r.Script(Status(500), Reset(), Close(), Hang())
		d := r.Dispatcher(&outhook.Options{Timeout: time.Minute})
		for i := range 8 {
			send(t, d, "e"+strconv.Itoa(i), r.Subscriber("shop"))
		}
		r.WaitRequests(8)
	})
	require.Empty(t, texts)
	// net/http ends its goroutines a moment after their connections.
	require.EventuallyWithT(t, func(c *assert.CollectT) { require.Empty(c, foreign()) }, 10*time.Second, time.Millisecond)
}

// foreign returns the stacks of goroutines that are neither the test's nor the
// testing package's.
func foreign() []string {
	buffer := make([]byte, 1<<20)
	buffer = buffer[:runtime.Stack(buffer, true)]
	var left []string
	for stack := range bytes.SplitSeq(buffer, []byte("\n\n")) {
		if !bytes.Contains(stack, []byte("TestNoGoroutineIsLeft")) &&
			(bytes.Contains(stack, []byte("outhook")) || bytes.Contains(stack, []byte("net/http"))) {
			left = append(left, string(stack))
		}
	}
	return left
}

// A request whose body cannot be read was never made.
func TestFaultyBody(t *testing.T) {
	r := New(t)
	fault := errors.New("fault")
	body := &closing{Reader: iotest.ErrReader(fault)}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.URL, body)
	require.NoError(t, err)
	_, err = r.RoundTrip(req)
	require.ErrorIs(t, err, fault)
	require.True(t, body.closed)
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { r.ServeHTTP(httptest.NewRecorder(), req) })
	require.Empty(t, r.Requests())

	body = &closing{Reader: strings.NewReader("{}")}
	r.AllowUnverified()
	req.Body = body
	response, err := r.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.True(t, body.closed)
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}

func TestRecorder(t *testing.T) {
	sent := NewRecorder(t)
	sent.CheckAccepted("a.b")
	d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{Observers: []outhook.Observer{sent.Observer()}})
	require.NoError(t, err)
	r := New(t)
	shop, bank := r.Subscriber("shop"), r.Subscriber("bank")
	bank.Events = []string{"a.*"}
	for _, event := range []outhook.Event{{ID: "e1", Type: "a.b", Data: 1}, {ID: "e1", Type: "a.b", Data: 1}, {ID: "e2", Type: "c", Data: 2}} {
		_, err := d.Send(t.Context(), event, []outhook.Subscriber{shop, bank})
		require.NoError(t, err)
	}
	all := sent.Sent()
	require.Len(t, all, 3)
	require.Equal(t, 2, all[2].Event.Data)
	require.Equal(t, outhook.Receipt{EventID: "e1", Known: []string{"shop", "bank"}}, all[1].Receipt)
	sent.CheckAccepted("a.b", "bank", "shop")
	sent.CheckAccepted("c", "shop")
	sent.CheckAccepted("a")
	require.Empty(t, r.Requests())
}
