package cloudevents

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/outhook/outhook"
)

// Headers of the handshake, in canonical form.
const (
	headerRequestOrigin   = "Webhook-Request-Origin"
	headerRequestCallback = "Webhook-Request-Callback"
	headerRequestRate     = "Webhook-Request-Rate"
	headerAllowedOrigin   = "Webhook-Allowed-Origin"
	headerAllowedRate     = "Webhook-Allowed-Rate"
)

// What keeps a target from having consented, for [errors.Is]. None of the texts
// holds anything that the target, its name or its network has told: they may be
// shown to whoever registers the target.
var (
	// ErrNoAnswer is matched when there was no answer in time, or none of
	// HTTP. What it wraps besides is for the operator: [outhook.ErrBlocked],
	// say, when the guard refused the address that the name resolved to.
	ErrNoAnswer = errors.New("cloudevents: the target did not answer the handshake")

	// ErrNoConsent is returned for an answer without WebHook-Allowed-Origin. A
	// target that was given a Callback may still consent there.
	ErrNoConsent = errors.New("cloudevents: the target gave no consent")

	// ErrOrigin is returned if WebHook-Allowed-Origin is neither the origin
	// that asked nor "*", or stands there more than once.
	ErrOrigin = errors.New("cloudevents: the target's consent is not for this origin")

	// ErrRate is returned if WebHook-Allowed-Rate is neither a positive number
	// nor "*", stands there more than once, or is missing although
	// HandshakeOptions.Rate asked for it.
	ErrRate = errors.New("cloudevents: the target's rate is missing or malformed")
)

// A StatusError is returned for an answer outside of 2xx: 405 mostly, of a target
// that knows no handshake. Redirects are among them, and are not followed.
type StatusError struct {
	Status int
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("cloudevents: the target answered the handshake with status %d", e.Status)
}

// noAnswer hides the text of its cause.
type noAnswer struct{ cause error }

func (e *noAnswer) Error() string   { return ErrNoAnswer.Error() }
func (e *noAnswer) Unwrap() []error { return []error{ErrNoAnswer, e.cause} }

// HandshakeOptions say what is asked for, and how.
type HandshakeOptions struct {
	// Origin is the DNS name that stands for the sending system as a whole,
	// such as "events.shop.example" (section 4.1.2). Required.
	Origin string

	// Rate asks for so many requests a minute (section 4.1.4). Zero: for
	// whatever the target grants.
	Rate int

	// Callback is an URL at which the target may consent later
	// (section 4.1.3), as made by [Callback.For]. Empty: none.
	Callback string

	// Guard says which URLs and addresses may be called: that of the
	// Dispatcher. The zero Guard: https to public addresses.
	Guard outhook.Guard

	// Transport makes the request. Nil: that of [outhook.NewTransport] with
	// the Guard. Another one decides by itself which addresses it dials.
	Transport outhook.Transport

	// Timeout bounds the handshake, from name resolution to the response's
	// header. Zero: 15 s.
	Timeout time.Duration

	// UserAgent of the request. Empty: "outhook/1".
	UserAgent string
}

// A Consent is a target's permission to send it events.
type Consent struct {
	// Origin is the one that asked.
	Origin string

	// Rate is how many requests a minute the target wants at most, whatever
	// was asked for. Zero: it has named no limit.
	Rate int
}

// Pace returns the rate for [outhook.Subscriber.Rate], which ends at a million.
func (c Consent) Pace() outhook.Rate {
	if c.Rate == 0 {
		return outhook.Rate{}
	}
	return outhook.Rate{N: min(c.Rate, 1_000_000), Per: time.Minute}
}

// Header returns the header that every delivery to the target must have
// (section 4.1.2), WebHook-Request-Origin, for [outhook.Subscriber.Header].
func (c Consent) Header() http.Header { return http.Header{headerRequestOrigin: {c.Origin}} }

// Handshake asks a target for its consent to be sent events, as "HTTP 1.1 Web
// Hooks for Event Delivery" specifies in section 4: with an OPTIONS request to the
// URL that is to receive them. Call it when a subscriber registers, keep the
// Consent with the subscriber, and ask again when its URL changes.
//
// The error matches [outhook.ErrBlocked] if the guard refuses the URL, in words
// for whoever chose it; otherwise [ErrNoAnswer], [ErrNoConsent], [ErrOrigin] or
// [ErrRate], or it is a [StatusError]. Faulty options are [outhook.FieldError]s,
// joined. It tries once. The response's body is not read.
func Handshake(ctx context.Context, target string, options HandshakeOptions) (Consent, error) {
	if err := options.check(); err != nil {
		return Consent{}, err
	}
	u, err := options.Guard.CheckURL(target)
	if err != nil {
		return Consent{}, fmt.Errorf("cloudevents: handshake: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(options.Timeout, 15*time.Second))
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodOptions, u.String(), nil)
	if err != nil {
		return Consent{}, &noAnswer{err}
	}
	r.Header.Set("User-Agent", cmp.Or(options.UserAgent, "outhook/1"))
	r.Header.Set(headerRequestOrigin, options.Origin)
	if options.Rate != 0 {
		r.Header.Set(headerRequestRate, strconv.Itoa(options.Rate))
	}
	if options.Callback != "" {
		r.Header.Set(headerRequestCallback, options.Callback)
	}
	transport := options.Transport
	if transport == nil {
		own := outhook.NewTransport(options.Guard)
		own.DisableKeepAlives = true // for this one request
		defer own.CloseIdleConnections()
		transport = own
	}
	response, err := transport.RoundTrip(r) // not by a Client, which follows redirects
	if err != nil {
		return Consent{}, &noAnswer{err}
	}
	response.Body.Close()
	return options.judge(response)
}

// check reports the faults of the options that are the host's.
func (o *HandshakeOptions) check() error {
	var errs []error
	add := func(field, reason string) {
		errs = append(errs, &outhook.FieldError{Field: "HandshakeOptions." + field, Reason: reason})
	}
	if !isOrigin(o.Origin) {
		add("Origin", "is no DNS name")
	}
	if o.Rate < 0 {
		add("Rate", "is negative")
	}
	if o.Timeout < 0 {
		add("Timeout", "is negative")
	}
	if o.Callback != "" {
		if fault := checkCallback(o.Callback, o.Guard.PlainHTTP); fault != "" {
			add("Callback", fault)
		}
	}
	return errors.Join(errs...)
}

// checkCallback says what is wrong with a URL of the host's that targets call.
func checkCallback(raw string, plainHTTP bool) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return "is no URL with a host"
	case u.Scheme != "https" && !(plainHTTP && u.Scheme == "http"):
		return "is no https URL"
	}
	return ""
}

// isOrigin reports whether s can be a DNS name.
func isOrigin(s string) bool {
	return 1 <= len(s) && len(s) <= 253 && strings.IndexFunc(s, func(r rune) bool {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		return !letter && !('0' <= r && r <= '9') && !strings.ContainsRune("-._", r)
	}) < 0
}

// judge reads the target's answer (section 4.2). Its status alone is no consent.
func (o *HandshakeOptions) judge(response *http.Response) (Consent, error) {
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return Consent{}, &StatusError{response.StatusCode}
	}
	switch origin := response.Header[headerAllowedOrigin]; {
	case len(origin) == 0:
		return Consent{}, ErrNoConsent
	case len(origin) > 1 || origin[0] != "*" && origin[0] != o.Origin:
		return Consent{}, ErrOrigin
	}
	rate, err := parseRate(response.Header)
	if err != nil || o.Rate != 0 && len(response.Header[headerAllowedRate]) == 0 {
		return Consent{}, ErrRate
	}
	return Consent{Origin: o.Origin, Rate: rate}, nil
}

// parseRate reads WebHook-Allowed-Rate (section 4.2.2). It returns 0 if the header
// sets no limit or is missing.
func parseRate(h http.Header) (int, error) {
	values := h[headerAllowedRate]
	if len(values) == 0 || len(values) == 1 && values[0] == "*" {
		return 0, nil
	}
	n, err := strconv.ParseInt(values[0], 10, 32)
	if len(values) > 1 || err != nil || n <= 0 || strconv.FormatInt(n, 10) != values[0] {
		return 0, ErrRate
	}
	return int(n), nil
}
