package outhook

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// errNoKey fails an attempt whose keys have all expired since Send.
var errNoKey = errors.New("no live signing key")

// An outgoing is the request of an attempt, in one piece of memory with what belongs to it.
type outgoing struct {
	request   http.Request
	url       url.URL
	header    http.Header
	reader    bytes.Reader
	body      io.ReadCloser // of the reader
	room      [5]string
	values    []string      // of the header, in room
	blank     *http.Request // that the request was made of
	second    int64         // of the timestamp, since the epoch
	timestamp string
}

const contentJSON = "application/json"

// blank is what all requests have in common.
var blank = &http.Request{Method: http.MethodPost, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}

// newOutgoing returns a POST that net/http sends at most once: without GetBody, it
// cannot repeat one whose body has left. The body has to be a bytes.Reader for
// net/http to write it together with the header.
func newOutgoing(blank *http.Request, t *target, body []byte) *outgoing {
	p := &outgoing{header: make(http.Header, 8)}
	p.body = io.NopCloser(&p.reader)
	p.reset(blank, t, body)
	return p
}

func (p *outgoing) reset(blank *http.Request, t *target, body []byte) {
	clear(p.header)
	p.values = p.room[:0]
	p.url = *t.url // not to be shared: a transport may change it
	if p.blank != blank {
		p.blank, p.request = blank, *blank
		p.request.URL, p.request.Header = &p.url, p.header
	}
	p.request.Host, p.request.Body, p.request.ContentLength = t.url.Host, nil, int64(len(body))
	if len(body) > 0 {
		p.reader.Reset(body)
		p.request.Body = p.body
	}
}

// in returns the request with a context.
func (p *outgoing) in(ctx context.Context) *http.Request {
	if p.request.Context() == ctx {
		return &p.request
	}
	return p.request.WithContext(ctx)
}

// outgoing returns a request with the slot's context.
func (s *slot) outgoing(t *target, body []byte) *outgoing {
	p := s.spare
	if s.spare = nil; p == nil {
		p = newOutgoing(s.blank, t, body)
	} else {
		p.reset(s.blank, t, body)
	}
	s.wrote.Store(false)
	return p
}

// reuse keeps a request for the next attempt, if nobody holds it any more: a transport of
// the host's might, and so does one that is still writing it.
func (s *slot) reuse(p *outgoing, err error) {
	if s.d.ownsIdle == nil {
		return
	}
	if s.loosed = err != nil || !s.wrote.Load(); !s.loosed {
		s.spare = p
	}
}

// set sets a header of its own.
func (p *outgoing) set(name, value string) {
	p.values = append(p.values, value)
	p.request.Header[name] = p.values[len(p.values)-1 : len(p.values) : len(p.values)]
}

// vet checks a target that a Directory has given, or that another Dispatcher has
// accepted, under another Guard perhaps, and the headers that a store has kept.
func (d *Dispatcher) vet(t *target, p *Payload) error {
	if t.fault != nil {
		return t.fault
	}
	var f faults
	if !t.acceptedBy(d) {
		if _, err := d.options.Guard.CheckURL(t.url.String()); err != nil {
			return err
		}
		checkHeader("", "the subscriber's Header", t.header, &f)
	}
	if len(p.Header) > 0 || p.ContentType != "" && p.ContentType != contentJSON {
		checkPayload("", "the payload", p, len(p.Body), &f)
	}
	if f != nil {
		return block("the header may not be sent")
	}
	if t.accepted != nil && !t.acceptedBy(d) {
		t.accepted.Store(d)
	}
	return nil
}

// acceptedBy reports whether a Dispatcher has found that a target may be attempted.
func (t *target) acceptedBy(d *Dispatcher) bool {
	return t.vetted == d || t.accepted != nil && t.accepted.Load() == d
}

// header sets the header of an outgoing request. The signature comes last, so that
// nothing else can take its place.
func (d *Dispatcher) header(ctx context.Context, p *outgoing, c *Claim, now time.Time) error {
	t := c.Snapshot.target()
	h := p.request.Header
	for name, values := range c.Payload.Header {
		h[http.CanonicalHeaderKey(name)] = values
	}
	for name, values := range t.header {
		h[http.CanonicalHeaderKey(name)] = values
	}
	if h["User-Agent"] == nil {
		p.set("User-Agent", d.options.UserAgent)
	}
	p.set("Content-Type", cmp.Or(c.Payload.ContentType, contentJSON))
	message := Message{ID: c.ID.Event, Time: now, Body: c.Payload.Body}
	if second := now.Unix(); second != p.second || p.timestamp == "" {
		p.second, p.timestamp = second, message.timestamp()
	}
	p.set(headerID, message.ID)
	p.set(headerTimestamp, p.timestamp)
	return d.sign(ctx, p, message, t)
}

// sign adds the headers of each scheme that the target has live keys for.
func (d *Dispatcher) sign(ctx context.Context, p *outgoing, m Message, t *target) error {
	signed := t.unsigned
	for i := range t.keys {
		scheme := t.keys[i].Scheme
		if hasScheme(t.keys[:i], scheme) {
			continue
		}
		live := make([]int, 0, maxKeys) // of the keys
		for j := i; j < len(t.keys); j++ {
			if k := &t.keys[j]; k.Scheme == scheme && k.live(m.Time) {
				live = append(live, j)
			}
		}
		if len(live) == 0 {
			continue
		}
		if err := d.signScheme(ctx, p, m, t, scheme, live); err != nil {
			return err
		}
		signed = true
	}
	if !signed {
		return errNoKey
	}
	return nil
}

func hasScheme(keys []Key, scheme string) bool {
	return slices.ContainsFunc(keys, func(k Key) bool { return k.Scheme == scheme })
}

// errSigner hides the text of a signer's error, which might hold a key.
var errSigner = errors.New("the signer failed")

func (d *Dispatcher) signScheme(ctx context.Context, p *outgoing, m Message, t *target, scheme string, live []int) (err error) {
	defer containPanic("the signer", &err)
	signer := d.options.Signers[scheme]
	if _, standard := signer.(StandardWebhooks); standard { // with keys that are prepared, and two of the headers there
		signers := make([]*standardSigner, 0, maxKeys)
		for _, i := range live {
			if t.standard[i] == nil {
				return errSigner
			}
			signers = append(signers, t.standard[i])
		}
		p.set(headerSignature, joinV1(m, p.request.Header[headerTimestamp][0], signers))
		return nil
	}
	if signer == nil {
		return errSigner
	}
	keys := make([]Key, len(live))
	for i := range live {
		keys[i] = t.keys[live[i]]
	}
	signature, err := signer.Sign(ctx, m, keys)
	if err != nil || len(signature) == 0 {
		return cmp.Or(context.Cause(ctx), errSigner)
	}
	for name, values := range signature {
		p.request.Header[http.CanonicalHeaderKey(name)] = values
	}
	return nil
}
