package outhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// A Snapshot is a subscriber as it was when an event was sent to it: what an
// attempt needs to know, or, with Options.Directory, that this is to be asked for.
// It is opaque: it prints as the scheme and host of its URL, and stores keep it
// by MarshalBinary, or by MarshalJSON inside JSON.
type Snapshot struct {
	// Behind a func like that of a Secret: headers and labels hold tokens, too.
	open *func() *target
}

func newSnapshot(t *target) Snapshot {
	open := func() *target { return t }
	return Snapshot{&open}
}

// target returns the content, which is never changed, nil if there is none.
func (s Snapshot) target() *target {
	if s.open == nil {
		return nil
	}
	return (*s.open)()
}

// target is the content of a Snapshot.
type target struct {
	sealed    *sealed // if not nil, all else is in there
	directory bool    // it holds labels alone; the rest is to be looked up

	raw         string // the URL as the host gave it
	url         *url.URL
	header      http.Header
	keys        []Key
	standard    []*standardSigner // of each key, nil if Standard Webhooks cannot sign with it
	unsigned    bool
	timeout     time.Duration // 0: the Dispatcher's
	concurrency int           // 0: the Dispatcher's
	rate        Rate
	labels      map[string]string
	plaintext   bool                        // keys may be marshalled
	sealer      *Sealer                     // seals it when it is marshalled; nil: nothing does
	id          DeliveryID                  // that it is sealed for
	vetted      *Dispatcher                 // whose Guard accepted it; nil: it came from a store
	accepted    *atomic.Pointer[Dispatcher] // whose Guard has accepted it since
	fault       error                       // why it is not to be attempted, of one from a Directory
	shared      Snapshot                    // of itself, for all deliveries that need none of their own
}

// snapshotOf returns the snapshot for a delivery.
func (t *target) snapshotOf(id DeliveryID, labels map[string]string) Snapshot {
	if len(labels) == 0 && t.sealer == nil {
		return t.shared
	}
	own := *t
	own.id, own.labels = id, labels
	return newSnapshot(&own)
}

// prepare makes ready what all attempts share.
func (t *target) prepare() {
	t.accepted = new(atomic.Pointer[Dispatcher])
	t.standard = make([]*standardSigner, len(t.keys))
	for i := range t.keys {
		if k, err := decodeKey(t.keys[i].Secret.Reveal()); err == nil && (k.hmac != nil || k.private != nil) {
			t.standard[i] = &standardSigner{standardKey: k}
		}
	}
}

// storedTarget is the stored form of a target. Fields may be added, never renamed.
type storedTarget struct {
	Sealed      *sealed           `json:"sealed,omitempty"` // then it is the only one
	Directory   bool              `json:"directory,omitempty"`
	URL         string            `json:"url,omitempty"`
	Header      http.Header       `json:"header,omitempty"`
	Keys        []storedKey       `json:"keys,omitempty"`
	Unsigned    bool              `json:"unsigned,omitempty"`
	Timeout     time.Duration     `json:"timeout,omitempty"` // nanoseconds
	Concurrency int               `json:"concurrency,omitempty"`
	Rate        Rate              `json:"rate,omitzero"`
	Labels      map[string]string `json:"labels,omitempty"`
}

type storedKey struct {
	Secret  []byte    `json:"secret"` // any bytes, so in base64
	Scheme  string    `json:"scheme,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
}

// MarshalBinary returns the stored form, sealed if the Dispatcher that made the
// snapshot has a [Sealer]. Else it returns [ErrPlaintextKeys] if the snapshot holds
// keys and that Dispatcher was not told to store them.
func (s Snapshot) MarshalBinary() ([]byte, error) {
	t := s.target()
	if t == nil {
		return nil, errors.New("outhook: marshal snapshot: it is empty")
	}
	if t.sealed != nil {
		return json.Marshal(storedTarget{Sealed: t.sealed})
	}
	if len(t.keys) > 0 && !t.plaintext && t.sealer == nil {
		return nil, ErrPlaintextKeys
	}
	stored := storedTarget{
		Directory: t.directory, Header: t.header, Unsigned: t.unsigned,
		Timeout: t.timeout, Concurrency: t.concurrency, Rate: t.rate, Labels: t.labels,
	}
	if t.url != nil {
		stored.URL = t.url.String()
	}
	for _, k := range t.keys {
		stored.Keys = append(stored.Keys, storedKey{[]byte(k.Secret.Reveal()), k.Scheme, k.Expires})
	}
	data, err := json.Marshal(stored)
	if err != nil || t.sealer == nil {
		return data, err
	}
	return json.Marshal(storedTarget{Sealed: t.sealer.seal(data, t.id)})
}

// UnmarshalBinary restores a snapshot from what MarshalBinary returned. An error
// is to be reported as the Fault of the [Claim]. One that is sealed stays so: the
// Dispatcher opens it.
func (s *Snapshot) UnmarshalBinary(data []byte) error {
	t, err := decodeTarget(data)
	if err == nil {
		*s = newSnapshot(t)
	}
	return err
}

func decodeTarget(data []byte) (*target, error) {
	var stored storedTarget
	if err := json.Unmarshal(data, &stored); err != nil {
		return nil, errors.New("outhook: unmarshal snapshot: not JSON of a snapshot") // the cause may quote a secret
	}
	switch {
	case stored.Sealed != nil && !validName(stored.Sealed.Key):
		return nil, errors.New("outhook: unmarshal snapshot: no ID of a sealing key")
	case stored.Sealed != nil:
		return &target{sealed: stored.Sealed}, nil
	case stored.Directory:
		return &target{directory: true, labels: stored.Labels}, nil
	}
	u, err := url.Parse(stored.URL)
	if err != nil || u.Host == "" {
		return nil, errors.New("outhook: unmarshal snapshot: no URL")
	}
	t := &target{
		url: u, header: stored.Header, unsigned: stored.Unsigned,
		timeout: stored.Timeout, concurrency: stored.Concurrency, rate: stored.Rate, labels: stored.Labels,
		plaintext: true, // they came from plaintext
	}
	for _, k := range stored.Keys {
		t.keys = append(t.keys, Key{Secret: NewSecret(string(k.Secret)), Scheme: k.Scheme, Expires: k.Expires})
	}
	t.prepare()
	return t, nil
}

// MarshalJSON returns the same as MarshalBinary, which is JSON.
func (s Snapshot) MarshalJSON() ([]byte, error) { return s.MarshalBinary() }

// UnmarshalJSON is UnmarshalBinary.
func (s *Snapshot) UnmarshalJSON(data []byte) error { return s.UnmarshalBinary(data) }

// Format implements [fmt.Formatter] for all verbs.
func (s Snapshot) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// String returns scheme and host of the URL: the rest may hold a token. Of one
// that is sealed it returns "(sealed)", and of one that is to be looked up
// "(directory)".
func (s Snapshot) String() string {
	switch t := s.target(); {
	case t == nil:
		return "(none)"
	case t.sealed != nil:
		return "(sealed)"
	case t.url == nil:
		return "(directory)"
	default:
		return t.url.Scheme + "://" + t.url.Host
	}
}
