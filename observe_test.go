package outhook

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLog(t *testing.T) {
	bubble(t, "tells what a maintainer has to know", func(t *testing.T) {
		store := &faulty{MemoryStore: NewMemoryStore()}
		var log bytes.Buffer
		w := &wire{answer: func(r *http.Request, _ int) (*http.Response, error) {
			time.Sleep(time.Second)
			return map[string]*http.Response{
				host("paused"): response(429, "Retry-After", "5"),
				host("gone"):   response(410),
				host("lost"):   response(200),
				host("good"):   response(200),
			}[r.URL.Host], nil
		}}
		d := dispatcher(t, store, w, Options{
			CancelDisabled: true,
			Logger:         slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
		send(t, d, "e1", subscriber("paused"), subscriber("gone"), subscriber("lost"), subscriber("good"))
		stop := run(t, d)
		synctest.Wait()
		_, err := d.Cancel(t.Context(), Filter{Subscriber: "lost"})
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		send(t, d, "e2", subscriber("gone"))
		synctest.Wait()

		down := true
		store.mu.Lock()
		store.fail = func(string) error {
			if down {
				return errors.New("no route")
			}
			return nil
		}
		store.mu.Unlock()
		d.Wake()
		synctest.Wait()
		store.mu.Lock()
		down = false
		store.mu.Unlock()
		time.Sleep(time.Minute)
		stop()

		for _, line := range []string{
			`level=DEBUG msg=delivered event=e1 subscriber=good`,
			`level=DEBUG msg="delivery failed, will retry" event=e1 subscriber=paused`,
			`level=INFO msg="subscriber is paused" subscriber=paused reason=Retry-After failures=1`,
			`level=WARN msg="delivery is dead" event=e1 subscriber=gone`,
			`level=WARN msg="subscriber is disabled" subscriber=gone reason=gone failures=1`,
			`level=INFO msg="delivery cancelled" event=e2 subscriber=gone`,
			`level=WARN msg="lease lost, outcome dropped" event=e1 subscriber=lost`,
			`level=ERROR msg="store unavailable" error="no route"`,
			`level=INFO msg="store available again"`,
		} {
			require.Contains(t, log.String(), line)
		}
	})

	bubble(t, "a logger that panics changes nothing", func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{answer: status(410)}, Options{
			Logger:   slog.New(panickingLog{}),
			Classify: func(Attempt, error) Verdict { panic("classifier") },
		})
		send(t, d, "e", subscriber("a"))
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		require.Equal(t, Pending, record(t, d, "e", "a").State)
	})
}

type panickingLog struct{ slog.Handler }

func (panickingLog) Enabled(context.Context, slog.Level) bool  { return true }
func (panickingLog) Handle(context.Context, slog.Record) error { panic("log") }
