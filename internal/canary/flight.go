package canary

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/outhook/outhook"
)

// A Store is a store with all but notifications.
type Store interface {
	outhook.Store
	outhook.StandingStore
	outhook.Manager
}

// A Mode is how a Dispatcher keeps secrets from a store.
type Mode string

const (
	Sealed    Mode = "sealer"
	Directory Mode = "directory"
	Plaintext Mode = "plaintext" // it does not
)

// A Flight has gone through a Dispatcher on a store.
type Flight struct {
	*Secrets
	Log string // what was logged, and what came out of the Dispatcher and the store, printed
}

// paths are those of the receiver, one for each subscriber.
var paths = []string{"/delivered", "/retried", "/dead", "/gone", "/paused", "/garbage", "/refused", "/cancelled"}

// Fly sends an event to subscribers whose deliveries take every way through a
// Dispatcher: they are delivered, fail, are repeated, die, disable and pause their
// subscriber, are cancelled, and replayed. The receiver answers with all that it was
// sent, which is not to be kept.
func Fly(ctx context.Context, store Store, mode Mode) (*Flight, error) {
	f := &Flight{Secrets: NewSecrets()}
	var mu sync.Mutex
	calls := make(map[string]int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		calls[r.URL.Path]++
		n := calls[r.URL.Path]
		mu.Unlock()
		answer(w, r, n)
	}))
	defer server.Close()
	refused, err := closedPort()
	if err != nil {
		return nil, err
	}
	book := make(directory)
	var subscribers []outhook.Subscriber
	for i, path := range paths {
		host := server.URL
		if path == "/refused" {
			host = refused
		}
		s := outhook.Subscriber{
			ID: path[1:], URL: host + path + "?token=" + f.Query,
			Keys:   []outhook.Key{f.Keys[i%len(f.Keys)], f.Keys[(i+1)%len(f.Keys)]},
			Header: http.Header{"Authorization": {"Bearer " + f.Header}},
		}
		book[s.ID] = s
		subscribers = append(subscribers, s)
	}

	var log bytes.Buffer
	debug := &slog.HandlerOptions{Level: slog.LevelDebug}
	options := outhook.Options{
		Guard:  outhook.DevelopmentGuard(),
		Retry:  outhook.Schedule(0),
		Logger: slog.New(slog.NewMultiHandler(slog.NewJSONHandler(&log, debug), slog.NewTextHandler(&log, debug))),
	}
	switch mode {
	case Sealed:
		options.Sealer, err = outhook.NewSealer(outhook.SealingKey{ID: "k1", Secret: outhook.NewSecret(strings.Repeat("s", 32))})
	case Directory:
		options.Directory = book
	case Plaintext:
		options.StoreKeysInPlaintext = true
	}
	d, errNew := outhook.New(store, &options)
	if err := errors.Join(err, errNew); err != nil {
		return nil, err
	}
	print := func(values ...any) {
		for _, v := range values {
			_, _ = fmt.Fprintf(&log, "%v %+v %#v\n", v, v, v)
		}
	}

	send := func(id string, delay time.Duration) error {
		receipt, err := d.Send(ctx, outhook.Event{ID: id, Type: "canary.sent", Data: id, Delay: delay, Labels: map[string]string{"tenant": "t1"}}, subscribers)
		print(receipt, err)
		return err
	}
	drain := func() error {
		_, err := d.Drain(ctx)
		return err
	}
	dead := outhook.Filter{Event: "e1", States: []outhook.State{outhook.Dead}}
	for _, step := range []func() error{
		func() error { return send("e1", 0) },
		drain,
		func() error { return f.expect(ctx, d, "delivered retried", "dead gone garbage refused", "paused") },
		func() error { _, err := d.Replay(ctx, dead); return err },
		func() error { return d.Enable(ctx, "gone") },
		drain,
		func() error { return f.expect(ctx, d, "delivered retried dead", "gone garbage refused", "paused") },
		func() error { return send("e2", time.Hour) },
		func() error {
			_, err := d.Cancel(ctx, outhook.Filter{Event: "e2", Subscriber: "cancelled"})
			return err
		},
		func() error { return send("e1", 0) }, // known
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	for r, err := range d.List(ctx, outhook.Filter{}) {
		print(r, err)
		r, err = d.Get(ctx, r.ID)
		print(r, err)
	}
	for s, err := range d.Standings(ctx) {
		print(s, err)
	}
	healths, err := d.Health(ctx)
	print(healths, err)
	stats, err := d.Stats(ctx)
	print(stats, err)
	f.Log = log.String()
	return f, nil
}

// expect compares the states of e1 with what they should be.
func (f *Flight) expect(ctx context.Context, d *outhook.Dispatcher, delivered, dead, pending string) error {
	want := make(map[string]outhook.State)
	for state, names := range map[outhook.State]string{outhook.Delivered: delivered + " cancelled", outhook.Dead: dead, outhook.Pending: pending} {
		for name := range strings.FieldsSeq(names) {
			want[name] = state
		}
	}
	for name, state := range want {
		r, err := d.Get(ctx, outhook.DeliveryID{Event: "e1", Subscriber: name})
		if err != nil {
			return err
		}
		if r.State != state {
			return fmt.Errorf("canary: %s is %s with %d attempts, want %s", name, r.State, len(r.Attempts), state)
		}
	}
	return nil
}

// answer is that of the receiver to the n-th call of a path.
func answer(w http.ResponseWriter, r *http.Request, n int) {
	said := fmt.Sprint(r.URL.RawQuery, r.Header)
	w.Header().Set("X-Said", said)
	switch {
	case r.URL.Path == "/retried" && n == 1, r.URL.Path == "/dead" && n <= 2:
		w.WriteHeader(http.StatusInternalServerError)
	case r.URL.Path == "/gone":
		w.WriteHeader(http.StatusGone)
	case r.URL.Path == "/paused":
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
	case r.URL.Path == "/garbage": // which net/http quotes in its error
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_, _ = fmt.Fprintf(conn, "%s\r\n\r\n", said)
			_ = conn.Close()
		}
		return
	}
	_, _ = w.Write([]byte(said))
}

// closedPort returns a URL at which nobody listens.
func closedPort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return "http://" + l.Addr().String(), l.Close()
}

// directory is an outhook.Directory.
type directory map[string]outhook.Subscriber

func (d directory) Subscriber(_ context.Context, id string) (outhook.Subscriber, error) {
	if s, ok := d[id]; ok {
		return s, nil
	}
	return outhook.Subscriber{}, outhook.ErrUnknownSubscriber
}
