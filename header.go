package outhook

import (
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of the custom headers of a subscriber or payload.
const (
	maxHeaders     = 64
	maxHeaderBytes = 8 << 10 // names and values together
)

// reservedHeaders may not be set by a subscriber or payload: they belong to the
// connection (RFC 9110, section 7.6.1), to the framing of the message, to the
// body's own description, would make net/http repeat a POST by itself, or mean
// something to the metadata services of clouds.
var reservedHeaders = map[string]bool{
	"Connection":          true,
	"Content-Encoding":    true,
	"Content-Length":      true,
	"Content-Type":        true, // Payload.ContentType
	"Expect":              true,
	"Host":                true,
	"Idempotency-Key":     true,
	"Keep-Alive":          true,
	"Metadata":            true, // Azure, DigitalOcean
	"Metadata-Flavor":     true, // Google Cloud
	"Proxy-Authorization": true,
	"Proxy-Connection":    true,
	"Te":                  true,
	"Trailer":             true,
	"Transfer-Encoding":   true,
	"Upgrade":             true,
	"X-Idempotency-Key":   true,
	"X-Identity-Header":   true, // Azure
}

// reservedPrefixes begin the headers of the signature, and those by which the
// services and metadata endpoints of cloud platforms, and the proxies of a mesh,
// know a caller from inside or are told what to do.
var reservedPrefixes = []string{
	"Webhook-",
	"X-Aliyun-", "X-Amz-", "X-Amzn-", "X-Aws-", "X-Azure-", "X-Envoy-", "X-Goog-", "X-Google-", "X-Ms-",
}

// checkHeader reports the faults of custom headers.
func checkHeader(subscriber, field string, h http.Header, f *faults) {
	if len(h) == 0 {
		return
	}
	count, size := 0, 0
	seen := make(map[string]bool, len(h))
	for _, name := range slices.Sorted(maps.Keys(h)) {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case !validHeaderName(name):
			f.add(subscriber, field, "%q is no header name", clip(name))
		case reservedHeaders[canonical] || hasReservedPrefix(canonical):
			f.add(subscriber, field, "%s may not be set", canonical)
		case seen[canonical]:
			f.add(subscriber, field, "%s stands there in two spellings", canonical)
		}
		seen[canonical] = true
		count += max(len(h[name]), 1)
		for _, value := range h[name] {
			size += len(name) + len(value)
			if !validHeaderValue(value) {
				f.add(subscriber, field, "the value of %q holds a control character or is not UTF-8", clip(name))
			}
		}
	}
	if count > maxHeaders || size > maxHeaderBytes {
		f.add(subscriber, field, "%d values of %d bytes are above the limit of %d values or %d bytes",
			count, size, maxHeaders, maxHeaderBytes)
	}
}

// headerOrigin is the one header with a reserved prefix that a subscriber may set:
// a web hook of CloudEvents names its sender in it on every delivery. See
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md#21-delivery-request.
const headerOrigin = "Webhook-Request-Origin"

func hasReservedPrefix(canonical string) bool {
	return canonical != headerOrigin && slices.ContainsFunc(reservedPrefixes, func(prefix string) bool { return strings.HasPrefix(canonical, prefix) })
}

// validHeaderName reports whether s is a token (RFC 9110, section 5.6.2).
func validHeaderName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !isWord(r) && !strings.ContainsRune("!#$%&'*+-.^`|~", r)
	}) < 0
}

// validHeaderValue reports whether s is a field value (RFC 9110, section 5.5)
// that every store can keep.
func validHeaderValue(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}
