//go:build linux

package hostile_test

import (
	"testing"
	"time"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
)

// A public address that cannot be reached for a while is tried again, though
// the name also has an address that is refused.
func TestURLsMixedOutOfReach(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		for _, tag := range []string{"A=93.184.216.34", "A=93.184.216.34,127.0.0.1", "A=93.184.216.34,10.0.0.1", "A=93.184.216.34 AAAA=::1", "A=127.0.0.1 AAAA=2a00:1450:4001::1"} {
			t.Run(tag, func(t *testing.T) {
				w.names.answer("mixed.example.com", false, parseAnswers(t, tag)...)
				w.forget()
				d := urlDispatcher(t, outhook.Options{Guard: outhook.Guard{PlainHTTP: true}, Retry: outhook.Schedule(time.Hour)})
				r, err := deliverTo(t, d, customerAt("http://mixed.example.com:81/")) // nobody listens there
				require.NoError(t, err)
				require.Equal(t, outhook.Pending, r.State, "%+v", r.Attempts)
				require.Equal(t, 1, w.attempted(), "the public address alone")
			})
		}
	})
}
