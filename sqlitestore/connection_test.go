package sqlitestore

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestScan is of the values of a row, each for what it can be read to and for what not.
func TestScan(t *testing.T) {
	s := newStore(t)
	one := func(value string, dest any) (err error) {
		require.NoError(t, s.writer.do(t.Context(), func(tr *transaction) error {
			_, err = tr.one("select "+value, nil, dest)
			return nil
		}))
		return err
	}
	seven, number, text, yes := 7, int64(7), "text", true
	toNumber, toText, toYes := &number, &text, &yes
	for _, test := range []struct {
		value      string
		dest, want any // nil: it is refused
	}{
		{"7", new(int64), &number},
		{"7", new(int), &seven},
		{"7", new(bool), &yes},
		{"0", new(bool), new(bool)},
		{"7", new(*int64), &toNumber},
		{"7", new(*bool), &toYes},
		{"'text'", new(string), &text},
		{"'text'", new(*string), &toText},
		{"x'01'", new([]byte), &[]byte{1}},
		{"null", new([]byte), new([]byte)},
		{"null", new(*int64), new(*int64)},
		{"null", new(*string), new(*string)},
		{"null", new(*bool), new(*bool)},
		{"null", new(int64), nil},
		{"null", new(int), nil},
		{"null", new(bool), nil},
		{"null", new(string), nil},
		{"'7'", new(int64), nil},
		{"'7'", new(*int64), nil},
		{"7.0", new(int), nil},
		{"7", new(string), nil},
		{"7", new(*string), nil},
		{"'text'", new(*bool), nil},
		{"'text'", new([]byte), nil},
		{"7", new(float64), nil},
	} {
		err := one(test.value, test.dest)
		if test.want == nil {
			require.Error(t, err, "%s for %T", test.value, test.dest)
			continue
		}
		require.NoError(t, err, "%s for %T", test.value, test.dest)
		require.Equal(t, test.want, test.dest, "%s for %T", test.value, test.dest)
	}
}
