package outhook

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A vector is a known answer of testdata/signature-vectors.json.
type vector struct {
	Scheme, Secret, ID, Body, Signature string
	Timestamp                           int64
}

// vectors returns all of them.
func vectors(t *testing.T) []vector {
	text, err := os.ReadFile("testdata/signature-vectors.json")
	require.NoError(t, err)
	var file struct{ Vectors []vector }
	require.NoError(t, json.Unmarshal(text, &file))
	require.Len(t, file.Vectors, 4)
	return file.Vectors
}

// vectorsV1 returns those of Standard Webhooks with a symmetric key.
func vectorsV1(t *testing.T) []vector {
	list := slices.DeleteFunc(vectors(t), func(v vector) bool { return !strings.HasPrefix(v.Signature, "v1,") })
	require.NotEmpty(t, list)
	return list
}

func TestSignVectors(t *testing.T) {
	for _, v := range vectorsV1(t) {
		t.Run(v.Scheme, func(t *testing.T) {
			key, err := ParseKey(v.Secret)
			require.NoError(t, err)
			m := Message{ID: v.ID, Time: time.Unix(v.Timestamp, 999_999_999), Body: []byte(v.Body)}
			header, err := StandardWebhooks{}.Sign(t.Context(), m, []Key{key})
			require.NoError(t, err)
			require.Equal(t, http.Header{
				"Webhook-Id":        {"msg_p5jXN8AQM9LWM0D4loKWxJek"},
				"Webhook-Timestamp": {"1614265330"},
				"Webhook-Signature": {v.Signature},
			}, header)
		})
	}
}

func TestSignRotation(t *testing.T) {
	a, b := GenerateKey(), GenerateKey()
	m := Message{ID: "e", Time: time.Unix(1, 0), Body: []byte("b")}
	sign := func(keys ...Key) string {
		header, err := StandardWebhooks{}.Sign(t.Context(), m, keys)
		require.NoError(t, err)
		return header.Get("Webhook-Signature")
	}
	require.NotEqual(t, sign(a), sign(b))
	require.Equal(t, sign(a)+" "+sign(b), sign(a, b))
	require.Equal(t, sign(b)+" "+sign(a), sign(b, a))
}

func TestSignFaultyKey(t *testing.T) {
	_, err := StandardWebhooks{}.Sign(t.Context(), Message{ID: "e"}, []Key{GenerateKey(), {Secret: NewSecret("hidden")}})
	require.EqualError(t, err, "the secret does not begin with whsec_, whsk_ or whpk_")
}

// whsec returns a Standard Webhooks secret of n bytes.
func whsec(n int) string { return "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, n)) }

func TestParseKey(t *testing.T) {
	for _, test := range []struct {
		name, secret, want string
	}{
		{"23 bytes", whsec(23), "outhook: parse key: the secret has 23 bytes, not 24 to 64"},
		{"24 bytes", whsec(24), ""},
		{"64 bytes", whsec(64), ""},
		{"65 bytes", whsec(65), "outhook: parse key: the secret has 65 bytes, not 24 to 64"},
		{"empty", "", "outhook: parse key: the secret does not begin with whsec_, whsk_ or whpk_"},
		{"prefix alone", "whsec_", "outhook: parse key: the secret has 0 bytes, not 24 to 64"},
		{"no prefix", whsec(32)[6:], "outhook: parse key: the secret does not begin with whsec_, whsk_ or whpk_"},
		{"prefix in capitals", "WHSEC_" + whsec(32)[6:], "outhook: parse key: the secret does not begin with whsec_, whsk_ or whpk_"},
		{"space before", " " + whsec(32), "outhook: parse key: the secret does not begin with whsec_, whsk_ or whpk_"},
		{"private key of 32 bytes", "whsk_" + whsec(32)[6:], "outhook: parse key: the private key has 32 bytes, not 64"},
		{"halves that do not belong together", "whsk_" + whsec(64)[6:], "outhook: parse key: the halves of the private key do not belong together"},
		{"public key of 31 bytes", "whpk_" + whsec(31)[6:], "outhook: parse key: the public key has 31 bytes, not 32"},
		{"public key", "whpk_" + whsec(32)[6:], ""},
		{"no base64", "whsec_!!!!", "outhook: parse key: the secret behind whsec_ is not base64"},
		{"no padding", strings.TrimRight(whsec(32), "="), "outhook: parse key: the secret behind whsec_ is not base64"},
		{"base64url", "whsec_" + base64.URLEncoding.EncodeToString([]byte(strings.Repeat("\xff", 24))), "outhook: parse key: the secret behind whsec_ is not base64"},
	} {
		t.Run(test.name, func(t *testing.T) {
			key, err := ParseKey(test.secret)
			if test.want == "" {
				require.NoError(t, err)
				require.Equal(t, test.secret, key.Secret.Reveal())
				require.Empty(t, key.Scheme)
				require.True(t, key.Expires.IsZero())
				return
			}
			require.EqualError(t, err, test.want)
			require.Equal(t, Key{}, key)
		})
	}
}

func TestGenerateKey(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		secret := GenerateKey().Secret.Reveal()
		require.False(t, seen[secret])
		seen[secret] = true
		k, err := decodeKey(secret)
		require.NoError(t, err)
		require.Len(t, k.hmac, 32)
	}
}

func TestKeyLive(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, test := range []struct {
		name    string
		expires time.Time
		want    bool
	}{
		{"never", time.Time{}, true},
		{"later", now.Add(1), true},
		{"now", now, false},
		{"before", now.Add(-1), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, Key{Expires: test.expires}.live(now))
		})
	}
}

func TestCheckKeys(t *testing.T) {
	now := time.Unix(1000, 0)
	live, expired := GenerateKey(), GenerateKey()
	expired.Expires = now
	hub := Key{Secret: NewSecret("anything"), Scheme: "hub"}
	for _, test := range []struct {
		name     string
		keys     []Key
		unsigned bool
		want     string
	}{
		{"live", []Key{live}, false, ""},
		{"expired behind live", []Key{live, expired}, false, ""},
		{"own scheme", []Key{hub}, false, ""},
		{"unsigned", nil, true, ""},
		{"none", nil, false, `outhook: subscriber "s": Keys: there is no live key; set Unsigned for a receiver that needs none`},
		{"expired", []Key{expired}, false, `outhook: subscriber "s": Keys: there is no live key; set Unsigned for a receiver that needs none`},
		{"unsigned with key", []Key{live}, true, `outhook: subscriber "s": Unsigned: is set together with Keys`},
		{"unknown scheme", []Key{{Scheme: "no"}}, false, `outhook: subscriber "s": Keys[0]: its Scheme "no" is neither built in nor in Options.Signers`},
		{"faulty", []Key{live, {}}, false, `outhook: subscriber "s": Keys[1]: the secret does not begin with whsec_, whsk_ or whpk_`},
		{"16", slices.Repeat([]Key{live}, 16), false, ""},
		{"17", slices.Repeat([]Key{live}, 17), false, `outhook: subscriber "s": Keys: 17 keys are more than 16`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var f faults
			s := Subscriber{ID: "s", Keys: test.keys, Unsigned: test.unsigned}
			checkKeys(&s, map[string]Signer{"": StandardWebhooks{}, "hub": fixedSigner{}}, now, &f)
			if test.want == "" {
				require.NoError(t, f.err())
			} else {
				require.EqualError(t, f.err(), test.want)
			}
		})
	}
}

// TestStandardSignerIsReused: what a signer keeps for the next signature changes none.
func TestStandardSignerIsReused(t *testing.T) {
	ed := GenerateEd25519Key()
	target := &target{keys: []Key{testKey, ed}}
	target.prepare()
	verifiers := []Verifier{{Keys: []Key{testKey}}, {Keys: []Key{ed}}}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 50 {
				m := Message{ID: fmt.Sprintf("e%d-%d", i, j), Time: time.Now(), Body: bytes.Repeat([]byte("x"), j*7)}
				h := http.Header{}
				h.Set(headerID, m.ID)
				h.Set(headerTimestamp, m.timestamp())
				h.Set(headerSignature, joinV1(m, m.timestamp(), target.standard))
				for _, v := range verifiers {
					assert.NoError(t, v.Verify(h, m.Body))
				}
			}
		})
	}
	wg.Wait()
}
