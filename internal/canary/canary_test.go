package canary

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

func TestShows(t *testing.T) {
	for _, key := range NewSecrets().Keys {
		secret := key.Secret.Reveal()
		texts := []string{secret}
		if _, encoded, ok := strings.Cut(secret, "_"); ok {
			b, err := base64.StdEncoding.DecodeString(encoded)
			require.NoError(t, err)
			texts = append(texts, encoded, string(b))
		}
		for _, text := range texts {
			for _, around := range []string{"", "x", "xy", "xyz"} {
				whole := []byte(around + text + "behind" + around)
				for _, shown := range []string{
					string(whole), hex.EncodeToString(whole), fmt.Sprintf("%X", whole), fmt.Sprint(whole), fmt.Sprintf("%v", struct{ b []byte }{whole}),
					base64.StdEncoding.EncodeToString(whole), base64.RawURLEncoding.EncodeToString(whole), escaped(whole),
					base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString(whole))), hex.EncodeToString([]byte(base64.StdEncoding.EncodeToString(whole))), fmt.Sprintf(`{"a":%q}`, hex.EncodeToString(whole)),
				} {
					require.True(t, Shows(shown, secret), "%q in %q", text, shown)
				}
			}
		}
		require.False(t, Shows(outhook.GenerateKey().Secret.Reveal(), secret))
		require.False(t, Shows(fmt.Sprintf("%v %+v %#v", key, key, key), secret))
	}
}

// TestFly shows that what comes out of a Dispatcher on a store in memory holds nothing.
func TestFly(t *testing.T) {
	for _, mode := range []Mode{Sealed, Directory, Plaintext} {
		t.Run(string(mode), func(t *testing.T) {
			f, err := Fly(t.Context(), outhook.NewMemoryStore(), mode)
			require.NoError(t, err)
			require.Empty(t, f.Found(f.Log), "%s", f.Log)
			require.Contains(t, f.Log, "subscriber=gone")
		})
	}
}

func TestKeep(t *testing.T) {
	require.NoError(t, Keep(t.Context(), outhook.NewMemoryStore()))
}
