package outhook

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// optionTests has a test for each field of Options that shows what it changes.
// Each runs in a bubble.
var optionTests = map[string]func(t *testing.T){
	"Transport": func(t *testing.T) {
		w := &wire{answer: status(200)}
		d := dispatcher(t, NewMemoryStore(), w, Options{})
		_, err := d.Try(t.Context(), Event{Type: "x"}, subscriber("a"))
		require.NoError(t, err)
		require.Equal(t, 1, len(w.to("")))
		d, err = New(NewMemoryStore(), nil)
		require.NoError(t, err)
		require.IsType(t, new(http.Transport), d.transport)
	},
	"Guard": func(t *testing.T) {
		s := subscriber("a")
		s.URL = "http://10.1.2.3/"
		send := func(g Guard) error {
			d := dispatcher(t, NewMemoryStore(), &wire{}, Options{Guard: g})
			_, err := d.Send(t.Context(), Event{Type: "x"}, []Subscriber{s})
			return err
		}
		require.ErrorContains(t, send(Guard{}), "plain http is not allowed")
		require.ErrorContains(t, send(Guard{PlainHTTP: true}), "10.1.2.3 may not be called")
		require.NoError(t, send(Guard{PlainHTTP: true, Allow: []Range{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}}}))
	},
	"Signers": func(t *testing.T) {
		w := &wire{answer: status(200)}
		d := dispatcher(t, NewMemoryStore(), w, Options{Signers: map[string]Signer{"mine": fixedSigner{}}})
		s := subscriber("a")
		s.Keys = append(s.Keys, Key{Secret: NewSecret("s"), Scheme: "mine"})
		s.Header = http.Header{"X-Mine": {"forged"}}
		_, err := d.Try(t.Context(), Event{Type: "x"}, s)
		require.NoError(t, err)
		require.Equal(t, []string{"signed"}, w.to("")[0].header["X-Mine"], "no custom header stands in for a signature")
		require.NotEmpty(t, w.to("")[0].header[headerSignature], "both schemes sign")
		s.Keys[1].Scheme = "other"
		_, err = d.Try(t.Context(), Event{Type: "x"}, s)
		require.ErrorContains(t, err, "Keys[1]: its Scheme \"other\" is neither built in nor in Options.Signers")
	},
	"Directory": func(t *testing.T) {
		first := func(directory Directory) call {
			w := &wire{answer: status(200)}
			d := dispatcher(t, NewMemoryStore(), w, Options{Directory: directory})
			s := subscriber("a")
			s.URL = "https://given.example.com/"
			send(t, d, "e", s)
			_, err := d.Drain(t.Context())
			require.NoError(t, err)
			return w.to("")[0]
		}
		require.Equal(t, "given.example.com", first(nil).host)
		require.Equal(t, host("a"), first(&register{}).host)
	},
	"DirectoryTTL": func(t *testing.T) {
		lookups := func(ttl time.Duration) int {
			r := &register{}
			d := dispatcher(t, NewMemoryStore(), &wire{answer: status(200)}, Options{Directory: r, DirectoryTTL: ttl})
			stop := run(t, d)
			defer stop()
			for i := range 60 {
				send(t, d, eventID(i), Subscriber{ID: "a"})
				time.Sleep(time.Second)
			}
			return r.count("a")
		}
		require.Equal(t, 6, lookups(0))
		require.Equal(t, 2, lookups(30*time.Second))
		require.Equal(t, 60, lookups(-1))
	},
	"Sealer": func(t *testing.T) {
		stored := func(options Options) string {
			store := newRows()
			send(t, dispatcher(t, store, &wire{}, options), "e", subscriber("a"))
			return string(store.stored[DeliveryID{"e", "a"}])
		}
		require.Contains(t, stored(Options{StoreKeysInPlaintext: true}), host("a"))
		require.NotContains(t, stored(Options{Sealer: newSealer(t, sealingKey("k1", 1))}), host("a"))
	},
	"StoreKeysInPlaintext": func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
		_, err := enqueued(t, d, "e", subscriber("a"))[0].Snapshot.MarshalBinary()
		require.ErrorIs(t, err, ErrPlaintextKeys)
		d = dispatcher(t, NewMemoryStore(), &wire{}, Options{StoreKeysInPlaintext: true})
		stored, err := enqueued(t, d, "e", subscriber("a"))[0].Snapshot.MarshalBinary()
		require.NoError(t, err)
		var restored Snapshot
		require.NoError(t, restored.UnmarshalBinary(stored))
		require.Equal(t, testKey.Secret.Reveal(), restored.target().keys[0].Secret.Reveal())
	},
	"Retry": func(t *testing.T) {
		require.Equal(t, 2, attempts(t, Options{Retry: Schedule(time.Second)}, status(500)))
		require.Equal(t, 10, attempts(t, Options{}, status(500)))
	},
	"Classify": func(t *testing.T) {
		permanent := func(a Attempt, err error) Verdict {
			if a.Status == 400 {
				return Permanent
			}
			return DefaultClassifier(a, err)
		}
		require.Equal(t, 1, attempts(t, Options{Classify: permanent}, status(400)))
		require.Equal(t, 10, attempts(t, Options{Classify: permanent}, status(500)))
	},
	"MaxRetryAfter": func(t *testing.T) {
		second := func(limit time.Duration) time.Duration {
			w := retryAfterOnce("999999999999999999999")
			d := dispatcher(t, NewMemoryStore(), w, Options{MaxRetryAfter: limit})
			send(t, d, "e", subscriber("a"))
			stop := run(t, d)
			time.Sleep(100 * time.Hour)
			stop()
			return w.to("")[1].at
		}
		require.Equal(t, time.Hour, second(time.Hour))
		require.Equal(t, 24*time.Hour, second(0))
	},
	"MaxUnfinished": func(t *testing.T) {
		crashes := func(limit int) (n int) {
			store := NewMemoryStore()
			d := dispatcher(t, store, &wire{answer: status(200)}, Options{MaxUnfinished: limit})
			for {
				send(t, d, eventID(n), subscriber("a"))
				for range n {
					_, err := store.Claim(t.Context(), ClaimRequest{Limit: 1, PerSubscriber: 1, SuspectAfter: 99, Lease: time.Second})
					require.NoError(t, err)
					time.Sleep(time.Second)
				}
				_, err := d.Drain(t.Context())
				require.NoError(t, err)
				if record(t, d, eventID(n), "a").State == Dead {
					return n
				}
				n++
			}
		}
		require.Equal(t, 3, crashes(3))
		require.Equal(t, 5, crashes(0))
	},
	"CancelDisabled": func(t *testing.T) {
		second := func(cancel bool) State {
			w := &wire{answer: status(410)}
			d := dispatcher(t, NewMemoryStore(), w, Options{CancelDisabled: cancel})
			send(t, d, "e1", subscriber("a"))
			_, err := d.Drain(t.Context())
			require.NoError(t, err)
			send(t, d, "e2", subscriber("a"))
			_, err = d.Drain(t.Context())
			require.NoError(t, err)
			return record(t, d, "e2", "a").State
		}
		require.Equal(t, Pending, second(false))
		require.Equal(t, Cancelled, second(true))
	},
	"Timeout": func(t *testing.T) {
		try := func(options Options, own time.Duration) time.Duration {
			d := dispatcher(t, NewMemoryStore(), &wire{answer: hang}, options)
			s := subscriber("a")
			s.Timeout = own
			a, err := d.Try(t.Context(), Event{Type: "x"}, s)
			require.ErrorContains(t, err, "timeout")
			return a.Duration
		}
		require.Equal(t, 15*time.Second, try(Options{}, 0))
		require.Equal(t, time.Second, try(Options{Timeout: time.Second}, 0))
		require.Equal(t, 2*time.Second, try(Options{}, 2*time.Second))
	},
	"Lease": func(t *testing.T) {
		leased := func(lease time.Duration) time.Duration {
			d := dispatcher(t, NewMemoryStore(), &wire{answer: hang}, Options{Lease: lease, Grace: -1})
			send(t, d, "e", subscriber("a"))
			stop := run(t, d)
			defer stop()
			synctest.Wait()
			r := record(t, d, "e", "a")
			require.True(t, r.Leased)
			return time.Until(r.Due)
		}
		require.Equal(t, 45*time.Second, leased(0))
		require.Equal(t, time.Hour, leased(time.Hour))
	},
	"Grace": func(t *testing.T) {
		stopping := func(grace time.Duration) time.Duration {
			d := dispatcher(t, NewMemoryStore(), &wire{answer: hang}, Options{Grace: grace})
			send(t, d, "e", subscriber("a"))
			stop := run(t, d)
			synctest.Wait()
			began := time.Now()
			stop()
			return time.Since(began)
		}
		require.Equal(t, 10*time.Second, stopping(0))
		require.Equal(t, time.Second, stopping(time.Second))
		require.Equal(t, time.Duration(0), stopping(-1))
	},
	"Poll": func(t *testing.T) {
		noticed := func(poll time.Duration) time.Duration {
			store := NewMemoryStore()
			w := &wire{answer: status(200)}
			d := dispatcher(t, plain{store}, w, Options{Poll: poll})
			stop := run(t, d)
			defer stop()
			synctest.Wait()
			began := time.Now()
			_, err := store.Enqueue(t.Context(), enqueued(t, d, "e", subscriber("a"))) // by another process
			require.NoError(t, err)
			for len(w.to("")) == 0 {
				time.Sleep(time.Millisecond)
			}
			return time.Since(began)
		}
		require.InDelta(t, time.Second, noticed(0), float64(110*time.Millisecond))
		require.InDelta(t, time.Minute, noticed(time.Minute), float64(6100*time.Millisecond))
	},
	"Concurrency": func(t *testing.T) {
		require.Equal(t, 3, most(t, Options{Concurrency: 3}, 100, 1))
		require.Equal(t, 1, most(t, Options{Concurrency: 1}, 10, 1))
		require.Equal(t, 64, most(t, Options{}, 100, 1))
	},
	"SubscriberConcurrency": func(t *testing.T) {
		require.Equal(t, 3, most(t, Options{SubscriberConcurrency: 3}, 1, 100))
		require.Equal(t, 8, most(t, Options{}, 1, 100))
	},
	"MaxPayload": func(t *testing.T) {
		send := func(options Options, size int) error {
			d := dispatcher(t, NewMemoryStore(), &wire{}, options)
			_, err := d.Send(t.Context(), Event{Type: "x", Payload: &Payload{Body: make([]byte, size)}}, []Subscriber{subscriber("a")})
			return err
		}
		require.NoError(t, send(Options{}, 256<<10))
		require.ErrorContains(t, send(Options{}, 256<<10+1), "Event.Payload: a body of 262145 bytes is above the limit of 262144")
		require.Error(t, send(Options{MaxPayload: 10}, 11))
	},
	"KeepResponse": func(t *testing.T) {
		kept := func(keep int) Attempt {
			w := &wire{answer: func(*http.Request, int) (*http.Response, error) {
				return response(200, "X-Answer", "yes"), nil
			}}
			d := dispatcher(t, NewMemoryStore(), w, Options{KeepResponse: keep})
			send(t, d, "e", subscriber("a"))
			_, err := d.Drain(t.Context())
			require.NoError(t, err)
			return record(t, d, "e", "a").Attempts[0]
		}
		require.Nil(t, kept(0).Body)
		require.Nil(t, kept(0).Header)
		require.Equal(t, "bod", string(kept(3).Body))
		require.Equal(t, "yes", kept(3).Header.Get("X-Answer"))
	},
	"UserAgent": func(t *testing.T) {
		agent := func(options Options, header http.Header) string {
			w := &wire{answer: status(200)}
			d := dispatcher(t, NewMemoryStore(), w, options)
			s := subscriber("a")
			s.Header = header
			_, err := d.Try(t.Context(), Event{Type: "x"}, s)
			require.NoError(t, err)
			return w.to("")[0].header.Get("User-Agent")
		}
		require.Equal(t, "outhook/1", agent(Options{}, nil))
		require.Equal(t, "shop", agent(Options{UserAgent: "shop"}, nil))
		require.Equal(t, "own", agent(Options{UserAgent: "shop"}, http.Header{"user-agent": {"own"}}))
	},
	"Logger": func(t *testing.T) {
		var log bytes.Buffer
		d := dispatcher(t, NewMemoryStore(), &wire{answer: status(410)}, Options{
			Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
		send(t, d, "e", subscriber("a"))
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Contains(t, log.String(), `msg="delivery is dead" event=e subscriber=a type=test.event target=https://a.example.com attempt=1 status=410`)
		require.Contains(t, log.String(), `msg="subscriber is disabled" subscriber=a reason=gone`)
	},
	"Breaker": func(t *testing.T) {
		count := func(breaker Breaker) int {
			w := &wire{answer: status(500)}
			d := dispatcher(t, NewMemoryStore(), w, Options{Breaker: breaker, Retry: Schedule(time.Hour), SubscriberConcurrency: 1})
			for i := range 20 {
				send(t, d, eventID(i), subscriber("a"))
			}
			_, err := d.Drain(t.Context())
			require.NoError(t, err)
			return len(w.to(""))
		}
		require.Equal(t, 10, count(Breaker{}))
		require.Equal(t, 3, count(Breaker{Failures: 3}))
		require.Equal(t, 20, count(Breaker{Failures: -1}))
		_, err := New(NewMemoryStore(), &Options{Breaker: Breaker{Pause: time.Hour, MaxPause: time.Minute}})
		require.EqualError(t, err, "outhook: Options.Breaker.MaxPause: 1m0s is shorter than Pause, 1h0m0s")
	},
	"DisableAfter": func(t *testing.T) {
		failing := func(after time.Duration) bool {
			d := dispatcher(t, NewMemoryStore(), &wire{answer: status(500)}, Options{DisableAfter: after, Retry: Schedule(time.Hour, 200*time.Hour)})
			send(t, d, "e", subscriber("a"))
			stop := run(t, d)
			time.Sleep(300 * time.Hour)
			stop()
			for s, err := range d.Standings(t.Context()) {
				require.NoError(t, err)
				if s.Disabled {
					require.Equal(t, ReasonFailing, s.Reason)
				}
				return s.Disabled
			}
			return false
		}
		require.True(t, failing(0))
		require.True(t, failing(time.Hour))
		require.False(t, failing(300*time.Hour))
		require.False(t, failing(-1))
	},
	"Steering": func(t *testing.T) {
		says := func(steering bool, code int, value string) (State, string, bool) {
			w := &wire{answer: func(*http.Request, int) (*http.Response, error) {
				return response(code, "webhook-delivery", value), nil
			}}
			d := dispatcher(t, NewMemoryStore(), w, Options{Steering: steering})
			send(t, d, "e", subscriber("a"))
			_, err := d.Drain(t.Context())
			require.NoError(t, err)
			r := record(t, d, "e", "a")
			disabled := false
			for s := range d.Standings(t.Context()) {
				disabled = s.Disabled
			}
			return r.State, r.Reason, disabled
		}
		for _, test := range []struct {
			steering bool
			code     int
			value    string
			state    State
			reason   string
			disabled bool
		}{
			{true, 500, "disable", Dead, ReasonGone, true},
			{true, 400, "abort-message", Dead, ReasonAborted, false},
			{true, 500, "something", Pending, "", false},
			{true, 200, "disable", Delivered, "", false},
			{false, 500, "disable", Pending, "", false},
			{false, 500, "abort-message", Pending, "", false},
		} {
			state, reason, disabled := says(test.steering, test.code, test.value)
			require.Equal(t, []any{test.state, test.reason, test.disabled}, []any{state, reason, disabled}, test)
		}
	},
	"Observers": func(t *testing.T) {
		var told []string
		tell := func(what string) func(context.Context, Observation) {
			return func(_ context.Context, o Observation) {
				require.Equal(t, map[string]string{"tenant": "t1"}, o.Labels)
				told = append(told, what)
			}
		}
		type traced struct{}
		w := &wire{answer: func(r *http.Request, n int) (*http.Response, error) {
			require.Equal(t, true, r.Context().Value(traced{}))
			return response([]int{429, 200, 410}[n], "Retry-After", "1"), nil
		}}
		d := dispatcher(t, NewMemoryStore(), w, Options{Observers: []Observer{{}, {
			Sent: func(_ context.Context, e Event, r Receipt) {
				require.Equal(t, e.ID, r.EventID)
				told = append(told, "sent")
			},
			Attempting: func(ctx context.Context, _ Observation) context.Context {
				told = append(told, "attempting")
				return context.WithValue(ctx, traced{}, true)
			},
			Attempted: func(ctx context.Context, o Observation) {
				require.Equal(t, true, ctx.Value(traced{}))
				tell("attempted")(ctx, o)
			},
			Delivered: tell("delivered"),
			Retrying:  tell("retrying"),
			Dead:      tell("dead"),
			Standing:  func(_ context.Context, c StandingChange) { told = append(told, c.Reason+" "+c.Subscriber) },
		}}})
		for _, id := range []string{"e1", "e2"} {
			_, err := d.Send(t.Context(), Event{ID: id, Type: "x", Labels: map[string]string{"tenant": "t1"}}, []Subscriber{subscriber("a")})
			require.NoError(t, err)
			stop := run(t, d)
			time.Sleep(time.Minute)
			stop()
		}
		require.Equal(t, []string{
			"sent", "attempting", "attempted", "retrying", "Retry-After a", "attempting", "attempted", "delivered", " a", // is active again
			"sent", "attempting", "attempted", "dead", "gone a",
		}, told)
	},
}

type fixedSigner struct{}

func (fixedSigner) Sign(context.Context, Message, []Key) (http.Header, error) {
	return http.Header{"X-Mine": {"signed"}}, nil
}

// attempts returns how many are made for a delivery in 100 hours.
func attempts(t *testing.T, options Options, answer func(*http.Request, int) (*http.Response, error)) int {
	w := &wire{answer: answer}
	d := dispatcher(t, NewMemoryStore(), w, options)
	send(t, d, "e", subscriber("a"))
	stop := run(t, d)
	time.Sleep(100 * time.Hour)
	stop()
	return len(w.to(""))
}

// most returns how many requests are in flight at one time.
func most(t *testing.T, options Options, subscribers, events int) int {
	w := &wire{answer: okAfter(time.Second)}
	d := dispatcher(t, NewMemoryStore(), w, options)
	var list []Subscriber
	for i := range subscribers {
		list = append(list, subscriber("s"+eventID(i)))
	}
	for i := range events {
		send(t, d, eventID(i), list...)
	}
	_, err := d.Drain(t.Context())
	require.NoError(t, err)
	require.Equal(t, subscribers*events, len(w.to("")))
	return w.most
}

func TestOptions(t *testing.T) {
	var tested []string
	for name, test := range optionTests {
		bubble(t, name, test)
		tested = append(tested, name)
	}
	var fields []string
	for f := range reflect.TypeFor[Options]().Fields() {
		fields = append(fields, f.Name)
	}
	slices.Sort(tested)
	slices.Sort(fields)
	require.Equal(t, fields, tested, "each option has a test")

	t.Run("faults are reported together", func(t *testing.T) {
		_, err := New(nil, &Options{
			Timeout: -1, Lease: -1, Poll: -1, MaxRetryAfter: -1, MaxUnfinished: 2, Concurrency: -1,
			SubscriberConcurrency: -1, MaxPayload: -1, KeepResponse: -1, Guard: Guard{Allow: make([]Range, 1)}, UserAgent: "a\nb", Signers: map[string]Signer{"x": nil},
		})
		for _, field := range []string{"Store", "Timeout", "Lease", "Poll", "MaxRetryAfter", "MaxUnfinished", "Concurrency",
			"SubscriberConcurrency", "MaxPayload", "KeepResponse", "Guard", "UserAgent", "Signers"} {
			require.ErrorContains(t, err, field)
		}
		require.ErrorIs(t, err, ErrInvalid)
		field, ok := errors.AsType[*FieldError](err)
		require.True(t, ok)
		require.Equal(t, "Store", field.Field)

		_, err = New(NewMemoryStore(), &Options{Timeout: time.Minute, Lease: time.Minute})
		require.EqualError(t, err, "outhook: Options.Lease: 1m0s is shorter than Timeout + 10s = 1m10s")
	})

	t.Run("options are copied", func(t *testing.T) {
		o := &Options{Guard: DevelopmentGuard(), Observers: make([]Observer, 1)}
		d, err := New(NewMemoryStore(), o)
		require.NoError(t, err)
		require.Equal(t, &Options{Guard: DevelopmentGuard(), Observers: make([]Observer, 1)}, o)
		o.Guard.Allow[0] = Range{}
		require.True(t, d.options.Guard.Allow[0].Prefix.IsValid())
	})

	t.Run("the default transport has idle connections for all slots", func(t *testing.T) {
		d, err := New(NewMemoryStore(), &Options{Concurrency: 300})
		require.NoError(t, err)
		require.GreaterOrEqual(t, d.ownsIdle.MaxIdleConnsPerHost, 300)
	})
}
