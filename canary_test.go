package outhook

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	canaryToken  = "canary-in-the-query"
	canaryHeader = "canary-in-the-header"
	canaryText   = "canary-key-of-stripe"
	canarySeed   = "canary: seed of thirty-two bytes"
)

var (
	canary     = secretPrefix + base64.StdEncoding.EncodeToString([]byte("canary: key of thirty-two bytes!"))
	canaryKey  = Key{Secret: NewSecret(canary)}
	canaryPair = base64.StdEncoding.EncodeToString(ed25519.NewKeyFromSeed([]byte(canarySeed)))

	canaries = []string{canary, canaryText, canarySeed, canaryPair, canaryToken, canaryHeader}
)

// canaryKeys are one of each kind.
func canaryKeys() []Key {
	return []Key{canaryKey, {Secret: NewSecret(privatePrefix + canaryPair)}, {Secret: NewSecret(canaryText), Scheme: "stripe"}}
}

// A tape records, by where it came from, every text that could show a secret.
type tape struct {
	mu    sync.Mutex
	texts map[string][]byte // guarded by mu
}

func (tp *tape) add(where, text string) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if tp.texts == nil {
		tp.texts = make(map[string][]byte)
	}
	tp.texts[where] = append(append(tp.texts[where], text...), '\n')
}

// print records what fmt and encoding/json make of a value.
func (tp *tape) print(v any) {
	where := fmt.Sprintf("%T", v)
	for _, verb := range verbs {
		tp.add(where, fmt.Sprintf(verb, v))
	}
	text, err := json.Marshal(v)
	tp.add(where, fmt.Sprintf("%s %v", text, err))
}

// observer records all that it is told.
func (tp *tape) observer() Observer {
	observed := func(_ context.Context, o Observation) { tp.print(o) }
	return Observer{
		Sent:       func(_ context.Context, _ Event, r Receipt) { tp.print(r) },
		Attempting: func(ctx context.Context, o Observation) context.Context { tp.print(o); return ctx },
		Attempted:  observed,
		Delivered:  observed,
		Retrying:   observed,
		Dead:       observed,
		Cancelled:  observed,
		Held:       observed,
		LeaseLost:  observed,
		Standing:   func(_ context.Context, c StandingChange) { tp.print(c); tp.print(Effect{}) },
		StoreDown:  func(_ context.Context, err error) { tp.add("store down", err.Error()) },
	}
}

// tapedStore records what a store is given and gives.
type tapedStore struct {
	managedStore
	print func(any)
}

// managedStore is what a MemoryStore is, too.
type managedStore interface {
	Store
	StandingStore
	Manager
}

func (s tapedStore) Enqueue(ctx context.Context, d []Delivery) ([]DeliveryID, error) {
	s.print(d)
	return s.managedStore.Enqueue(ctx, d)
}

func (s tapedStore) Claim(ctx context.Context, r ClaimRequest) (Claimed, error) {
	claimed, err := s.managedStore.Claim(ctx, r)
	s.print(r)
	s.print(claimed)
	return claimed, err
}

func (s tapedStore) Finish(ctx context.Context, o []Outcome) ([]Lease, error) {
	s.print(o)
	return s.managedStore.Finish(ctx, o)
}

// signerFunc is a Signer.
type signerFunc func() (http.Header, error)

func (f signerFunc) Sign(context.Context, Message, []Key) (http.Header, error) { return f() }

// canaryTransport fails for some paths, with all that it knows, and else does
// as the default one.
type canaryTransport struct{ http.RoundTripper }

func (c *canaryTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	switch r.URL.Path {
	case "/panic":
		panic(canary + r.URL.String())
	case "/error":
		return nil, errors.New(canary + r.URL.String())
	case "/unresolved":
		return nil, &net.DNSError{Err: canary, Name: r.URL.String(), IsNotFound: true}
	}
	return c.RoundTripper.RoundTrip(r)
}

// canaryReceiver answers by the path, and repeats the token wherever it can.
func canaryReceiver(w http.ResponseWriter, r *http.Request) {
	said := r.URL.RawQuery + r.Header.Get("Authorization")
	if r.Header.Get("X-Quiet") != "" {
		said = ""
	}
	w.Header().Set("X-Echo", said)
	w.Header().Set("Webhook-Delivery", said)
	switch r.URL.Path {
	case "/200":
	case "/302":
		w.Header().Set("Location", "/200?"+said)
		w.WriteHeader(302)
	case "/410":
		w.WriteHeader(410)
	case "/429":
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(429)
	case "/garbage":
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = fmt.Fprintf(conn, "%s\r\n\r\n", said)
			_ = conn.Close()
		}
		return
	default:
		w.WriteHeader(500)
	}
	_, _ = w.Write([]byte(said))
}

// TestCanary sends a recognisable secret and a URL with a recognisable token
// through everything, and looks for them in everything that comes out.
func TestCanary(t *testing.T) {
	var tp tape
	server, _ := receiver(t, canaryReceiver)
	closed := httptest.NewServer(nil)
	closed.Close()
	untrusted := httptest.NewUnstartedServer(http.HandlerFunc(canaryReceiver))
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	var jsonLog, textLog bytes.Buffer
	options := Options{
		Transport: &canaryTransport{testTransport(t)},
		Guard:     DevelopmentGuard(),
		Retry:     Schedule(time.Hour),
		Steering:  true,
		Signers: map[string]Signer{
			"panic": signerFunc(func() (http.Header, error) { panic(canary) }),
			"error": signerFunc(func() (http.Header, error) { return nil, errors.New(canary) }),
		},
		Logger: slog.New(slog.NewMultiHandler(
			slog.NewJSONHandler(&jsonLog, &slog.HandlerOptions{Level: slog.LevelDebug}),
			slog.NewTextHandler(&textLog, &slog.HandlerOptions{Level: slog.LevelDebug}),
		)),
		Observers: []Observer{tp.observer()},
	}
	d, err := New(tapedStore{NewMemoryStore(), tp.print}, &options)
	require.NoError(t, err)

	to := func(base, path string, change func(*Subscriber)) Subscriber {
		s := Subscriber{ID: path[1:], URL: base + path + "?" + canaryToken, Keys: canaryKeys(), Header: http.Header{"Authorization": {canaryHeader}}}
		if change != nil {
			change(&s)
		}
		return s
	}
	scheme := func(name string) func(*Subscriber) {
		return func(s *Subscriber) { s.ID, s.Keys[0].Scheme = "signer-"+name, name }
	}
	subscribers := []Subscriber{
		to(server.URL, "/200", nil),
		to(server.URL, "/500", nil),
		to(server.URL, "/410", nil),
		to(server.URL, "/429", nil),
		to(server.URL, "/302", nil),
		to(untrusted.URL, "/untrusted", nil),
		to(server.URL, "/garbage", nil),
		to(server.URL, "/panic", nil),
		to(server.URL, "/error", nil),
		to(closed.URL, "/closed", nil),
		to(server.URL, "/unresolved", nil),
		to(server.URL, "/200", scheme("panic")),
		to(server.URL, "/200", scheme("error")),
	}

	receipt, err := d.Send(t.Context(), Event{ID: "e", Type: "x"}, subscribers)
	require.NoError(t, err)
	require.Len(t, receipt.Accepted, len(subscribers))
	canaryFaults(t, d, &tp, server.URL)
	for _, s := range subscribers {
		s.Header = http.Header{"X-Quiet": {"1"}, "Authorization": {canaryHeader}} // Try keeps what the receiver answers
		attempt, err := d.Try(t.Context(), Event{Type: "x"}, s)
		tp.print(attempt)
		tp.add("error of Try", fmt.Sprint(err))
	}
	_, err = d.Drain(t.Context())
	require.NoError(t, err)

	states := make(map[State]int)
	for record, err := range d.List(t.Context(), Filter{}) {
		require.NoError(t, err)
		tp.print(record)
		record, err = d.Get(t.Context(), record.ID)
		require.NoError(t, err)
		require.Len(t, record.Attempts, 1, record.ID)
		tp.print(record)
		states[record.State]++
	}
	require.Equal(t, map[State]int{Delivered: 1, Dead: 1, Pending: len(subscribers) - 2}, states)
	for standing, err := range d.Standings(t.Context()) {
		require.NoError(t, err)
		tp.print(standing)
	}
	stats, err := d.Stats(t.Context())
	require.NoError(t, err)
	healths, err := d.Health(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, healths)
	tp.print(healths)
	canaryTypes(t, &tp, d, options, stats, subscribers)

	tp.add("JSON log", jsonLog.String())
	tp.add("text log", textLog.String())
	require.Contains(t, jsonLog.String(), "delivery failed, will retry")
	require.Subset(t, slices.Collect(maps.Keys(tp.texts)), []string{
		"[]outhook.Delivery", "[]outhook.Key", "[]outhook.Outcome", "*outhook.Dispatcher", "outhook.Attempt", "outhook.Claim",
		"outhook.Claimed", "outhook.Delivery", "outhook.Effect", "outhook.Key", "outhook.Observation", "outhook.Options",
		"outhook.Outcome", "outhook.Receipt", "outhook.Record", "outhook.Secret", "outhook.Snapshot", "outhook.Standing",
		"outhook.StandingChange", "outhook.Stats", "outhook.Verifier", "[]outhook.Health",
	})
	for _, where := range slices.Sorted(maps.Keys(tp.texts)) {
		t.Run(where, func(t *testing.T) {
			requireHidden(t, string(tp.texts[where]), canaries...)
		})
	}
}

// TestCanaryAtRest looks for a recognisable secret and token in all that a durable
// store is given, and in what comes out when it, or what is to open it, fails.
func TestCanaryAtRest(t *testing.T) {
	sealingSecret := "canary: sealing key of 32 bytes!"
	sealer := newSealer(t, SealingKey{ID: "k1", Secret: NewSecret(sealingSecret)})
	canarySubscriber := func(id string) Subscriber {
		return Subscriber{
			ID: id, URL: "https://" + id + ".example.com/?" + canaryToken, Keys: canaryKeys(),
			Header: http.Header{"Authorization": {canaryHeader}},
		}
	}
	var faults atomic.Int32
	known := &register{answer: func(_ context.Context, id string, n int) (Subscriber, error) {
		s := canarySubscriber(id)
		switch {
		case id == "panics" && n < 2:
			faults.Add(1)
			panic(canary)
		case id == "invalid" && n < 2:
			faults.Add(1)
			s.Header = http.Header{"Host": {canaryToken}}
		case id == "blocked":
			faults.Add(1)
			s.URL = "http://10.0.0.1/?" + canaryToken
		}
		return s, nil
	}}
	for name, options := range map[string]Options{"sealer": {Sealer: sealer}, "directory": {Directory: known, DirectoryTTL: -1}} {
		bubble(t, name, func(t *testing.T) {
			var tp tape
			var log bytes.Buffer
			store := newRows()
			options.Retry = Schedule(time.Second, time.Second)
			options.Observers = []Observer{tp.observer()}
			options.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			w := &wire{answer: status(500)}
			d := dispatcher(t, tapedStore{store, tp.print}, w, options)
			for _, id := range []string{"panics", "invalid", "blocked", "damaged", "strange"} {
				_, err := d.Send(t.Context(), Event{ID: "e", Type: "x"}, []Subscriber{canarySubscriber(id)})
				require.NoError(t, err)
			}
			if name == "sealer" {
				store.stored[DeliveryID{"e", "damaged"}] = store.stored[DeliveryID{"e", "strange"}]
				store.stored[DeliveryID{"e", "strange"}] = []byte(`{"sealed":{"key":"k2","data":"AAAA"}}`)
			}
			for range 3 {
				_, err := d.Drain(t.Context())
				require.NoError(t, err)
				time.Sleep(time.Minute)
			}
			for record, err := range d.List(t.Context(), Filter{}) {
				require.NoError(t, err)
				record, err = d.Get(t.Context(), record.ID)
				require.NoError(t, err)
				tp.print(record)
			}
			for id, data := range store.stored {
				tp.add("stored "+id.String(), string(data))
			}
			w.calls = nil // of this test
			for _, v := range []any{d, options, &options, sealer, *sealer, SealingKey{ID: "k1", Secret: NewSecret(sealingSecret)}} {
				tp.print(v)
			}
			tp.add("log", log.String())
			require.Contains(t, log.String(), map[string]string{"sealer": "no sealing key", "directory": "panic in the directory"}[name])
			for where, text := range tp.texts {
				require.NotEmpty(t, text, where)
				requireHidden(t, string(text), append(canaries, sealingSecret)...)
			}
		})
	}
	require.EqualValues(t, 5, faults.Load())
}

// canaryFaults makes Send fail in every way that has to do with a secret.
func canaryFaults(t *testing.T, d *Dispatcher, tp *tape, url string) {
	for name, change := range map[string]func(*Event, *Subscriber){
		"key without prefix": func(_ *Event, s *Subscriber) { s.Keys[0].Secret = NewSecret(canary[len(secretPrefix):]) },
		"key no base64":      func(_ *Event, s *Subscriber) { s.Keys[0].Secret = NewSecret(canary + "!") },
		"key too long": func(_ *Event, s *Subscriber) {
			s.Keys[0].Secret = NewSecret(secretPrefix + strings.Repeat(canary[6:46], 4))
		},
		"key and unsigned": func(_ *Event, s *Subscriber) { s.Unsigned = true },
		"unknown scheme":   func(_ *Event, s *Subscriber) { s.Keys[0].Scheme = "unknown" },
		"expired key":      func(_ *Event, s *Subscriber) { s.Keys = s.Keys[:1]; s.Keys[0].Expires = time.Unix(1, 0) },
		"too many keys":    func(_ *Event, s *Subscriber) { s.Keys = slices.Repeat(s.Keys, 17) },
		"URL unparsable":   func(_ *Event, s *Subscriber) { s.URL = "http://[" + canaryToken },
		"URL with a space": func(_ *Event, s *Subscriber) { s.URL += " " },
		"URL with a user":  func(_ *Event, s *Subscriber) { s.URL = "http://" + canaryToken + "@example.com/" },
		"URL scheme":       func(_ *Event, s *Subscriber) { s.URL = "ftp://example.com/" + canaryToken },
		"URL too long":     func(_ *Event, s *Subscriber) { s.URL += strings.Repeat("a", 2048) },
		"URL private":      func(_ *Event, s *Subscriber) { s.URL = "http://10.0.0.1/?" + canaryToken },
		"header value":     func(_ *Event, s *Subscriber) { s.Header = http.Header{"Authorization": {canary + "\n"}} },
		"header reserved":  func(_ *Event, s *Subscriber) { s.Header = http.Header{"Webhook-Signature": {canary}} },
		"encoder panics":   func(_ *Event, s *Subscriber) { s.Encode = func(Event) (*Payload, error) { panic(canary) } },
		"conflict":         func(e *Event, _ *Subscriber) { e.ID, e.Data = "e", "other" },
		"data panics":      func(e *Event, _ *Subscriber) { e.Data = canaryData{} },
	} {
		event, s := Event{Type: "x"}, Subscriber{ID: "200", URL: url + "/200?" + canaryToken, Keys: canaryKeys()}
		change(&event, &s)
		_, err := d.Send(t.Context(), event, []Subscriber{s})
		require.Error(t, err, name)
		for _, verb := range verbs {
			tp.add("error of Send, "+name, fmt.Sprintf(verb, err))
		}
	}
	_, err := ParseKey(canary + "!")
	tp.add("error of ParseKey", fmt.Sprintf("%v %+v %#v", err, err, err))
	_, err = ParseKey(privatePrefix + canaryPair[:80])
	tp.add("error of ParseKey", fmt.Sprintf("%v %+v %#v", err, err, err))
	_, err = canaryKeys()[2].Public()
	tp.add("error of Public", fmt.Sprintf("%v %+v %#v", err, err, err))

	verifier := Verifier{Keys: []Key{{Secret: NewSecret(canary + "!")}}}
	verifier.Refused = func(r *http.Request, err error) { tp.add("refused", fmt.Sprintf("%v %+v %#v", err, err, err)) }
	err = verifier.Verify(signedBy(t, time.Now(), "", testKey), nil)
	tp.add("error of Verify", fmt.Sprintf("%v %+v %#v", err, err, err))
	for _, keys := range [][]Key{verifier.Keys, {canaryKey}, canaryKeys(), nil} {
		verifier.Keys = keys
		handler := verifier.Handler(func(context.Context, Event) error { panic(canary) })
		for _, key := range []Key{testKey, canaryKey} {
			r := httptest.NewRequest(http.MethodPost, "/?"+canaryToken, nil)
			r.Header = signedBy(t, time.Now(), "", key)
			r.Header.Set("Authorization", canaryHeader)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			require.GreaterOrEqual(t, w.Code, 400)
			tp.add("answer of Handler", fmt.Sprint(w.Code, w.Header(), w.Body))
		}
	}
	require.Contains(t, string(tp.texts["refused"]), "panic in the handler")
}

type canaryData struct{}

func (canaryData) MarshalJSON() ([]byte, error) { panic(canary) }

// canaryTypes prints the exported types that nothing else has printed.
func canaryTypes(t *testing.T, tp *tape, d *Dispatcher, options Options, stats Stats, subscribers []Subscriber) {
	delivery := enqueued(t, d, "f", subscribers[0])[0]
	proxied := Options{Guard: Guard{Proxy: &url.URL{Scheme: "http", Host: "proxy.example:3128", User: url.UserPassword("u", canaryHeader)}}}
	through, err := New(NewMemoryStore(), &proxied)
	require.NoError(t, err)
	for _, v := range []any{
		delivery, &delivery, delivery.Snapshot, &delivery.Snapshot,
		Claim{Delivery: delivery}, Outcome{Effect: &Effect{}}, stats,
		canaryKey, &canaryKey, subscribers[0].Keys, canaryKey.Secret,
		Verifier{Keys: subscribers[0].Keys}, &Verifier{Keys: subscribers[0].Keys},
		d, options, &options, d.Via(d.store), d.store, d.store.(tapedStore).managedStore,
		proxied, &proxied, proxied.Guard, &proxied.Guard, through,
	} {
		tp.print(v)
	}
}
