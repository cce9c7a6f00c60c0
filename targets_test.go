package outhook

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTargets sees to it that Send shares what it made of a subscriber, for as long as
// that does not change.
func TestTargets(t *testing.T) {
	d := dispatcher(t, NewMemoryStore(), &wire{answer: status(200)}, Options{})
	key := GenerateKey()
	base := func() Subscriber {
		return Subscriber{
			ID: "a", URL: "https://a.example.com/", Keys: []Key{{Secret: NewSecret(key.Secret.Reveal())}},
			Header: http.Header{"X-A": {"1"}}, Timeout: time.Second, Concurrency: 2, Rate: Rate{N: 5},
		}
	}
	made := func(s Subscriber, labels map[string]string) *target {
		f := faults{}
		c, _ := d.prepare(Event{Type: "x", Labels: labels}, &f)
		delivery, _ := d.delivery(c, &s, false, &f)
		require.NoError(t, f.err())
		return delivery.Snapshot.target()
	}
	first := made(base(), nil)
	require.Same(t, first, made(base(), nil))
	for name, change := range map[string]func(*Subscriber){
		"URL":         func(s *Subscriber) { s.URL += "x" },
		"another key": func(s *Subscriber) { s.Keys[0] = GenerateKey() },
		"one more":    func(s *Subscriber) { s.Keys = append(s.Keys, GenerateKey()) },
		"expiry":      func(s *Subscriber) { s.Keys[0].Expires = time.Now().Add(time.Hour) },
		"scheme":      func(s *Subscriber) { s.Keys[0].Scheme = "github" },
		"unsigned":    func(s *Subscriber) { s.Keys, s.Unsigned = nil, true },
		"header":      func(s *Subscriber) { s.Header["X-A"][0] = "2" },
		"no header":   func(s *Subscriber) { s.Header = nil },
		"timeout":     func(s *Subscriber) { s.Timeout++ },
		"concurrency": func(s *Subscriber) { s.Concurrency++ },
		"rate":        func(s *Subscriber) { s.Rate.N++ },
	} {
		s := base()
		change(&s)
		changed := made(s, nil)
		require.NotSame(t, first, changed, name)
		require.Same(t, changed, made(s, nil), name)
		require.NotSame(t, changed, made(base(), nil), name+", and back")
	}

	s := base()
	first = made(s, nil)
	s.Header["X-A"][0] = "changed behind its back"
	require.Equal(t, "1", first.header.Get("X-A"))

	own := made(base(), map[string]string{"tenant": "1"})
	require.Equal(t, "1", own.labels["tenant"])
	require.Empty(t, made(base(), nil).labels, "labels are of one event")

	for i := range maxTargets + 10 {
		s := base()
		s.ID = strconv.Itoa(i)
		made(s, nil)
	}
	require.LessOrEqual(t, len(d.targets.of), maxTargets)
}

// TestTargetsExpire: a subscriber that was accepted is not, when its last key has expired.
func TestTargetsExpire(t *testing.T) {
	bubble(t, "last key", func(t *testing.T) {
		d := dispatcher(t, NewMemoryStore(), &wire{answer: status(200)}, Options{})
		s := subscriber("a")
		s.Keys[0].Expires = time.Now().Add(time.Hour)
		send(t, d, "e1", s)
		time.Sleep(time.Hour)
		_, err := d.Send(t.Context(), Event{Type: "x"}, []Subscriber{s})
		require.ErrorContains(t, err, "there is no live key")
	})
}

// TestReuse: a request is used again when it has been written and answered, and by the
// transport of the package alone.
func TestReuse(t *testing.T) {
	var bodies [][]byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/early" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		bodies = append(bodies, append(body, r.Header.Get("X-Own")...))
	}))
	defer server.Close()
	guard := DevelopmentGuard()
	slotOf := func(transport Transport) *slot {
		d, err := New(NewMemoryStore(), &Options{Guard: guard, Transport: transport, MaxPayload: 8 << 20})
		require.NoError(t, err)
		s := newSlot(d, t.Context(), 0)
		t.Cleanup(s.close)
		return s
	}
	attempt := func(s *slot, path string, body []byte, own string) {
		sub := Subscriber{ID: "a", URL: server.URL + path, Keys: []Key{testKey}}
		if own != "" {
			sub.Header = http.Header{"X-Own": {own}}
		}
		f := faults{}
		c, _ := s.d.prepare(Event{Type: "x", Payload: &Payload{Body: body}}, &f)
		delivery, _ := s.d.delivery(c, &sub, false, &f)
		require.NoError(t, f.err())
		s.attempt(&Claim{Delivery: delivery, Attempt: 1})
	}

	s := slotOf(nil)
	attempt(s, "/", []byte("one"), "1")
	first := s.spare
	require.NotNil(t, first)
	attempt(s, "/", []byte("and two"), "")
	require.Same(t, first, s.spare)
	attempt(s, "/", nil, "")
	require.Equal(t, [][]byte{[]byte("one1"), []byte("and two"), {}}, bodies, "nothing is left of the one before")

	told := s.wrote
	attempt(s, "/early", bytes.Repeat([]byte("x"), 8<<20), "")
	require.Nil(t, s.spare, "it was answered before it was written")
	attempt(s, "/", []byte("three"), "")
	require.NotSame(t, told, s.wrote, "what is told of it later is not taken for the next")
	server.CloseClientConnections()

	s = slotOf(NewTransport(guard))
	attempt(s, "/", []byte("one"), "")
	require.Nil(t, s.spare, "a host's transport may keep it")
	s.d.transport.(*http.Transport).CloseIdleConnections()
}

// TestTargetsOfAnother: what one Dispatcher has accepted, another judges by its own Guard,
// whether the target is shared in memory or comes from a store.
func TestTargetsOfAnother(t *testing.T) {
	for name, restored := range map[string]bool{"shared": false, "restored": true} {
		t.Run(name, func(t *testing.T) {
			open := dispatcher(t, NewMemoryStore(), &wire{answer: status(200)}, Options{Guard: DevelopmentGuard(), StoreKeysInPlaintext: true})
			strict := dispatcher(t, NewMemoryStore(), &wire{answer: status(200)}, Options{})
			f := faults{}
			c, _ := open.prepare(Event{Type: "x"}, &f)
			delivery, _ := open.delivery(c, &Subscriber{ID: "a", URL: "http://a.example.com/", Keys: []Key{testKey}}, false, &f)
			require.NoError(t, f.err())
			if restored {
				data, err := delivery.Snapshot.MarshalBinary()
				require.NoError(t, err)
				require.NoError(t, delivery.Snapshot.UnmarshalBinary(data))
			}
			target := delivery.Snapshot.target()
			for range 2 {
				require.NoError(t, open.vet(target, delivery.Payload))
				require.ErrorIs(t, strict.vet(target, delivery.Payload), ErrBlocked)
			}
			require.True(t, target.acceptedBy(open), "it is not judged again")
			require.False(t, target.acceptedBy(strict))
		})
	}
}
