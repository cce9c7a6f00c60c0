package outhook

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckHeader(t *testing.T) {
	many := func(n int) http.Header {
		h := make(http.Header)
		for i := range n {
			h[fmt.Sprintf("X-%d", i)] = []string{""}
		}
		return h
	}
	for _, test := range []struct {
		name   string
		header http.Header
		want   string // empty: no fault
	}{
		{"nil", nil, ""},
		{"token and text", http.Header{"X-Team": {"one", "tw\to é"}, "Authorization": {"Bearer x"}, "User-Agent": {"me"}}, ""},
		{"all token characters", http.Header{"!#$%&'*+-.^_`|~09azAZ": {""}}, ""},
		{"not canonical", http.Header{"x-team": {"one"}}, ""},
		{"two spellings", http.Header{"X-A": {"1"}, "x-a": {"2"}}, "outhook: H: X-A stands there in two spellings"},
		{"names without values", func() http.Header {
			h := many(65)
			for name := range h {
				h[name] = nil
			}
			return h
		}(), "outhook: H: 65 values of 0 bytes are above the limit of 64 values or 8192 bytes"},
		{"empty name", http.Header{"": {"x"}}, `outhook: H: "" is no header name`},
		{"space in name", http.Header{"X A": {"x"}}, `outhook: H: "X A" is no header name`},
		{"colon in name", http.Header{"X:": {"x"}}, `outhook: H: "X:" is no header name`},
		{"line break in name", http.Header{"X\r\nEvil": {"x"}}, `outhook: H: "X\r\nEvil" is no header name`},
		{"name not ASCII", http.Header{"É": {"x"}}, `outhook: H: "É" is no header name`},
		{"name not UTF-8", http.Header{"\xff": {"x"}}, `outhook: H: "\xff" is no header name`},
		{"CR", http.Header{"X": {"a\rb"}}, `outhook: H: the value of "X" holds a control character or is not UTF-8`},
		{"LF", http.Header{"X": {"a\nb"}}, `outhook: H: the value of "X" holds a control character or is not UTF-8`},
		{"NUL", http.Header{"X": {"\x00"}}, `outhook: H: the value of "X" holds a control character or is not UTF-8`},
		{"DEL", http.Header{"X": {"\x7f"}}, `outhook: H: the value of "X" holds a control character or is not UTF-8`},
		{"not UTF-8", http.Header{"X": {"caf\xe9"}}, `outhook: H: the value of "X" holds a control character or is not UTF-8`},
		{"second value", http.Header{"X": {"a", "\n"}}, `outhook: H: the value of "X" holds a control character or is not UTF-8`},
		{"cloud platform", http.Header{"x-amz-security-token": {"x"}}, "outhook: H: X-Amz-Security-Token may not be set"},
		{"like a cloud platform", http.Header{"X-Amazing": {"x"}, "Metadata-Version": {"1"}}, ""},
		{"64 values", many(64), ""},
		{"65 values", many(65), "outhook: H: 65 values of 250 bytes are above the limit of 64 values or 8192 bytes"},
		{"8192 bytes", http.Header{"X": {strings.Repeat("a", 8191)}}, ""},
		{"8193 bytes", http.Header{"X": {strings.Repeat("a", 8192)}}, "outhook: H: 1 values of 8193 bytes are above the limit of 64 values or 8192 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var f faults
			checkHeader("", "H", test.header, &f)
			if test.want == "" {
				require.NoError(t, f.err())
			} else {
				require.EqualError(t, f.err(), test.want)
			}
		})
	}
}

func TestReservedHeaders(t *testing.T) {
	for _, name := range []string{
		// RFC 9110, section 7.6.1
		"Connection", "Keep-Alive", "Proxy-Connection", "TE", "Transfer-Encoding", "Upgrade", "Trailer", "Proxy-Authorization",
		"Host", "Content-Length", "Content-Type", "Content-Encoding", "Expect",
		"Idempotency-Key", "X-Idempotency-Key", // net/http repeats a request that has one
		"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "Webhook-Anything", "Webhook-Request-Callback",
		"Metadata", "Metadata-Flavor", "X-Google-Metadata-Request", "X-Goog-User-Project", "X-Identity-Header", "X-Ms-Version",
		"X-Azure-Ref", "X-Aws-Ec2-Metadata-Token", "X-Amz-Date", "X-Amzn-Trace-Id", "X-Aliyun-Ecs-Metadata-Token",
		"X-Envoy-Retry-On", // a sidecar would repeat the POST
	} {
		for _, written := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			t.Run(written, func(t *testing.T) {
				var f faults
				checkHeader("s", "Header", http.Header{written: {"x"}}, &f)
				require.EqualError(t, f.err(), fmt.Sprintf(`outhook: subscriber "s": Header: %s may not be set`, http.CanonicalHeaderKey(name)))
			})
		}
	}
	for _, name := range []string{"Webhook", "X-Webhook-Id", "Content-Language", "WebHook-Request-Origin", "webhook-request-origin"} {
		t.Run(name, func(t *testing.T) {
			var f faults
			checkHeader("s", "Header", http.Header{name: {"x"}}, &f)
			require.NoError(t, f.err())
		})
	}
}
