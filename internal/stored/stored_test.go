package stored

import (
	"math"
	"net/http"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

func TestAttempts(t *testing.T) {
	for name, a := range map[string]outhook.Attempt{
		"the zero one": {},
		"all fields": {
			Number: 2, Replay: 3, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Duration: time.Second + 1,
			Status: 500, RetryAfter: time.Minute, Error: "status 500",
			Header: http.Header{"Content-Type": {"text/plain"}, "X-Two": {"a", "b"}}, Body: []byte("no"),
		},
		"bytes that are not UTF-8": {
			Error:  "any \x00 \xff <&> \u2028 bytes",
			Header: http.Header{"A": {"", "\xff\x00"}, "\xfe": {"x"}, "X": {"\xe4\xf6\xfc", `["YQ=="]`, `{"base64":"YQ=="}`}},
			Body:   []byte{0, 0xff, '"'},
		},
		"kept, but empty":           {Header: http.Header{}, Body: []byte{}},
		"a header without a value":  {Header: http.Header{"X": {}}},
		"instants beyond the range": {Time: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC), Duration: math.MaxInt64, RetryAfter: math.MinInt64},
	} {
		t.Run(name, func(t *testing.T) {
			list := []outhook.Attempt{a, {Number: 1}}
			data, err := EncodeAttempts(list)
			require.NoError(t, err)
			require.True(t, utf8.Valid(data))
			require.NotContains(t, string(data), "\x00")
			got, err := DecodeAttempts(data)
			require.NoError(t, err)
			require.Equal(t, list, got)
		})
	}
	data, err := EncodeAttempts(nil)
	require.NoError(t, err)
	require.Nil(t, data)
	list, err := DecodeAttempts(nil)
	require.NoError(t, err)
	require.Nil(t, list)
	_, err = DecodeAttempts([]byte("damaged"))
	require.Error(t, err)
}

func TestHeader(t *testing.T) {
	for _, h := range []http.Header{nil, {}, {"A": {"1", "2"}, "B": {}, "C": {"\xff\x00"}}} {
		data, err := EncodeHeader(h)
		require.NoError(t, err)
		require.Equal(t, h == nil, data == nil)
		got, err := DecodeHeader(data)
		require.NoError(t, err)
		require.Equal(t, h, got)
	}
	_, err := DecodeHeader([]byte("damaged"))
	require.Error(t, err)
}

func TestTime(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3601))
	got, err := DecodeTime(EncodeTime(at))
	require.NoError(t, err)
	require.True(t, got.Equal(at))
	require.Equal(t, EncodeTime(time.Time{}), EncodeTime(at.AddDate(20000, 0, 0)))
	_, err = DecodeTime("damaged")
	require.Error(t, err)
}

// TestPayloads sees to it that bodies of no bytes do not grow them for ever.
func TestPayloads(t *testing.T) {
	payloads := NewPayloads()
	for i := range 20_000 {
		payloads.Keep(map[BodyOf]*outhook.Payload{{int64(i), "e"}: {}})
	}
	require.Positive(t, payloads.Len())
	require.LessOrEqual(t, payloads.Len(), maxPayloadBytes/payloadBytes)
}

func TestMemory(t *testing.T) {
	m := NewMemory[string, int](10, func(n int) int { return n })
	m.Keep(map[string]int{"a": 4, "b": 6})
	m.Keep(map[string]int{"a": 3}) // in place of the other
	m.Forget("b")
	m.Forget("c")
	m.Keep(map[string]int{"d": 7})
	a, _ := m.Find("a")
	d, _ := m.Find("d")
	require.Equal(t, []int{3, 7}, []int{a, d})
	m.Keep(map[string]int{"large": 11})
	_, ok := m.Find("large")
	require.False(t, ok)
	require.Equal(t, 2, m.Len(), "what is too large is no reason to forget")
	m.Keep(map[string]int{"e": 1})
	_, ok = m.Find("a")
	require.False(t, ok, "it was full")
	_, ok = m.Find("e")
	require.True(t, ok)
}
