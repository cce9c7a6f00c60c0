package cloudevents

import (
	"net/http"
	"slices"
	"strconv"
)

// A Target is the receiver's side of the handshake: it consents to be sent events.
// It may be used concurrently, and must not be changed then.
type Target struct {
	// Origins are those that may send, by the names they ask with; "*": all.
	// Nil: none.
	Origins []string

	// Rate is how many requests a minute are granted to each origin, whatever
	// it asks for. Nothing here enforces it. Zero: no limit.
	Rate int
}

// Handler returns a handler that answers the handshake and leaves all other
// requests to next, OPTIONS requests of other purposes too.
//
// It answers 200 with the headers of section 4.2 to an origin that may send, and
// 403 to one that may not. A callback that is offered is not called.
func (t *Target) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origins := r.Header[headerRequestOrigin]
		if r.Method != http.MethodOptions || len(origins) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		allowed := "*"
		if !slices.Contains(t.Origins, allowed) {
			allowed = origins[0]
			if len(origins) > 1 || !slices.Contains(t.Origins, allowed) {
				http.Error(w, http.StatusText(http.StatusForbidden), http.StatusForbidden)
				return
			}
		}
		rate := "*"
		if t.Rate != 0 {
			rate = strconv.Itoa(t.Rate)
		}
		h := w.Header()
		h.Set(headerAllowedOrigin, allowed)
		h.Set(headerAllowedRate, rate)
		h.Set("Allow", http.MethodPost)
	})
}
