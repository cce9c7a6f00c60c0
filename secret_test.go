package outhook

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// forms returns how a secret might look in some text: its characters and, if
// it is of Standard Webhooks, its bytes; each raw, in hex, in base64, and as fmt
// prints a slice of bytes.
func forms(secret string) (list []string) {
	texts := []string{secret}
	if k, err := decodeKey(secret); err == nil {
		decoded := k.hmac
		switch {
		case k.private != nil:
			decoded = k.private
		case k.public != nil:
			decoded = k.public
		}
		_, encoded, _ := strings.Cut(secret, "_")
		texts = append(texts, encoded, string(decoded))
	}
	for _, text := range texts {
		b := []byte(text)
		list = append(list,
			text,
			hex.EncodeToString(b),
			strings.ToUpper(hex.EncodeToString(b)),
			base64.RawStdEncoding.EncodeToString(b),
			base64.RawURLEncoding.EncodeToString(b),
			strings.Trim(fmt.Sprint(b), "[]"),                  // 115 101 …
			strings.TrimSuffix(fmt.Sprintf("%#v", b)[7:], "}"), // 0x73, 0x65, …
			fmt.Sprintf("% x", b),
		)
	}
	return list
}

// requireHidden fails if a text shows one of the secrets in any form.
func requireHidden(t *testing.T, text string, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		for _, form := range forms(secret) {
			if strings.Contains(text, form) {
				require.Failf(t, "a secret shows", "%q in %.2000q", form, text)
			}
		}
	}
}

func TestRequireHidden(t *testing.T) {
	for _, shown := range []string{"%s", "%q", "%x", "%X", "% x"} {
		require.Contains(t, forms("secret"), strings.Trim(fmt.Sprintf(shown, "secret"), `"`))
	}
	for _, shown := range []string{"%v", "%#v", "%d"} {
		text := fmt.Sprintf(shown, struct{ b []byte }{[]byte("secret")})
		require.True(t, strings.Contains(text, forms("secret")[5]) || strings.Contains(text, forms("secret")[6]), text)
	}
}

var verbs = []string{
	"%v", "%+v", "%#v", "%s", "%q", "%+q", "%#q", "%x", "%X", "% x", "%#x", "%d", "%t", "%p", "%c", "%U", "%b", "%o", "%O",
	"%e", "%E", "%f", "%g", "%G", "%T", "%w", "%100v", "%-100s", "%.3s", "%z",
}

// opaqueSecret is a caller's struct, past whose unexported fields fmt calls no method.
type opaqueSecret struct {
	secret  Secret
	pointer *Secret
	key     Key
	keyAt   *Key
	keys    []Key
	pair    [1]Key
	byName  map[string]Key
	secrets map[string]*Secret
	boxed   any
	nested  struct{ s Secret }
	sub     Subscriber
}

const testSecret = "whsec_dGhlc2UgYXJlIDI1IHNlY3JldCBieXRlcw==" // "these are 25 secret bytes"

func secretHolders() map[string]any {
	s, key := NewSecret(testSecret), Key{Secret: NewSecret(testSecret), Scheme: "x"}
	o := opaqueSecret{
		secret: s, pointer: &s, key: key, keyAt: &key, keys: []Key{key}, pair: [1]Key{key},
		byName: map[string]Key{"a": key}, secrets: map[string]*Secret{"a": &s}, boxed: s,
		nested: struct{ s Secret }{s}, sub: Subscriber{Keys: []Key{key}},
	}
	return map[string]any{
		"Secret": s, "*Secret": &s, "Key": key, "*Key": &key, "[]Key": []Key{key},
		"map":        map[string]Secret{"a": s},
		"Subscriber": Subscriber{Keys: []Key{key}}, "*Subscriber": &Subscriber{Keys: []Key{key}},
		"Verifier": Verifier{Keys: []Key{key}}, "*Verifier": &Verifier{Keys: []Key{key}},
		"unexported": o, "pointer to unexported": &o,
	}
}

func TestSecretDoesNotFormat(t *testing.T) {
	for name, holder := range secretHolders() {
		t.Run(name, func(t *testing.T) {
			for _, verb := range verbs {
				requireHidden(t, fmt.Sprintf(verb, holder), testSecret)
			}
			requireHidden(t, fmt.Sprint(holder)+fmt.Sprintln(holder), testSecret)
		})
	}
}

func TestSecretFormat(t *testing.T) {
	s := NewSecret(testSecret)
	for _, verb := range verbs {
		if verb == "%T" || verb == "%p" || verb == "%w" { // which fmt answers itself
			continue
		}
		require.Equal(t, redacted, fmt.Sprintf(verb, s), verb)
		require.Equal(t, redacted, fmt.Sprintf(verb, &s), verb)
	}
	require.Equal(t, redacted, s.String())
	require.Equal(t, redacted, fmt.Sprint(Secret{}), "an empty one looks the same")
	require.Equal(t, "{[redacted] x 0001-01-01 00:00:00 +0000 UTC}", fmt.Sprint(Key{Secret: s, Scheme: "x"}))
}

func TestSecretDoesNotLog(t *testing.T) {
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			logger := slog.New(handler(&b))
			for name, holder := range secretHolders() {
				logger.Info("x", name, holder, slog.Group("g", name, holder))
			}
			requireHidden(t, b.String(), testSecret)
			require.Contains(t, b.String(), redacted)

			b.Reset()
			logger.Info("x", "secret", NewSecret(testSecret))
			require.Contains(t, b.String(), redacted)
		})
	}
}

func TestSecretDoesNotMarshal(t *testing.T) {
	for name, holder := range secretHolders() {
		t.Run(name, func(t *testing.T) {
			text, _ := json.Marshal(holder) // a Subscriber has a func: an error
			requireHidden(t, string(text), testSecret)
		})
	}
	text, err := json.Marshal(Key{Secret: NewSecret(testSecret)})
	require.NoError(t, err)
	require.JSONEq(t, `{"Secret":"[redacted]","Scheme":"","Expires":"0001-01-01T00:00:00Z"}`, string(text))
}

func TestSecretUnmarshal(t *testing.T) {
	var key Key
	require.NoError(t, json.Unmarshal([]byte(`{"Secret":"`+testSecret+`"}`), &key))
	require.Equal(t, testSecret, key.Secret.Reveal())

	text, err := json.Marshal(key)
	require.NoError(t, err)
	err = json.Unmarshal(text, &key)
	require.ErrorContains(t, err, "the text is the redacted form")
	require.Equal(t, testSecret, key.Secret.Reveal(), "it is left as it was")
}

func TestSecretReveal(t *testing.T) {
	require.Equal(t, "a", NewSecret("a").Reveal())
	require.Empty(t, Secret{}.Reveal())
	require.Empty(t, NewSecret("").Reveal())
}
