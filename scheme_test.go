package outhook

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A schemeCase is a scheme with what its tests need to know.
type schemeCase struct {
	name      string // of Key.Scheme
	scheme    Scheme
	signature string // the header that has it
	timestamp string // the header that has the signed time, empty if none is signed
	id        string // the header that has the signed ID, empty if none is signed
	several   bool   // it signs with each key
	key       func() Key
}

func schemeCases() []schemeCase {
	text := func() Key { return Key{Secret: NewSecret(GenerateKey().Secret.Reveal())} }
	own := HMAC{Header: "x-acme-signature", Prefix: "v2:", Base64: true, Timestamp: "X-Acme-Time", ID: "X-Acme-ID", Content: "{id}/{timestamp}/{body}/end"}
	return []schemeCase{
		{"", StandardWebhooks{}, "Webhook-Signature", "Webhook-Timestamp", "Webhook-Id", true, GenerateKey},
		{"", StandardWebhooks{}, "Webhook-Signature", "Webhook-Timestamp", "Webhook-Id", true, GenerateEd25519Key},
		{"stripe", Stripe{}, "Stripe-Signature", "Stripe-Signature", "", true, text},
		{"github", GitHub(), "X-Hub-Signature-256", "", "", false, text},
		{"slack", Slack(), "X-Slack-Signature", "X-Slack-Request-Timestamp", "", false, text},
		{"shopify", Shopify(), "X-Shopify-Hmac-Sha256", "", "", false, text},
		{"own", own, "X-Acme-Signature", "X-Acme-Time", "X-Acme-Id", false, text},
		{"plain", HMAC{Header: "X-Signature"}, "X-Signature", "", "", false, text},
		{"timed", HMAC{Header: "X-Signature", Content: "{timestamp}.{body}"}, "X-Signature", "Webhook-Timestamp", "", false, text},
	}
}

// eachScheme runs a test for each scheme, with what is to sign and to verify: a key,
// and a Verifier that knows it.
func eachScheme(t *testing.T, test func(t *testing.T, c schemeCase, key Key, v *Verifier)) {
	for i, c := range schemeCases() {
		bubble(t, strconv.Itoa(i)+" "+c.name, func(t *testing.T) {
			key := c.key()
			key.Scheme = c.name
			test(t, c, key, c.verifier(t, key))
		})
	}
}

func (c *schemeCase) verifier(t *testing.T, keys ...Key) *Verifier {
	v := &Verifier{}
	if schemes()[c.name] == nil {
		v.Schemes = map[string]Scheme{c.name: c.scheme}
	}
	for _, key := range keys {
		if strings.HasPrefix(key.Secret.Reveal(), privatePrefix) && c.name == "" {
			public, err := key.Public()
			require.NoError(t, err)
			key = public
		}
		v.Keys = append(v.Keys, key)
	}
	return v
}

func (c *schemeCase) sign(t *testing.T, at time.Time, body string, keys ...Key) http.Header {
	t.Helper()
	header, err := c.scheme.Sign(t.Context(), Message{ID: "e", Time: at, Body: []byte(body)}, keys)
	require.NoError(t, err)
	return header
}

func TestSchemeVectors(t *testing.T) {
	for _, v := range vectors(t) {
		bubble(t, v.Scheme, func(t *testing.T) {
			name, header := "", "Webhook-Signature"
			for _, c := range schemeCases() {
				if c.name != "" && strings.HasPrefix(v.Scheme, c.name) {
					name, header = c.name, c.signature
				}
			}
			key := Key{Secret: NewSecret(v.Secret), Scheme: name}
			m := Message{ID: v.ID, Time: time.Unix(v.Timestamp, 0), Body: []byte(v.Body)}
			signed, err := schemes()[name].Sign(t.Context(), m, []Key{key})
			require.NoError(t, err)
			require.Equal(t, v.Signature, signed.Get(header))

			c := schemeCase{name: name}
			verifier := c.verifier(t, key)
			verifier.Tolerance = time.Since(m.Time).Abs()
			require.NoError(t, verifier.Verify(signed, m.Body))
			require.ErrorIs(t, verifier.Verify(signed, append(m.Body, ' ')), ErrSignature)
		})
	}
}

// TestStandardEd25519 checks v1a against crypto/ed25519, over the content as the
// specification writes it.
func TestStandardEd25519(t *testing.T) {
	key := GenerateEd25519Key()
	public, err := key.Public()
	require.NoError(t, err)
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(public.Secret.Reveal(), "whpk_"))
	require.NoError(t, err)
	header, err := StandardWebhooks{}.Sign(t.Context(), Message{ID: "msg_1", Time: time.Unix(1614265330, 0), Body: []byte("{}")}, []Key{key})
	require.NoError(t, err)
	signature, ok := strings.CutPrefix(header.Get("webhook-signature"), "v1a,")
	require.True(t, ok)
	sig, err := base64.StdEncoding.DecodeString(signature)
	require.NoError(t, err)
	require.True(t, ed25519.Verify(raw, []byte("msg_1.1614265330.{}"), sig))
	require.False(t, ed25519.Verify(raw, []byte("msg_1.1614265330.[]"), sig))
}

func TestSchemeRoundTrip(t *testing.T) {
	eachScheme(t, func(t *testing.T, c schemeCase, key Key, v *Verifier) {
		for _, body := range []string{"", "{}", "\x00\xff", `{"text":"grüße"}`, strings.Repeat("a", 256<<10)} {
			header := c.sign(t, time.Now(), body, key)
			require.NoError(t, v.Verify(header, []byte(body)))
			m, err := v.message(header, []byte(body))
			require.NoError(t, err)
			require.Equal(t, c.timestamp == "", m.Time.IsZero())
			if len(body) > 0 {
				flipped := []byte(body)
				flipped[len(body)/2] ^= 1
				require.ErrorIs(t, v.Verify(header, flipped), ErrSignature)
			}
			require.ErrorIs(t, v.Verify(header, []byte(body+" ")), ErrSignature)
		}
	})
}

func TestSchemeKeys(t *testing.T) {
	eachScheme(t, func(t *testing.T, c schemeCase, key Key, _ *Verifier) {
		old := c.key()
		old.Scheme = c.name
		header := c.sign(t, time.Now(), "b", key, old)
		require.NoError(t, c.verifier(t, key).Verify(header, []byte("b")))
		require.NoError(t, c.verifier(t, old, key).Verify(header, []byte("b")))
		require.Equal(t, c.several, c.verifier(t, old).Verify(header, []byte("b")) == nil)
		other := c.key()
		other.Scheme = c.name
		require.ErrorIs(t, c.verifier(t, other).Verify(header, []byte("b")), ErrSignature)

		expired := key
		expired.Expires = time.Now()
		require.ErrorIs(t, c.verifier(t, expired).Verify(header, []byte("b")), ErrSignature)

		malformed := Key{Scheme: c.name}
		err := c.verifier(t, malformed).Verify(header, []byte("b"))
		require.ErrorIs(t, err, ErrKey)
		_, err = c.scheme.Sign(t.Context(), Message{ID: "e"}, []Key{malformed})
		require.ErrorIs(t, err, ErrKey)
	})
}

// A header or time that is not as it was signed, or that parsers might read in two
// ways, is refused.
func TestSchemeHeaders(t *testing.T) {
	eachScheme(t, func(t *testing.T, c schemeCase, key Key, v *Verifier) {
		good := c.sign(t, time.Now(), "b", key)
		require.NoError(t, v.Verify(good, []byte("b")))
		names := map[string]bool{c.signature: true, c.timestamp: true, c.id: true}
		delete(names, "")
		for name := range names {
			value := good.Get(name)
			require.NotEmpty(t, value, name)
			for why, values := range map[string][]string{
				"missing": nil, "empty": {""}, "twice": {value, value}, "two different ones": {value, "x"}, "garbage": {"\x00"},
			} {
				header := good.Clone()
				header[http.CanonicalHeaderKey(name)] = values
				err := v.Verify(header, []byte("b"))
				if name == c.id && why == "garbage" || name == "Webhook-Signature" && why == "garbage" {
					require.ErrorIs(t, err, ErrSignature, "%s %s", name, why)
				} else {
					require.ErrorIs(t, err, ErrHeader, "%s %s", name, why)
				}
			}
		}
		for i := range []byte(good.Get(c.signature)) { // every bit of the signature's text
			for bit := range 8 {
				header := good.Clone()
				flipped := []byte(good.Get(c.signature))
				flipped[i] ^= 1 << bit
				header.Set(c.signature, string(flipped))
				if err := v.Verify(header, []byte("b")); err == nil {
					require.True(t, strings.EqualFold(string(flipped), good.Get(c.signature)), "%q: no hex in capitals", flipped)
				}
			}
		}
		if c.id != "" {
			header := good.Clone()
			header.Set(c.id, "f")
			require.ErrorIs(t, v.Verify(header, []byte("b")), ErrSignature)
		}
	})
}

func TestSchemeTimes(t *testing.T) {
	eachScheme(t, func(t *testing.T, c schemeCase, key Key, v *Verifier) {
		for name, at := range map[string]time.Time{
			"past":   time.Now().Add(-6 * time.Minute),
			"future": time.Now().Add(6 * time.Minute),
			"zero":   time.Unix(0, 0),
		} {
			err := v.Verify(c.sign(t, at, "b", key), []byte("b"))
			if c.timestamp == "" {
				require.NoError(t, err, name)
			} else {
				require.ErrorIs(t, err, ErrTimestamp, name)
			}
		}
		if c.timestamp == "" {
			return
		}
		good := c.sign(t, time.Now(), "b", key)
		now := strconv.FormatInt(time.Now().Unix(), 10)
		require.Contains(t, good.Get(c.timestamp), now)
		for _, odd := range []string{
			"9223372036854775808", "99999999999999999999999", "-9223372036854775809", // overflow
			"+" + now, "0" + now, now + ".0", now + "e0", " " + now, "0x" + now, "１", "",
		} {
			header := good.Clone()
			header.Set(c.timestamp, strings.Replace(good.Get(c.timestamp), now, odd, 1))
			require.ErrorIs(t, v.Verify(header, []byte("b")), ErrHeader, odd)
		}
		for _, far := range []string{"9223372036854775807", "-9223372036854775808", "-62135596801", now + "000"} {
			header := good.Clone()
			header.Set(c.timestamp, strings.Replace(good.Get(c.timestamp), now, far, 1))
			require.ErrorIs(t, v.Verify(header, []byte("b")), ErrTimestamp, far)
		}
	})
}

func TestSchemeManySignatures(t *testing.T) {
	eachScheme(t, func(t *testing.T, c schemeCase, key Key, v *Verifier) {
		if !c.several {
			return
		}
		good := c.sign(t, time.Now(), "b", key)
		separator, one := " ", good.Get(c.signature)
		if c.name == "stripe" {
			separator, one = ",", good.Get(c.signature)[strings.Index(good.Get(c.signature), ",")+1:]
		}
		for n, want := range map[int]error{15: nil, 16: ErrHeader} { // besides the good one
			header := good.Clone()
			header.Set(c.signature, good.Get(c.signature)+strings.Repeat(separator+one, n))
			require.ErrorIs(t, v.Verify(header, []byte("b")), want, n)
		}
	})
}

// TestSchemeConfusion signs with what an attacker knows: a public key must not become
// the secret of an HMAC, nor a signature of one scheme or version pass for another's.
func TestSchemeConfusion(t *testing.T) {
	bubble(t, "public key as a secret", func(t *testing.T) {
		private := GenerateEd25519Key()
		public, err := private.Public()
		require.NoError(t, err)
		raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(public.Secret.Reveal(), "whpk_"))
		require.NoError(t, err)
		v := &Verifier{Keys: []Key{public}}
		header := signedBy(t, time.Now(), "b", private)
		require.NoError(t, v.Verify(header, []byte("b")))
		for _, secret := range [][]byte{raw, []byte(public.Secret.Reveal()), []byte(strings.TrimPrefix(public.Secret.Reveal(), "whpk_"))} {
			h := hmac.New(sha256.New, secret)
			h.Write([]byte("e." + header.Get("webhook-timestamp") + ".b"))
			for _, version := range []string{"v1,", "v1a,", ""} {
				header.Set("webhook-signature", version+base64.StdEncoding.EncodeToString(h.Sum(nil)))
				require.ErrorIs(t, v.Verify(header, []byte("b")), ErrSignature)
			}
		}
		forged := signedBy(t, time.Now(), "b", Key{Secret: NewSecret("whsec_" + base64.StdEncoding.EncodeToString(raw))})
		require.ErrorIs(t, v.Verify(forged, []byte("b")), ErrSignature)
	})
	bubble(t, "version", func(t *testing.T) {
		symmetric, private := GenerateKey(), GenerateEd25519Key()
		public, err := private.Public()
		require.NoError(t, err)
		v := &Verifier{Keys: []Key{symmetric, public}}
		header := signedBy(t, time.Now(), "b", symmetric, private)
		list := strings.Split(header.Get("webhook-signature"), " ")
		require.Len(t, list, 2)
		require.True(t, strings.HasPrefix(list[0], "v1,"))
		require.True(t, strings.HasPrefix(list[1], "v1a,"))
		for value, want := range map[string]error{
			list[0]: nil, list[1]: nil, list[1] + " " + list[0]: nil,
			"v1a," + list[0][3:]: ErrSignature, "v1," + list[1][4:]: ErrSignature,
			"v2," + list[0][3:]: ErrSignature, "V1," + list[0][3:]: ErrSignature, list[0][3:]: ErrSignature,
		} {
			header.Set("webhook-signature", value)
			require.ErrorIs(t, v.Verify(header, []byte("b")), want, value)
		}
	})
	bubble(t, "scheme", func(t *testing.T) {
		secret := NewSecret(GenerateKey().Secret.Reveal())
		all := http.Header{}
		for name, scheme := range schemes() {
			header, err := scheme.Sign(t.Context(), Message{ID: "e", Time: time.Now(), Body: []byte("b")}, []Key{{Secret: secret}})
			require.NoError(t, err)
			maps.Copy(all, header)
			for other := range schemes() {
				v := &Verifier{Keys: []Key{{Secret: secret, Scheme: other}}}
				if err := v.Verify(header, []byte("b")); name == other {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, ErrHeader)
				}
			}
		}
		for name := range schemes() { // all on one request
			require.NoError(t, (&Verifier{Keys: []Key{{Secret: secret, Scheme: name}}}).Verify(all, []byte("b")))
		}
	})
	bubble(t, "private key without its public half", func(t *testing.T) {
		private := []byte(nil)
		private, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(GenerateEd25519Key().Secret.Reveal(), "whsk_"))
		require.NoError(t, err)
		private[63] ^= 1
		_, err = ParseKey("whsk_" + base64.StdEncoding.EncodeToString(private))
		require.ErrorIs(t, err, ErrKey)
	})
	bubble(t, "public key signs nothing", func(t *testing.T) {
		public, err := GenerateEd25519Key().Public()
		require.NoError(t, err)
		_, err = StandardWebhooks{}.Sign(t.Context(), Message{ID: "e"}, []Key{public})
		require.ErrorIs(t, err, ErrKey)
		d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
		_, err = d.Send(t.Context(), Event{Type: "x"}, []Subscriber{{ID: "a", URL: "https://a.example.com", Keys: []Key{public}}})
		require.EqualError(t, err, `outhook: subscriber "a": Keys[0]: a public key cannot sign`)
		require.ErrorIs(t, err, ErrKey)
		_, err = GenerateKey().Public()
		require.ErrorIs(t, err, ErrKey)
	})
}

// TestSchemesTogether sends with all schemes at once, as while a receiver migrates,
// and across a store that keeps the keys.
func TestSchemesTogether(t *testing.T) {
	bubble(t, "together", func(t *testing.T) {
		own := HMAC{Header: "X-Own", Content: "{timestamp}{body}"}
		w := &wire{answer: status(204)}
		store := newRows()
		d := dispatcher(t, store, w, Options{Signers: map[string]Signer{"own": own}, StoreKeysInPlaintext: true})
		s := subscriber("a")
		s.Keys = append(s.Keys, GenerateEd25519Key())
		for _, scheme := range []string{"github", "own", "shopify", "slack", "stripe"} {
			s.Keys = append(s.Keys, Key{Secret: NewSecret("a secret of " + scheme), Scheme: scheme})
		}
		send(t, d, "e", s)
		_, err := d.Drain(t.Context())
		require.NoError(t, err)
		calls := w.to("")
		require.Len(t, calls, 1)
		for _, key := range s.Keys {
			c := schemeCase{name: key.Scheme}
			v := c.verifier(t, key)
			v.Schemes = map[string]Scheme{"own": own}
			require.NoError(t, v.Verify(calls[0].header, []byte(calls[0].body)), key.Scheme)
		}
		require.Equal(t, "e", calls[0].header.Get("X-GitHub-Delivery"))
		require.Equal(t, "e", calls[0].header.Get("X-Shopify-Webhook-Id"))
	})
}

func TestSchemeHeadersAreReserved(t *testing.T) {
	own := HMAC{Header: "X-Own", ID: "X-Own-ID"}
	d := dispatcher(t, NewMemoryStore(), &wire{}, Options{Signers: map[string]Signer{"own": own}})
	with := func(scheme, name string) error {
		s := subscriber("a")
		s.Keys = append(s.Keys, Key{Secret: NewSecret("x"), Scheme: scheme})
		s.Header = http.Header{name: {"x"}}
		_, err := d.Send(t.Context(), Event{Type: "x"}, []Subscriber{s})
		return err
	}
	for scheme, names := range map[string][]string{
		"own":    {"x-own", "X-Own-Id"},
		"stripe": {"stripe-signature"},
		"slack":  {"X-Slack-Signature", "X-SLACK-REQUEST-TIMESTAMP"},
		"github": {"X-Hub-Signature-256", "X-GitHub-Delivery"},
	} {
		for _, name := range names {
			require.EqualError(t, with(scheme, name), `outhook: subscriber "a": Header: `+http.CanonicalHeaderKey(name)+` belongs to the signature`)
		}
	}
	require.NoError(t, with("stripe", "X-Own"), "of a scheme that is not in use")

	s := subscriber("b")
	s.Keys[0].Scheme, s.Keys[0].Secret = "own", NewSecret("x")
	_, err := d.Send(t.Context(), Event{Type: "x", Payload: &Payload{Header: http.Header{"X-Own": {"x"}}}}, []Subscriber{s})
	require.EqualError(t, err, `outhook: subscriber "b": Payload.Header: X-Own belongs to the signature`)
}

func TestHMACFaults(t *testing.T) {
	for want, h := range map[string]HMAC{
		`its Header "" is no header name`:                      {},
		`its Header "X A" is no header name`:                   {Header: "X A"},
		`its Timestamp "é" is no header name`:                  {Header: "X", Timestamp: "é"},
		`its ID "a:b" is no header name`:                       {Header: "X", ID: "a:b"},
		`its Prefix "a\nb" is no header value`:                 {Header: "X", Prefix: "a\nb"},
		`its Content "{timestamp}" does not have {body} once`:  {Header: "X", Content: "{timestamp}"},
		`its Content "{body}{body}" does not have {body} once`: {Header: "X", Content: "{body}{body}"},
	} {
		_, err := New(NewMemoryStore(), &Options{Signers: map[string]Signer{"x": h}})
		require.EqualError(t, err, `outhook: Options.Signers: of that of "x", `+want)
	}
	d := dispatcher(t, NewMemoryStore(), &wire{}, Options{})
	for _, scheme := range []string{"github", "shopify", "slack", "stripe"} {
		s := subscriber("a")
		s.Keys = []Key{{Scheme: scheme}}
		_, err := d.Send(t.Context(), Event{Type: "x"}, []Subscriber{s})
		require.EqualError(t, err, `outhook: subscriber "a": Keys[0]: the secret is empty`)
		require.ErrorIs(t, err, ErrKey)
	}
}

// A signer may have methods of its own that panic.
type panickingChecker struct{ Signer }

func (panickingChecker) CheckKey(Key) error { panic("canary") }

func TestSignerCheckPanics(t *testing.T) {
	d := dispatcher(t, NewMemoryStore(), &wire{}, Options{Signers: map[string]Signer{"x": panickingChecker{}}})
	s := subscriber("a")
	s.Keys[0].Scheme = "x"
	_, err := d.Send(context.Background(), Event{Type: "x"}, []Subscriber{s})
	require.EqualError(t, err, `outhook: subscriber "a": Keys[0]: panic in the signer`)
}

func TestSchemeNames(t *testing.T) {
	require.Equal(t, []string{"", "github", "shopify", "slack", "stripe"}, slices.Sorted(maps.Keys(schemes())))
}
