package cloudevents

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/outhook/outhook"
)

// A Callback takes the consent of targets that give it later, by a GET or POST
// request to a URL that the handshake told them (section 4.1.3). It is an
// [http.Handler] for the path of its URL.
//
// The URL names the subscriber and proves, by a HMAC, that this target was asked
// for this subscriber: nothing has to be stored in between, and who has changed a
// subscriber's URL since cannot consent for the new one. Whoever holds the URL can
// consent, as the specification wants it: an administrator may open it in a
// browser.
//
// It may be used concurrently, and must not be changed then.
type Callback struct {
	// URL is where targets reach the handler, by https. Required.
	URL string

	// Secret makes the URLs hard to guess: at least 32 random bytes. With
	// another one, the URLs that are out no longer work. Required.
	Secret outhook.Secret

	// URLOf returns the URL that a subscriber has at present, in the very form
	// that was given to For, or [outhook.ErrUnknownSubscriber]. Required.
	URLOf func(ctx context.Context, subscriber string) (url string, err error)

	// Grant is told that a target has consented, for this URL of a subscriber,
	// and to how many requests a minute; zero: it has named no limit. It may
	// be called more than once. Required.
	Grant func(ctx context.Context, subscriber, url string, rate int) error
}

const minCallbackSecret = 32 // bytes

// For returns the URL that a target is told, for HandshakeOptions.Callback.
func (c *Callback) For(subscriber, target string) (string, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" { // the rest is Handshake's to judge
		return "", &outhook.FieldError{Field: "Callback.URL", Reason: "is no URL with a host"}
	}
	if len(c.Secret.Reveal()) < minCallbackSecret {
		return "", &outhook.FieldError{Field: "Callback.Secret", Reason: fmt.Sprintf("is shorter than %d bytes", minCallbackSecret)}
	}
	query := u.Query()
	query.Set("id", subscriber)
	query.Set("key", base64.RawURLEncoding.EncodeToString(c.key(subscriber, target)))
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// key proves that a target was asked for a subscriber.
func (c *Callback) key(subscriber, target string) []byte {
	h := hmac.New(sha256.New, []byte(c.Secret.Reveal()))
	fmt.Fprintf(h, "outhook consent %d %s %s", len(subscriber), subscriber, target)
	return h.Sum(nil)
}

// ServeHTTP answers once Grant has returned nil, 204 to POST and 200 to GET; 403 if the URL was not made
// by For, or for another URL of the subscriber, or the subscriber is unknown; 400
// if WebHook-Allowed-Rate is malformed; 405 to other methods than GET and POST;
// 500 if a func failed.
func (c *Callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	switch status := c.serve(w, r); {
	case status != http.StatusOK:
		http.Error(w, http.StatusText(status), status)
	case r.Method == http.MethodPost:
		w.WriteHeader(http.StatusNoContent) // the SDK closes no body, and would keep the connection
	default:
		_, _ = io.WriteString(w, "The consent was recorded.\n")
	}
}

func (c *Callback) serve(w http.ResponseWriter, r *http.Request) (status int) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		return http.StatusMethodNotAllowed
	}
	query := r.URL.Query()
	subscriber := query.Get("id")
	key, err := base64.RawURLEncoding.DecodeString(query.Get("key"))
	if err != nil || len(key) != sha256.Size || len(c.Secret.Reveal()) < minCallbackSecret {
		return http.StatusForbidden
	}
	target, err := c.URLOf(r.Context(), subscriber)
	switch {
	case errors.Is(err, outhook.ErrUnknownSubscriber):
		return http.StatusForbidden
	case err != nil:
		return http.StatusInternalServerError
	case !hmac.Equal(key, c.key(subscriber, target)):
		return http.StatusForbidden
	}
	rate, err := parseRate(r.Header)
	if err != nil {
		return http.StatusBadRequest
	}
	if err := c.Grant(r.Context(), subscriber, target, rate); err != nil {
		return http.StatusInternalServerError
	}
	return http.StatusOK
}
