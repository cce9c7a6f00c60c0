package outhook

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// posted returns a request as a Dispatcher makes it.
func posted(header http.Header, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/hooks", strings.NewReader(body))
	maps.Copy(r.Header, header)
	return r
}

// answered returns the answer to a request.
func answered(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// refusals is a Verifier.Refused that keeps what it is told.
type refusals struct {
	mu   sync.Mutex
	list []error // guarded by mu
}

func (f *refusals) add(_ *http.Request, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, err)
}

// take returns the errors since the last call.
func (f *refusals) take() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.list
	f.list = nil
	return list
}

// requireSilent looks that an answer says nothing but its status.
func requireSilent(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Code == http.StatusNoContent {
		require.Empty(t, w.Body.String())
		require.Empty(t, w.Header())
		return
	}
	require.Equal(t, http.StatusText(w.Code)+"\n", w.Body.String())
	names := slices.Sorted(maps.Keys(w.Header()))
	names = slices.DeleteFunc(names, func(name string) bool { return name == "Allow" || name == "Retry-After" })
	require.Equal(t, []string{"Content-Type", "X-Content-Type-Options"}, names)
	require.Equal(t, "text/plain; charset=utf-8", w.Header().Get("Content-Type"))
}

// broken is a body that ends in an error.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// Each answer of a Handler, and that of a Middleware to the same request: what was
// refused reaches neither func nor next handler, Refused is told why, and the
// response does not say it.
func TestReceiveAnswers(t *testing.T) {
	const body = `{"type":"x","timestamp":"2000-01-01T00:00:00Z","data":1}`
	own := errors.New("hidden")
	for _, test := range []struct {
		name     string
		verifier Verifier
		change   func(*http.Request)
		handle   error
		want     int    // of the Handler
		cause    error  // that Refused is told, if want is no 2xx
		text     string // of that
		passed   bool   // by the Middleware
	}{
		{"handled", Verifier{}, nil, nil, 204, nil, "", true},
		{"error", Verifier{}, nil, own, 500, own, "hidden", true},
		{"status", Verifier{}, nil, &StatusError{Status: 410, Err: own}, 410, own, "outhook: status 410: hidden", true},
		{"wrapped status", Verifier{}, nil, fmt.Errorf("outer: %w", &StatusError{Status: 503}), 503, nil, "outer: outhook: status 503", true},
		{"no status", Verifier{}, nil, &StatusError{Err: own}, 500, own, "outhook: status 0: hidden", true},
		{"status of success", Verifier{}, nil, &StatusError{Status: 204, Err: own}, 500, own, "outhook: status 204: hidden", true},
		{"status below", Verifier{}, nil, &StatusError{Status: 399}, 500, nil, "outhook: status 399", true},
		{"lowest status", Verifier{}, nil, &StatusError{Status: 400}, 400, nil, "outhook: status 400", true},
		{"highest status", Verifier{}, nil, &StatusError{Status: 599}, 599, nil, "outhook: status 599", true},
		{"of another webhook", Verifier{}, nil, fmt.Errorf("hidden: %w", ErrSignature), 500, ErrSignature, "hidden: " + ErrSignature.Error(), true},
		{"of another header", Verifier{}, nil, &StatusError{Status: 200, Err: ErrHeader}, 500, ErrHeader, "outhook: status 200: " + ErrHeader.Error(), true},
		{"no keys", Verifier{Keys: []Key{}}, nil, nil, 401, ErrSignature, ErrSignature.Error() + ": the Verifier has no live key", false},
		{"status above", Verifier{}, nil, &StatusError{Status: 600}, 500, nil, "outhook: status 600", true},
		{"no header", Verifier{}, func(r *http.Request) { r.Header.Del("Webhook-Id") }, nil, 400, ErrHeader, ErrHeader.Error() + ": Webhook-Id", false},
		{"timestamp", Verifier{}, func(r *http.Request) { r.Header.Set("Webhook-Timestamp", "1") }, nil, 401, ErrTimestamp, ErrTimestamp.Error(), false},
		{"signature", Verifier{}, func(r *http.Request) { r.Header.Set("Webhook-Id", "f") }, nil, 401, ErrSignature, ErrSignature.Error(), false},
		{"other key", Verifier{Keys: []Key{GenerateKey()}}, nil, nil, 401, ErrSignature, ErrSignature.Error(), false},
		{"malformed key", Verifier{Keys: []Key{{Secret: NewSecret("hidden")}}}, nil, nil, 500, ErrKey,
			"outhook: verify: the secret does not begin with whsec_, whsk_ or whpk_", false},
		{"unknown scheme", Verifier{Keys: []Key{{Scheme: "hidden"}}}, nil, nil, 500, ErrKey,
			`outhook: malformed key: its scheme "hidden" is not in Verifier.Schemes`, false},
		{"body cut off", Verifier{}, func(r *http.Request) {
			r.Body = io.NopCloser(io.MultiReader(strings.NewReader("{"), broken{}))
		}, nil, 400, io.ErrUnexpectedEOF, "outhook: status 400: unexpected EOF", false},
		{"body at the limit", Verifier{MaxBody: int64(len(body))}, nil, nil, 204, nil, "", true},
		{"body above the limit", Verifier{MaxBody: int64(len(body)) - 1}, nil, nil, 413, nil, "outhook: status 413: http: request body too large", false},
		{"no limit but the default", Verifier{}, func(r *http.Request) { r.Body = io.NopCloser(bytes.NewReader(make([]byte, 1<<20+1))) },
			nil, 413, nil, "outhook: status 413: http: request body too large", false},
	} {
		bubble(t, test.name, func(t *testing.T) {
			v, told := test.verifier, refusals{}
			v.Refused = told.add
			if v.Keys == nil {
				v.Keys = []Key{testKey}
			}
			request := func() *http.Request {
				r := posted(signedBy(t, time.Now(), body, testKey), body)
				if test.change != nil {
					test.change(r)
				}
				return r
			}
			requireTold := func(refused bool) {
				list := told.take()
				require.Len(t, list, map[bool]int{true: 1}[refused])
				for _, err := range list {
					require.EqualError(t, err, test.text)
					if test.cause != nil {
						require.ErrorIs(t, err, test.cause)
					}
				}
			}

			calls := 0
			w := answered(v.Handler(func(context.Context, Event) error {
				calls++
				return test.handle
			}), request())
			require.Equal(t, test.want, w.Code)
			requireSilent(t, w)
			require.Equal(t, map[bool]int{true: 1}[test.passed], calls)
			requireTold(test.want != 204)

			calls = 0
			w = answered(v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				calls++
				w.WriteHeader(http.StatusTeapot)
			})), request())
			require.Equal(t, map[bool]int{true: 1}[test.passed], calls)
			if test.passed {
				require.Equal(t, http.StatusTeapot, w.Code)
				require.Empty(t, w.Header())
			} else {
				require.Equal(t, test.want, w.Code)
				requireSilent(t, w)
			}
			requireTold(!test.passed)

			v.Refused = nil
			require.Equal(t, test.want, answered(v.Handler(func(context.Context, Event) error { return test.handle }), request()).Code)
		})
	}
}

func TestHandlerMethods(t *testing.T) {
	told := refusals{}
	v := Verifier{Keys: []Key{testKey}, Refused: told.add}
	calls := 0
	h := v.Handler(func(context.Context, Event) error {
		calls++
		return nil
	})
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "post", "OTHER"} {
		r := posted(signedBy(t, time.Now(), "b", testKey), "b")
		r.Method = method
		w := answered(h, r)
		require.Equal(t, http.StatusMethodNotAllowed, w.Code, method)
		require.Equal(t, []string{"POST"}, w.Header()["Allow"])
		requireSilent(t, w)
		require.Empty(t, told.take(), "a wrong method is no fault of a webhook")
	}
	require.Zero(t, calls)
	w := answered(h, posted(signedBy(t, time.Now(), "b", testKey), "b"))
	require.Equal(t, http.StatusNoContent, w.Code)
	require.Empty(t, w.Header()["Allow"])
	require.Equal(t, 1, calls)
}

func TestHandlerPanics(t *testing.T) {
	for _, value := range []any{"hidden", errors.New("hidden"), http.ErrAbortHandler, &StatusError{Status: 410}} {
		told := refusals{}
		v := Verifier{Keys: []Key{testKey}, Refused: told.add}
		calls := 0
		h := v.Handler(func(context.Context, Event) error {
			if calls++; calls == 1 {
				panic(value)
			}
			return nil
		})
		header := signedBy(t, time.Now(), "b", testKey)
		w := answered(h, posted(header, "b"))
		require.Equal(t, http.StatusInternalServerError, w.Code)
		requireSilent(t, w)
		list := told.take()
		require.Len(t, list, 1)
		require.ErrorIs(t, list[0], errPanic)
		require.ErrorContains(t, list[0], "panic in the handler")
		require.ErrorContains(t, list[0], "TestHandlerPanics", "it says where")
		require.NotContains(t, list[0].Error(), "hidden")
		require.Equal(t, http.StatusNoContent, answered(h, posted(header, "b")).Code, "it is handled when it comes again")
		require.Equal(t, 2, calls)
	}
}

// A panic of what the Middleware calls is the server's, as without it.
func TestMiddlewarePanics(t *testing.T) {
	v := Verifier{Keys: []Key{testKey}}
	h := v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	r := posted(signedBy(t, time.Now(), "b", testKey), "b")
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { answered(h, r) })
}

func TestHandlerRetryAfter(t *testing.T) {
	for _, test := range []struct {
		after time.Duration
		want  []string
	}{
		{0, nil},
		{-time.Second, nil},
		{1, []string{"1"}},
		{time.Second - 1, []string{"1"}},
		{time.Second, []string{"1"}},
		{time.Second + 1, []string{"2"}},
		{90 * time.Minute, []string{"5400"}},
		{math.MaxInt64, []string{"9223372037"}},
	} {
		for _, status := range []int{429, 503, 400, 204, 0} {
			v := Verifier{Keys: []Key{testKey}}
			w := answered(v.Handler(func(context.Context, Event) error {
				return &StatusError{Status: status, RetryAfter: test.after}
			}), posted(signedBy(t, time.Now(), "b", testKey), "b"))
			require.Equal(t, test.want, w.Header()["Retry-After"], test.after)
			requireSilent(t, w)
		}
	}
}

func TestStatusError(t *testing.T) {
	err := &StatusError{Status: 410}
	require.EqualError(t, err, "outhook: status 410")
	require.NoError(t, err.Unwrap())
	err.Err = errHandle
	require.EqualError(t, err, "outhook: status 410: not now")
	require.ErrorIs(t, err, errHandle)
}

func TestHandlerDefaultMaxBody(t *testing.T) {
	for size, want := range map[int]int{1 << 20: 204, 1<<20 + 1: 413} {
		bubble(t, strconv.Itoa(size), func(t *testing.T) {
			body := strings.Repeat("a", size)
			verifier := Verifier{Keys: []Key{testKey}}
			h := verifier.Handler(func(context.Context, Event) error { return nil })
			require.Equal(t, want, answered(h, posted(signedBy(t, time.Now(), body, testKey), body)).Code)
		})
	}
}

func TestHandlerEvent(t *testing.T) {
	for _, test := range []struct {
		name, body string
		eventType  string
		time       time.Time
	}{
		{"envelope", `{"type":"invoice.paid","timestamp":"2000-01-02T03:04:05.6+01:00","data":{"n":1}}`, "invoice.paid", time.Date(2000, 1, 2, 2, 4, 5, 600_000_000, time.UTC)},
		{"without a time", `{"type":"x","data":1}`, "x", time.Time{}},
		{"another time", `{"type":"x","timestamp":"yesterday"}`, "x", time.Time{}},
		{"time in seconds", `{"type":"x","timestamp":946684800}`, "x", time.Time{}},
		{"other JSON", `[1]`, "", time.Time{}},
		{"type of another kind", `{"type":1,"timestamp":"2000-01-02T03:04:05Z"}`, "", time.Time{}},
		{"no JSON", "\x00", "", time.Time{}},
		{"empty", "", "", time.Time{}},
	} {
		bubble(t, test.name, func(t *testing.T) {
			r := posted(signedBy(t, time.Now(), test.body, testKey), test.body)
			r.Header.Set("Content-Type", "text/x")
			r.Header.Set("Ce-Source", "s")
			type contextKey struct{}
			r = r.WithContext(context.WithValue(r.Context(), contextKey{}, "of the request"))
			var got []Event
			verifier := Verifier{Keys: []Key{testKey}}
			answered(verifier.Handler(func(ctx context.Context, e Event) error {
				require.Equal(t, "of the request", ctx.Value(contextKey{}))
				got = append(got, e)
				return nil
			}), r)

			require.Len(t, got, 1)
			e := got[0]
			require.Equal(t, "e", e.ID)
			require.Equal(t, test.eventType, e.Type)
			require.True(t, test.time.Equal(e.Time), e.Time)
			require.Equal(t, test.body, string(e.Payload.Body))
			require.Equal(t, "text/x", e.Payload.ContentType)
			require.Equal(t, "s", e.Payload.Header.Get("Ce-Source"))
		})
	}
}

// What Handler hands on, Event returns.
func TestVerifierEvent(t *testing.T) {
	const body = `{"type":"x","timestamp":"2000-01-01T00:00:00Z","data":1}`
	v, want := Verifier{Keys: []Key{testKey}}, Event{}
	header := signedBy(t, time.Now(), body, testKey)
	header.Set("Content-Type", "text/x")
	answered(v.Handler(func(_ context.Context, e Event) error {
		want = e
		return nil
	}), posted(header, body))
	require.Equal(t, "x", want.Type)
	got, err := v.Event(header, []byte(body))
	require.NoError(t, err)
	require.Equal(t, want, got)
	got, err = v.Event(header, []byte(body+" "))
	require.ErrorIs(t, err, ErrSignature)
	require.Zero(t, got)
}

// A counter counts what a Handler hands on, by ID.
type counter struct {
	mu    sync.Mutex
	calls map[string]int // guarded by mu
}

func (c *counter) handle(_ context.Context, e Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		c.calls = make(map[string]int)
	}
	c.calls[e.ID]++
	return nil
}

// identify adds the header that has the ID, as a Dispatcher does for schemes that do
// not sign it.
func (c *schemeCase) identify(header http.Header, id string) http.Header {
	header = header.Clone()
	name := headerID
	if h, ok := c.scheme.(HMAC); ok {
		name = cmp.Or(h.ID, name)
	}
	header.Set(name, id)
	return header
}

// Under each scheme an event is handed on once, by its ID: when it is sent again,
// later and so with another timestamp, and when the key was changed meanwhile.
func TestHandlerOnce(t *testing.T) {
	eachScheme(t, func(t *testing.T, c schemeCase, old Key, _ *Verifier) {
		current := c.key()
		current.Scheme = c.name
		v := c.verifier(t, current, old)
		got := counter{}
		h := v.Handler(got.handle)
		post := func(want int, header http.Header) {
			t.Helper()
			w := answered(h, posted(header, "b"))
			require.Equal(t, want, w.Code)
			requireSilent(t, w)
		}
		first := c.identify(c.sign(t, time.Now(), "b", old), "e")
		post(204, first)
		post(204, first)
		time.Sleep(4 * time.Minute)
		post(204, c.identify(c.sign(t, time.Now(), "b", current, old), "e"))
		post(204, c.identify(c.sign(t, time.Now(), "b", current), "e"))
		require.Equal(t, map[string]int{"e": 1}, got.calls)

		header := c.identify(c.sign(t, time.Now(), "b", current), "f")
		if c.id != "" {
			post(401, header)
			require.Equal(t, map[string]int{"e": 1}, got.calls)
			return
		}
		// Whoever recorded a request can repeat it under another ID.
		post(204, header)
		require.Equal(t, map[string]int{"e": 1, "f": 1}, got.calls)
	})
}

// An event under two schemes, together on one request or one after the other on two,
// is one event.
func TestHandlerOnceOfTwoSchemes(t *testing.T) {
	cases := schemeCases()
	for i, a := range cases {
		for _, b := range cases[i+1:] {
			if a.name == b.name {
				continue
			}
			bubble(t, a.name+" "+b.name, func(t *testing.T) {
				first, second := a.key(), b.key()
				first.Scheme, second.Scheme = a.name, b.name
				v := Verifier{
					Keys:    append(a.verifier(t, first).Keys, b.verifier(t, second).Keys...),
					Schemes: map[string]Scheme{"own": cases[6].scheme, "plain": cases[7].scheme, "timed": cases[8].scheme},
				}
				signedA := a.identify(a.sign(t, time.Now(), "b", first), "e")
				signedB := b.identify(b.sign(t, time.Now(), "b", second), "e")
				both := maps.Clone(signedA)
				maps.Copy(both, signedB)
				for _, order := range [][]http.Header{{both, both}, {signedA, both, signedB}, {signedB, signedA, both}} {
					got := counter{}
					h := v.Handler(got.handle)
					for _, header := range order {
						require.Equal(t, 204, answered(h, posted(header, "b")).Code)
					}
					require.Equal(t, map[string]int{"e": 1}, got.calls)
				}
			})
		}
	}
}

// Without an ID nothing tells an event from another: it is handed on each time, and
// the Deduplicator is not asked.
func TestHandlerWithoutID(t *testing.T) {
	eachScheme(t, func(t *testing.T, c schemeCase, key Key, v *Verifier) {
		got := counter{}
		v.Deduplicator = deduplicatorFunc(func(context.Context, string, func(context.Context) error) error {
			panic("asked")
		})
		h := v.Handler(got.handle)
		header := c.identify(c.sign(t, time.Now(), "b", key), "e")
		for name := range header {
			if header.Get(name) == "e" {
				header.Del(name)
			}
		}
		for range 3 {
			w := answered(h, posted(header, "b"))
			if c.id != "" {
				require.Equal(t, http.StatusBadRequest, w.Code)
			} else {
				require.Equal(t, http.StatusNoContent, w.Code)
			}
		}
		if c.id == "" {
			require.Equal(t, map[string]int{"": 3}, got.calls)
		} else {
			require.Empty(t, got.calls)
		}
	})
}

type deduplicatorFunc func(context.Context, string, func(context.Context) error) error

func (f deduplicatorFunc) Once(ctx context.Context, id string, handle func(context.Context) error) error {
	return f(ctx, id, handle)
}

// A Deduplicator of the host's own is given the ID, and passes on a context of its
// own; its error is the answer, and its nil is 204 though nothing was called.
func TestHandlerDeduplicator(t *testing.T) {
	type contextKey struct{}
	var did error
	calls, told, ids := 0, refusals{}, []string(nil)
	v := Verifier{Keys: []Key{testKey}, Refused: told.add}
	v.Deduplicator = deduplicatorFunc(func(ctx context.Context, id string, handle func(context.Context) error) error {
		ids = append(ids, id)
		switch len(ids) {
		case 1:
			did = handle(context.WithValue(ctx, contextKey{}, "a transaction"))
			return did
		case 2:
			did = handle(context.WithValue(ctx, contextKey{}, "a transaction"))
			return fmt.Errorf("commit: %w", errHandle)
		case 3:
			return &StatusError{Status: 503}
		}
		return nil
	})
	h := v.Handler(func(ctx context.Context, _ Event) error {
		require.Equal(t, "a transaction", ctx.Value(contextKey{}))
		if calls++; calls == 1 {
			panic("contained")
		}
		return nil
	})
	for n, want := range []int{500, 500, 503, 204} {
		header := signedBy(t, time.Now(), "b", testKey)
		require.Equal(t, want, answered(h, posted(header, "b")).Code)
		switch list := told.take(); n {
		case 0:
			require.ErrorIs(t, did, errPanic, "a transaction is rolled back by an error, not by a panic")
		case 1:
			require.NoError(t, did)
			require.ErrorIs(t, list[0], errHandle)
		case 3:
			require.Empty(t, list)
		}
	}
	require.Equal(t, 2, calls)
	require.Equal(t, []string{"e", "e", "e", "e"}, ids)
}

// Each Handler has events of its own, unless they share a Deduplicator.
func TestHandlersShareDeduplicator(t *testing.T) {
	for shared, want := range map[bool]int{false: 2, true: 1} {
		v := Verifier{Keys: []Key{testKey}}
		if shared {
			v.Deduplicator = NewMemoryDeduplicator(10)
		}
		got := counter{}
		for range 2 {
			require.Equal(t, 204, answered(v.Handler(got.handle), posted(signedBy(t, time.Now(), "b", testKey), "b")).Code)
		}
		require.Equal(t, want, got.calls["e"])
	}
}

// By default 10,000 IDs are remembered.
func TestHandlerDefaultDeduplicator(t *testing.T) {
	v, got := Verifier{Keys: []Key{{Secret: NewSecret("s"), Scheme: "github"}}}, counter{}
	h := v.Handler(got.handle)
	header, err := GitHub().Sign(t.Context(), Message{ID: "0"}, v.Keys)
	require.NoError(t, err)
	post := func(n int) {
		header.Set("X-GitHub-Delivery", strconv.Itoa(n))
		if code := answered(h, posted(header, "")).Code; code != 204 { // a require for each would take longer than the rest
			require.Equal(t, 204, code)
		}
	}
	for n := range 10_000 {
		post(n)
	}
	post(0)
	require.Equal(t, 1, got.calls["0"])
	post(10_000)
	post(0)
	require.Equal(t, 2, got.calls["0"])
}

// Duplicates that come at the same time wait for the one that is handled: none is
// answered 204 before it is done, and the next one is handled if it fails.
func TestHandlerConcurrentDuplicates(t *testing.T) {
	for fails, want := range map[int]map[int]int{0: {204: 10}, 2: {204: 8, 500: 2}, 10: {500: 10}} {
		bubble(t, strconv.Itoa(fails), func(t *testing.T) {
			v := Verifier{Keys: []Key{testKey}}
			calls := 0 // never two at once
			h := v.Handler(func(context.Context, Event) error {
				n := calls
				time.Sleep(time.Second)
				if calls = n + 1; calls <= fails {
					return errHandle
				}
				return nil
			})
			start, header := time.Now(), signedBy(t, time.Now(), "b", testKey)
			codes := make(chan int, 10)
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					code := answered(h, posted(header, "b")).Code
					if code == 204 {
						require.Equal(t, time.Duration(fails+1)*time.Second, time.Since(start))
					}
					codes <- code
				})
			}
			wg.Wait()
			close(codes)
			got := map[int]int{}
			for code := range codes {
				got[code]++
			}
			require.Equal(t, want, got)
			require.Equal(t, min(fails+1, 10), calls)
		})
	}
}

// The client of the request that is handled goes away while another waits: that one
// is handled then, under its own context. One that goes away while it waits ends its
// waiting and nothing else.
func TestHandlerClientGone(t *testing.T) {
	bubble(t, "the one that is handled", func(t *testing.T) {
		told := refusals{}
		v := Verifier{Keys: []Key{testKey}, Refused: told.add}
		h := v.Handler(func(ctx context.Context, _ Event) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Minute):
				return nil
			}
		})
		header := signedBy(t, time.Now(), "b", testKey)
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			require.Equal(t, 500, answered(h, posted(header, "b").WithContext(ctx)).Code)
			require.Equal(t, time.Second, time.Since(start))
		})
		synctest.Wait()
		require.Equal(t, 204, answered(h, posted(header, "b")).Code)
		require.Equal(t, time.Second+time.Minute, time.Since(start))
		wg.Wait()
		require.Equal(t, []error{context.DeadlineExceeded}, told.take())
	})
	bubble(t, "one that waits", func(t *testing.T) {
		told := refusals{}
		v := Verifier{Keys: []Key{testKey}, Refused: told.add}
		calls := 0
		h := v.Handler(func(context.Context, Event) error {
			calls++
			time.Sleep(time.Minute)
			return nil
		})
		header := signedBy(t, time.Now(), "b", testKey)
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { require.Equal(t, 204, answered(h, posted(header, "b")).Code) })
		synctest.Wait()
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		require.Equal(t, 500, answered(h, posted(header, "b").WithContext(ctx)).Code)
		require.Equal(t, time.Second, time.Since(start))
		require.Equal(t, []error{context.DeadlineExceeded}, told.take())
		wg.Wait()
		require.Equal(t, 204, answered(h, posted(header, "b")).Code)
		require.Equal(t, 1, calls)
	})
}

// TestHandlerRepetitions has a sender that does not get to know of what was handled:
// it sends each event again at random, some of it at the same time, while the func
// fails now and then. In the end each was handled exactly once.
func TestHandlerRepetitions(t *testing.T) {
	bubble(t, "repetitions", func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		v := Verifier{Keys: []Key{testKey}}
		var mu sync.Mutex
		results, good, failures := rand.New(rand.NewPCG(3, 4)), map[string]int{}, 0 // guarded by mu
		h := v.Handler(func(_ context.Context, e Event) error {
			mu.Lock()
			takes, fails := time.Duration(results.IntN(1000))*time.Millisecond, results.IntN(2) == 0
			mu.Unlock()
			time.Sleep(takes)
			mu.Lock()
			defer mu.Unlock()
			if fails {
				failures++
				return errHandle
			}
			good[e.ID]++
			return nil
		})
		var wg sync.WaitGroup
		for n := range 50 {
			for range 1 + random.IntN(4) {
				wait := time.Duration(random.IntN(1000)) * time.Millisecond
				wg.Go(func() {
					for {
						time.Sleep(wait)
						header, err := StandardWebhooks{}.Sign(t.Context(), Message{ID: eventID(n), Time: time.Now()}, v.Keys)
						require.NoError(t, err)
						if answered(h, posted(header, "")).Code == 204 {
							return
						}
					}
				})
			}
		}
		wg.Wait()
		require.Len(t, good, 50)
		for id, n := range good {
			require.Equal(t, 1, n, id)
		}
		t.Logf("%d events, %d failures", len(good), failures)
		require.NotZero(t, failures)
	})
}

// The Middleware hands on what verifies under each scheme, with all methods, as often
// as it comes, and its body as if nobody had read it.
func TestMiddleware(t *testing.T) {
	eachScheme(t, func(t *testing.T, c schemeCase, key Key, v *Verifier) {
		type contextKey struct{}
		const body = "text=a+b&n=1"
		calls := 0
		next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls++
			require.Equal(t, "of the request", r.Context().Value(contextKey{}))
			require.EqualValues(t, len(body), r.ContentLength)
			require.Empty(t, r.TransferEncoding)
			require.Equal(t, "/hooks?q=1", r.URL.String())
			require.Equal(t, "x", r.Header.Get("X-Other"))
			r.Header.Set("X-Other", "changed by next")
			if r.Method == http.MethodPost {
				require.Equal(t, "a b", r.PostFormValue("text"))
			} else {
				got, err := io.ReadAll(r.Body)
				require.NoError(t, err)
				require.Equal(t, body, string(got))
			}
			require.NoError(t, r.Body.Close())
			w.WriteHeader(http.StatusAccepted)
		})
		h := v.Middleware(v.Middleware(next)) // twice, for the body is there again
		header := c.sign(t, time.Now(), body, key)
		for _, method := range []string{"POST", "POST", "GET", "PUT", "DELETE", "OPTIONS"} {
			r := httptest.NewRequest(method, "/hooks?q=1", io.MultiReader(strings.NewReader(body))) // of no known length
			require.EqualValues(t, -1, r.ContentLength)
			r.TransferEncoding = []string{"chunked"} // as a server has it
			maps.Copy(r.Header, header)
			r.Header.Set("X-Other", "x")
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			w := answered(h, r.WithContext(context.WithValue(r.Context(), contextKey{}, "of the request")))
			require.Equal(t, http.StatusAccepted, w.Code, method)
			require.Equal(t, "x", r.Header.Get("X-Other"), "the request is a clone")
		}
		require.Equal(t, 6, calls)

		require.Equal(t, http.StatusUnauthorized, answered(h, posted(header, body+"!")).Code)
		header.Del(c.signature)
		require.Equal(t, http.StatusBadRequest, answered(h, posted(header, body)).Code)
		require.Equal(t, 6, calls)
	})
	t.Run("no body", func(t *testing.T) {
		v := Verifier{Keys: []Key{testKey}}
		h := v.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			require.Zero(t, r.ContentLength)
			n, err := r.Body.Read(make([]byte, 1))
			require.Zero(t, n)
			require.Equal(t, io.EOF, err)
		}))
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		maps.Copy(r.Header, signedBy(t, time.Now(), "", testKey))
		require.Equal(t, http.StatusOK, answered(h, r).Code)
	})
}

// A Mux behind a Handler: what its funcs return is the answer.
func TestHandlerMux(t *testing.T) {
	var m Mux
	got := []string(nil)
	On(&m, "a", func(_ context.Context, _ Event, n int) error {
		got = append(got, fmt.Sprint("a ", n))
		if n == 0 {
			return &StatusError{Status: 410}
		}
		return nil
	})
	On(&m, "a.*", func(_ context.Context, e Event, s string) error {
		got = append(got, e.Type+" "+s)
		return errHandle
	})
	told := refusals{}
	v := Verifier{Keys: []Key{testKey}, Refused: told.add}
	h := v.Handler(m.Handle)
	for n, test := range []struct {
		eventType, data string
		code            int
		got             []string
	}{
		{"a", "1", 204, []string{"a 1"}},
		{"a", "0", 410, []string{"a 0"}},
		{"a", `"1"`, 422, nil},
		{"a.b", `"1"`, 500, []string{"a.b 1"}},
		{"b", "1", 204, nil},
		{"", "1", 204, nil},
	} {
		got = nil
		body := string(enveloped(test.eventType, test.data).Payload.Body)
		header, err := StandardWebhooks{}.Sign(t.Context(), Message{ID: eventID(n), Time: time.Now(), Body: []byte(body)}, v.Keys)
		require.NoError(t, err)
		w := answered(h, posted(header, body))
		require.Equal(t, test.code, w.Code)
		requireSilent(t, w)
		require.Equal(t, test.got, got)
		require.Len(t, told.take(), map[bool]int{true: 1}[test.code != 204])
	}
}

// What Run sends, Handler accepts.
func TestHandlerOverTheWire(t *testing.T) {
	old := GenerateKey()
	verifier := Verifier{Keys: []Key{old}}
	var got []Event
	server, _ := receiver(t, verifier.Handler(func(_ context.Context, e Event) error {
		got = append(got, e)
		return nil
	}).ServeHTTP)
	d, err := New(NewMemoryStore(), &Options{Guard: DevelopmentGuard()})
	require.NoError(t, err)
	s := Subscriber{ID: "a", URL: server.URL, Keys: []Key{GenerateKey(), old}}
	_, err = d.Send(t.Context(), Event{ID: "e1", Type: "x.y", Data: []int{1, 2}}, []Subscriber{s})
	require.NoError(t, err)
	_, err = d.Drain(t.Context())
	require.NoError(t, err)

	require.Equal(t, Delivered, record(t, d, "e1", "a").State)
	require.Len(t, got, 1)
	require.Equal(t, "x.y", got[0].Type)
	data, err := Decode[[]int](got[0])
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, data)
}

// A real server, and clients that do what clients of net/http do not.
func TestHandlerOnASocket(t *testing.T) {
	dial := func(t *testing.T, server *httptest.Server, header http.Header, request string) (net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		var text bytes.Buffer
		require.NoError(t, header.Write(&text))
		_, err = io.WriteString(conn, strings.Replace(request, "\r\n", "\r\nHost: a.example.com\r\n"+text.String(), 1))
		require.NoError(t, err)
		return conn, bufio.NewReader(conn)
	}
	answer := func(t *testing.T, r *bufio.Reader, method string) (*http.Response, string) {
		response, err := http.ReadResponse(r, &http.Request{Method: method})
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response, string(body)
	}
	header := func() http.Header { return signedBy(t, time.Now(), "0123456789", testKey) }

	t.Run("body above the limit", func(t *testing.T) {
		v := Verifier{Keys: []Key{testKey}, MaxBody: 10}
		server, _ := receiver(t, v.Handler(func(context.Context, Event) error { return nil }).ServeHTTP)
		for body, want := range map[string]int{
			"Content-Length: 10\r\n\r\n0123456789":                            204,
			"Content-Length: 11\r\n\r\n0123456789a":                           413,
			"Content-Length: 9999999999\r\n\r\n0123456789a":                   413, // does not wait for the rest
			"Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n":  204,
			"Transfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n": 413,
		} {
			_, r := dial(t, server, header(), "POST / HTTP/1.1\r\n"+body)
			response, text := answer(t, r, "POST")
			require.Equal(t, want, response.StatusCode, body)
			require.Equal(t, want == 413, response.Close, "the rest of the body is not to be read as a request")
			if want == 413 {
				require.Equal(t, "Request Entity Too Large\n", text)
				_, err := r.ReadByte()
				require.Error(t, err, "the connection is closed")
			}
		}
	})
	t.Run("methods", func(t *testing.T) {
		v := Verifier{Keys: []Key{testKey}}
		server, _ := receiver(t, v.Handler(func(context.Context, Event) error { return nil }).ServeHTTP)
		for method, want := range map[string]string{"HEAD": "", "GET": "Method Not Allowed\n", "OPTIONS": "Method Not Allowed\n"} {
			_, r := dial(t, server, header(), method+" / HTTP/1.1\r\n\r\n")
			response, text := answer(t, r, method)
			require.Equal(t, http.StatusMethodNotAllowed, response.StatusCode)
			require.Equal(t, "POST", response.Header.Get("Allow"))
			require.Equal(t, want, text)
			require.False(t, response.Close)
		}
	})
	t.Run("client that asks whether it may send", func(t *testing.T) {
		v, got := Verifier{Keys: []Key{testKey}}, counter{}
		server, _ := receiver(t, v.Handler(got.handle).ServeHTTP)
		conn, r := dial(t, server, header(), "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n")
		response, _ := answer(t, r, "POST")
		require.Equal(t, http.StatusContinue, response.StatusCode)
		_, err := io.WriteString(conn, "0123456789")
		require.NoError(t, err)
		response, _ = answer(t, r, "POST")
		require.Equal(t, http.StatusNoContent, response.StatusCode)
		require.Equal(t, map[string]int{"e": 1}, got.calls)
	})
	t.Run("slow client", func(t *testing.T) { // that the server's deadline ends
		told := refusals{}
		v, got := Verifier{Keys: []Key{testKey}, Refused: told.add}, counter{}
		handler := v.Handler(got.handle)
		server, _ := receiver(t, func(w http.ResponseWriter, r *http.Request) {
			require.NoError(t, http.NewResponseController(w).SetReadDeadline(time.Now()))
			handler.ServeHTTP(w, r)
		})
		_, r := dial(t, server, header(), "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234")
		response, text := answer(t, r, "POST")
		require.Equal(t, http.StatusBadRequest, response.StatusCode)
		require.Equal(t, "Bad Request\n", text)
		list := told.take()
		require.Len(t, list, 1)
		var timeout net.Error
		require.ErrorAs(t, list[0], &timeout)
		require.True(t, timeout.Timeout())
		require.Empty(t, got.calls)
	})
	t.Run("client that leaves in the body", func(t *testing.T) {
		told := make(chan error, 1)
		v := Verifier{Keys: []Key{testKey}, Refused: func(_ *http.Request, err error) { told <- err }}
		got := counter{}
		server, _ := receiver(t, v.Handler(got.handle).ServeHTTP)
		conn, _ := dial(t, server, header(), "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234")
		require.NoError(t, conn.Close())
		require.EqualError(t, <-told, "outhook: status 400: unexpected EOF")
		require.Empty(t, got.calls)
	})
	t.Run("client that leaves while another waits", func(t *testing.T) {
		told := make(chan error, 1)
		v := Verifier{Keys: []Key{testKey}, Refused: func(_ *http.Request, err error) { told <- err }}
		memory, asked := NewMemoryDeduplicator(10), make(chan int, 10)
		v.Deduplicator = deduplicatorFunc(func(ctx context.Context, id string, handle func(context.Context) error) error {
			asked <- 1
			return memory.Once(ctx, id, handle)
		})
		begun, calls := make(chan int), 0
		server, _ := receiver(t, v.Handler(func(ctx context.Context, _ Event) error {
			if calls++; calls > 1 {
				return ctx.Err()
			}
			close(begun)
			<-ctx.Done()
			return ctx.Err()
		}).ServeHTTP)
		post := "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n0123456789"
		first, _ := dial(t, server, header(), post)
		<-begun
		_, second := dial(t, server, header(), post)
		<-asked
		<-asked
		require.NoError(t, first.Close())
		response, _ := answer(t, second, "POST")
		require.Equal(t, http.StatusNoContent, response.StatusCode)
		require.Equal(t, context.Canceled, <-told)
		require.Equal(t, 2, calls)
	})
	t.Run("client that leaves while it waits", func(t *testing.T) {
		told := make(chan error, 1)
		v := Verifier{Keys: []Key{testKey}, Refused: func(_ *http.Request, err error) { told <- err }}
		memory, asked := NewMemoryDeduplicator(10), make(chan int, 10)
		v.Deduplicator = deduplicatorFunc(func(ctx context.Context, id string, handle func(context.Context) error) error {
			asked <- 1
			return memory.Once(ctx, id, handle)
		})
		begun, finish, calls := make(chan int), make(chan int), 0
		server, _ := receiver(t, v.Handler(func(ctx context.Context, _ Event) error {
			calls++
			close(begun)
			<-finish
			return ctx.Err()
		}).ServeHTTP)
		post := "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n0123456789"
		_, first := dial(t, server, header(), post)
		<-begun
		second, _ := dial(t, server, header(), post)
		<-asked
		<-asked
		require.NoError(t, second.Close())
		require.Equal(t, context.Canceled, <-told)
		close(finish)
		response, _ := answer(t, first, "POST")
		require.Equal(t, http.StatusNoContent, response.StatusCode)
		require.Equal(t, 1, calls)
	})
	t.Run("panic", func(t *testing.T) { // does not end the connection
		v := Verifier{Keys: []Key{testKey}}
		server, connections := receiver(t, v.Handler(func(context.Context, Event) error { panic(http.ErrAbortHandler) }).ServeHTTP)
		for range 2 {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("0123456789"))
			require.NoError(t, err)
			r.Header = header()
			response, err := server.Client().Do(r)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, response.Body)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, http.StatusInternalServerError, response.StatusCode)
		}
		require.EqualValues(t, 1, connections.Load())
	})
}
