package pgxstore

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

func TestEncodeAttempts(t *testing.T) {
	list := []outhook.Attempt{
		{},
		{
			Number: 3, Replay: 2, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Duration: 7, Status: 500, RetryAfter: 8,
			Error:  "any \x00 \xff <&> \u2028 bytes",
			Header: http.Header{"A": {"", "\xff\x00"}, "\xfe": {"x"}}, Body: []byte{0, 0xff, '"'},
		},
		{Header: http.Header{}, Body: []byte{}},
	}
	data, err := encodeAttempts(list)
	require.NoError(t, err)
	got, err := decodeAttempts(data)
	require.NoError(t, err)
	require.Equal(t, list, got)

	data, err = encodeAttempts([]outhook.Attempt{{Time: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)}})
	require.NoError(t, err, "an outcome can always be stored")
	got, err = decodeAttempts(data)
	require.NoError(t, err)
	require.Zero(t, got[0].Time)

	data, err = encodeAttempts(nil)
	require.NoError(t, err)
	require.Nil(t, data)
}
