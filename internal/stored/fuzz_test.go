package stored

import (
	"bytes"
	"math"
	"net/http"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// requireStorable fails if a column of text could refuse the data.
func requireStorable(t *testing.T, data []byte) {
	t.Helper()
	require.True(t, utf8.Valid(data), "%q", data)
	require.NotContains(t, string(data), "\x00")
}

// FuzzAttempt: whatever a receiver answered is stored as text, and is restored byte
// for byte.
func FuzzAttempt(f *testing.F) {
	f.Add(1, 0, int64(1767323045), int64(6), int64(time.Second), 200, int64(0), "", "Content-Type", "text/plain", []byte("ok"), true)
	f.Add(-1, 3, int64(math.MinInt64), int64(-1), int64(math.MinInt64), -1, int64(math.MaxInt64), "\x00\xff\u2028<&>", "\xfe\x00", "\xff\x1b[2J\x00", []byte{0, 0xff}, true)
	f.Add(2, 0, int64(math.MaxInt64), int64(math.MaxInt64), int64(0), 999, int64(1), `{"base64":"YQ=="}`, `["YQ=="]`, "null", []byte(nil), false)
	f.Add(0, 0, int64(0), int64(0), int64(0), 0, int64(0), "\xed\xa0\x80", "", "", []byte{}, true)
	f.Fuzz(func(t *testing.T, number, replay int, seconds, nanos, duration int64, status int, retryAfter int64,
		text, name, value string, body []byte, kept bool) {
		want := outhook.Attempt{
			Number: number, Replay: replay, Time: time.Unix(seconds, nanos).UTC(), Duration: time.Duration(duration),
			Status: status, RetryAfter: time.Duration(retryAfter), Error: text,
		}
		if kept {
			want.Header, want.Body = http.Header{name: {value, ""}, name + "x": {}, value: {}}, bytes.Clone(body)
		}
		list := []outhook.Attempt{want, {}, want}
		list[1].Time = time.Unix(0, 0).UTC()
		data, err := EncodeAttempts(list)
		require.NoError(t, err)
		requireStorable(t, data)
		got, err := DecodeAttempts(data)
		require.NoError(t, err)
		require.Equal(t, list, got)

		data, err = EncodeHeader(want.Header)
		require.NoError(t, err)
		requireStorable(t, data)
		header, err := DecodeHeader(data)
		require.NoError(t, err)
		require.Equal(t, want.Header, header)
	})
}

// FuzzDecodeAttempts: a damaged row is an error, or something that is stored and
// restored like any other.
func FuzzDecodeAttempts(f *testing.F) {
	for _, seed := range []string{
		"", "null", "[]", "[null]", "[{}]", "[[]]", "{", "\xff", "\x00", `[{"number":1.5}]`, `[{"number":1e99}]`, `[{"error":null}]`, `[{"error":1}]`,
		`[{"error":{"base64":"!"}}]`, `[{"error":{"base64":"/w=="},"body":"AP8=","header":[["X","a",{"base64":"AA=="}],[],null,["X"],[null]]}]`,
		`[{"number":1,"unix":9223372036854775807,"nanoseconds":-1,"duration":-9223372036854775808}]`, `[{"NUMBER":1,"number":2}]`,
		`[{"error":"\ud800\u0000"}]`, `[{"header":{"X":["a"]}}]`, `[{"unix":1767323045,"nanoseconds":6,"duration":5,"header":null,"body":null}] x`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		attempts, err := DecodeAttempts(data)
		if err != nil {
			require.Empty(t, attempts)
			return
		}
		again, err := EncodeAttempts(attempts)
		require.NoError(t, err)
		requireStorable(t, again)
		restored, err := DecodeAttempts(again)
		require.NoError(t, err)
		require.Len(t, restored, len(attempts))
		if len(attempts) > 0 {
			require.Equal(t, attempts, restored)
		}
	})
}

// FuzzDecodeHeader is FuzzDecodeAttempts for the header of a payload.
func FuzzDecodeHeader(f *testing.F) {
	for _, seed := range []string{
		"", "null", "[]", "{}", "[[]]", `[["X","1"],["X","2"],["x"]]`, `[[{"base64":"/w=="},null]]`, `[["X",1]]`, `[{"base64":"AA=="}]`, "\xff", `[["\ud800"]]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		header, err := DecodeHeader(data)
		if err != nil {
			return
		}
		again, err := EncodeHeader(header)
		require.NoError(t, err)
		requireStorable(t, again)
		restored, err := DecodeHeader(again)
		require.NoError(t, err)
		require.Equal(t, header, restored)
	})
}

// FuzzTime: an instant of the years that RFC 3339 has a form for is restored to the
// nanosecond; what cannot be is an error, or an instant like any other.
func FuzzTime(f *testing.F) {
	for _, text := range []string{
		"", "noon", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000006+23:59", "0000-01-01T00:00:00+23:59", "9999-12-31T23:59:60Z",
		"2026-02-30T00:00:00Z", "2026-01-02T03:04:05,5Z", "2026-01-02t03:04:05z", "2026-01-02 03:04:05Z", "2026-01-02T03:04:05.0000000001Z",
	} {
		f.Add(text, int64(1767323045), int64(6), 3601)
	}
	f.Add("", int64(math.MinInt64), int64(math.MaxInt64), math.MinInt32)
	f.Add("", int64(253402300799), int64(999999999), 86399)
	inForm := func(t time.Time) bool { return t.UTC().Year() >= 0 && t.UTC().Year() <= 9999 }
	f.Fuzz(func(t *testing.T, text string, seconds, nanos int64, offset int) {
		if decoded, err := DecodeTime(text); err == nil && inForm(decoded) {
			again, err := DecodeTime(EncodeTime(decoded))
			require.NoError(t, err)
			require.True(t, again.Equal(decoded), "%v became %v", decoded, again)
		}
		at := time.Unix(seconds, nanos).In(time.FixedZone("", offset))
		encoded := EncodeTime(at)
		requireStorable(t, []byte(encoded))
		got, err := DecodeTime(encoded)
		require.NoError(t, err)
		if inForm(at) {
			require.True(t, got.Equal(at), "%v became %v", at, got)
		} else {
			require.True(t, got.IsZero())
		}
	})
}
