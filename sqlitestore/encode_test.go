package sqlitestore

import (
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

func TestEncodeAttempts(t *testing.T) {
	for name, a := range map[string]outhook.Attempt{
		"the zero one": {},
		"all fields": {
			Number: 2, Replay: 3, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Duration: time.Second + 1,
			Status: 500, RetryAfter: time.Minute, Error: "status 500",
			Header: http.Header{"Content-Type": {"text/plain"}, "X-Two": {"a", "b"}}, Body: []byte("no"),
		},
		"bytes that are not UTF-8":  {Error: "a\x00\xff\u2028", Header: http.Header{"X": {"\xe4\xf6\xfc", `["YQ=="]`}}, Body: []byte{0, 0xff}},
		"kept, but empty":           {Header: http.Header{}, Body: []byte{}},
		"a header without a value":  {Header: http.Header{"X": {}}},
		"instants beyond the range": {Time: time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC), Duration: math.MaxInt64, RetryAfter: math.MinInt64},
	} {
		t.Run(name, func(t *testing.T) {
			stored, err := encodeAttempts([]outhook.Attempt{a, {Number: 1}})
			require.NoError(t, err)
			got, err := decodeAttempts(stored.(string))
			require.NoError(t, err)
			require.Equal(t, []outhook.Attempt{a, {Number: 1}}, got)
		})
	}
}

func TestLater(t *testing.T) {
	now := time.Now().UnixNano()
	require.Equal(t, now, later(now, -time.Hour))
	require.Equal(t, now+1, later(now, 1))
	require.EqualValues(t, never, later(now, math.MaxInt64))
	require.EqualValues(t, never, instantOf(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)))
	require.Equal(t, now, instantOf(timeOf(now)))
}
