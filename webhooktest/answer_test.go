package webhooktest

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
)

// A script of each kind, met by one request.
func TestAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer Answer
		status int // 0: none
		header http.Header
		body   string
		err    error
	}{
		{name: "nothing set", status: 204},
		{name: "status", answer: Status(500), status: 500},
		{name: "redirect", answer: Answer{Status: 302, Header: http.Header{"location": {"https://elsewhere.example"}}},
			status: 302, header: http.Header{"Location": {"https://elsewhere.example"}}},
		{name: "odd status", answer: Status(799), status: 799},
		{name: "body", answer: Answer{Body: "thanks"}, status: 200, body: "thanks"},
		{name: "body of an error", answer: Answer{Status: 400, Body: "no", Header: http.Header{"Content-Type": {"text/plain"}, "X-Two": {"a", "b"}}},
			status: 400, body: "no", header: http.Header{"Content-Type": {"text/plain"}, "X-Two": {"a", "b"}}},
		{name: "429", answer: RetryAfter(90 * time.Second), status: 429, header: http.Header{"Retry-After": {"90"}}},
		{name: "429, rounded up", answer: RetryAfter(1001 * time.Millisecond), status: 429, header: http.Header{"Retry-After": {"2"}}},
		{name: "429, at once", answer: RetryAfter(0), status: 429, header: http.Header{"Retry-After": {"0"}}},
		{name: "slow body", answer: Answer{Body: "slow", Pause: time.Millisecond}, status: 200, body: "slow"},
		{name: "reset", answer: Reset(), err: syscall.ECONNRESET},
		{name: "close", answer: Close(), err: io.EOF},
		{name: "late reset", answer: Answer{Delay: time.Millisecond, fault: faultReset}, err: syscall.ECONNRESET},
	} {
		both(t, test.name, func(t *testing.T, f form) {
			f.r.Script(test.answer)
			shop := f.r.Subscriber("shop")
			response, body, err := f.post(t, t.Context(), shop, "e1", `{}`)
			if test.err != nil {
				require.ErrorIs(t, err, test.err)
			} else {
				require.NoError(t, err)
				require.Equal(t, test.status, response.StatusCode)
				require.Equal(t, test.body, body)
				for _, name := range []string{"Location", "Content-Type", "X-Two", "Retry-After"} {
					require.Equal(t, test.header[name], response.Header[name], name)
				}
				require.EqualValues(t, len(test.body), max(response.ContentLength, 0))
			}
			require.Equal(t, []int{test.status}, statuses(f.r.Requests()))

			// The script is over.
			response, _, err = f.post(t, t.Context(), shop, "e1", `{}`)
			require.NoError(t, err)
			require.Equal(t, http.StatusNoContent, response.StatusCode)
			last := f.r.WaitRequests(2)[1]
			require.Equal(t, 2, last.Attempt)
			require.Equal(t, http.StatusNoContent, last.Status)
		})
	}
}

// What waits ends with the request's context, and its error is the cause.
func TestAnswersEndWithTheRequest(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer Answer
		result string // in the record
	}{
		{"hang", Hang(), faultHang},
		{"delay", Answer{Delay: time.Hour}, faultGone},
	} {
		both(t, test.name, func(t *testing.T, f form) {
			f.r.Script(test.answer)
			ctx, cancel := context.WithCancelCause(t.Context())
			failed := make(chan error)
			shop := f.r.Subscriber("shop")
			go func() {
				_, _, err := f.post(t, ctx, shop, "e1", `{}`)
				failed <- err
			}()
			f.r.WaitRequests(1)
			select {
			case err := <-failed:
				require.Fail(t, "it was answered", err)
			default:
			}
			cancel(errCancelled)
			require.ErrorIs(t, <-failed, errCancelled)
			gone := f.r.wait(1, "requests are over", func() Requests {
				return f.r.log.filter(func(q *Request) bool { return q.fault != "" })
			})
			require.Equal(t, test.result, gone[0].fault)
			require.Zero(t, gone[0].Status)
		})
	}

	both(t, "slow body", func(t *testing.T, f form) {
		f.r.Script(Answer{Body: "slow", Pause: time.Hour})
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		response, err := f.wire.RoundTrip(signed(t, ctx, f.r.Subscriber("shop"), "e1", `{}`))
		require.NoError(t, err)
		defer response.Body.Close()
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.Equal(t, http.StatusOK, f.r.Wait(1)[0].Status)
		cancel(errCancelled)
		_, err = response.Body.Read(make([]byte, 1))
		require.ErrorIs(t, err, errCancelled)
	})

	both(t, "over before", func(t *testing.T, f form) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errCancelled)
		_, _, err := f.post(t, ctx, f.r.Subscriber("shop"), "e1", `{}`)
		require.ErrorIs(t, err, errCancelled)
		require.Empty(t, f.r.Requests())
	})
}

// Closing a body that is still being read ends the Read.
func TestSlowBodyCloses(t *testing.T) {
	both(t, "close", func(t *testing.T, f form) {
		f.r.Script(Answer{Body: "slow", Pause: time.Hour})
		response, err := f.wire.RoundTrip(signed(t, t.Context(), f.r.Subscriber("shop"), "e1", `{}`))
		require.NoError(t, err)
		failed := make(chan error)
		go func() {
			_, err := io.ReadAll(response.Body)
			failed <- err
		}()
		require.NoError(t, response.Body.Close())
		require.Error(t, <-failed)
	})
}

// In a bubble, what waits takes exactly as long as it says.
func TestAnswersTakeTheirTime(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer Answer
		want   time.Duration
	}{
		{"at once", Answer{Body: "body"}, 0},
		{"delay", Answer{Delay: time.Hour}, time.Hour},
		{"pause", Answer{Body: "body", Pause: time.Minute}, 4 * time.Minute},
		{"both", Answer{Body: "body", Delay: time.Hour, Pause: time.Minute}, time.Hour + 4*time.Minute},
	} {
		bubble(t, test.name, func(t *testing.T) {
			r := New(t)
			r.Script(test.answer)
			begin := time.Now()
			_, body, err := form{true, r, r}.post(t, t.Context(), r.Subscriber("shop"), "e1", `{}`)
			require.NoError(t, err)
			require.Equal(t, test.answer.Body, body)
			require.Equal(t, test.want, time.Since(begin))
		})
	}
}

// Answers are taken in order; those of an event before those of all, and what
// Respond says last.
func TestScriptOrder(t *testing.T) {
	both(t, "order", func(t *testing.T, f form) {
		f.r.Script(Status(501), Status(502))
		f.r.ScriptEvent("e2", Status(521))
		f.r.Script(Status(503))
		f.r.ScriptEvent("e2", Status(522))
		f.r.Respond(func(q Request) Answer { return Answer{Status: 600 + q.Attempt} })
		shop := f.r.Subscriber("shop")
		var got []int
		for _, id := range []string{"e1", "e2", "e2", "e1", "e2", "e1", "e2"} {
			response, _, err := f.post(t, t.Context(), shop, id, `{}`)
			require.NoError(t, err)
			got = append(got, response.StatusCode)
		}
		require.Equal(t, []int{501, 521, 522, 502, 503, 603, 604}, got)
		require.Equal(t, got, statuses(f.r.Requests()))

		f.r.Respond(nil)
		response, _, err := f.post(t, t.Context(), shop, "e1", `{}`)
		require.NoError(t, err)
		require.Equal(t, http.StatusNoContent, response.StatusCode)
	})
}

// A Dispatcher meets scripts: the delivery is repeated until it is accepted, and
// the record shows each attempt.
func TestDispatcherMeetsScripts(t *testing.T) {
	const after = 90 * time.Second
	for _, test := range []struct {
		name   string
		script []Answer
		want   []int // statuses
		waits  bool  // until the attempt's timeout
	}{
		{"nothing", nil, []int{204}, false},
		{"500 twice, then 200", []Answer{Status(500), Status(500), Status(200)}, []int{500, 500, 200}, false},
		{"reset", []Answer{Reset()}, []int{0, 204}, false},
		{"close", []Answer{Close()}, []int{0, 204}, false},
		{"hang", []Answer{Hang()}, []int{0, 204}, true},
		{"429", []Answer{RetryAfter(after)}, []int{429, 204}, false},
		{"slow body", []Answer{{Body: "slow", Pause: time.Hour}}, []int{200}, true},
		{"body", []Answer{{Status: 202, Body: "later"}}, []int{202}, false},
		{"all", []Answer{Status(503), Reset(), Close(), Status(302)}, []int{503, 0, 0, 302, 204}, false},
	} {
		both(t, test.name, func(t *testing.T, f form) {
			f.r.Script(test.script...)
			options := new(outhook.Options)
			if !f.inMemory {
				options.MaxRetryAfter = time.Millisecond
				if test.waits {
					options.Timeout = 100 * time.Millisecond
				}
			}
			settled := make(chan outhook.Observation, 1)
			options.Observers = []outhook.Observer{{
				Delivered: func(_ context.Context, o outhook.Observation) { settled <- o },
			}}
			d := f.r.Dispatcher(options)
			send(t, d, "e1", f.r.Subscriber("shop"))

			got := f.r.Wait(1)[0]
			require.Equal(t, len(test.want), got.Attempt)
			require.Equal(t, "e1", got.ID)
			all := f.r.Requests()
			if test.waits && !f.inMemory { // on a slow machine, others may have run into the timeout and come again
				all = all[:len(test.want)]
			}
			require.Equal(t, test.want, statuses(all))
			for i, q := range all {
				require.NoError(t, q.Err)
				require.Equal(t, i+1, q.Attempt)
				require.Equal(t, all[0].Body, q.Body)
			}
			if f.inMemory && test.want[0] == 429 {
				require.GreaterOrEqual(t, all[1].Arrived.Sub(all[0].Arrived), after)
			}
			require.Equal(t, outhook.DeliveryID{Event: "e1", Subscriber: "shop"}, (<-settled).ID)
		})
	}
}

// The standard schedule of three days passes within Wait.
func TestWaitLetsTimePass(t *testing.T) {
	synctestDays := 75 * time.Hour // the delays of the schedule add up to more
	bubble(t, "standard schedule", func(t *testing.T) {
		r := New(t)
		r.Script(slices.Repeat([]Answer{Status(500)}, 9)...)
		d := r.Dispatcher(&outhook.Options{Retry: outhook.StandardSchedule()})
		begin := time.Now()
		send(t, d, "e1", r.Subscriber("shop"))
		require.Equal(t, 10, r.Wait(1)[0].Attempt)
		require.Greater(t, time.Since(begin), synctestDays)
	})
}

// The Receiver as a handler of a server with TLS.
func TestOwnServer(t *testing.T) {
	for _, test := range []struct {
		name  string
		http2 bool
	}{{"HTTP/1.1", false}, {"HTTP/2", true}} {
		t.Run(test.name, func(t *testing.T) {
			r := New(t)
			server := httptest.NewUnstartedServer(r)
			server.Config.ErrorLog = nil
			server.EnableHTTP2 = test.http2
			server.StartTLS()
			t.Cleanup(server.Close)
			r.URL = server.URL
			r.Script(Reset(), Close(), Status(299))
			f := form{false, r, server.Client().Transport}
			shop := r.Subscriber("shop")

			_, _, err := f.post(t, t.Context(), shop, "e1", `{}`)
			if test.http2 {
				require.Error(t, err)
			} else {
				require.ErrorIs(t, err, syscall.ECONNRESET)
			}
			_, _, err = f.post(t, t.Context(), shop, "e1", `{}`)
			require.Error(t, err)
			response, _, err := f.post(t, t.Context(), shop, "e1", `{}`)
			require.NoError(t, err)
			require.Equal(t, 299, response.StatusCode)
			require.Equal(t, test.http2, response.ProtoMajor == 2)

			got := r.Wait(1)[0]
			require.Equal(t, "shop", got.Subscriber)
			require.Equal(t, server.URL+"/shop", got.URL)
			require.Equal(t, 3, got.Attempt)
		})
	}
}
