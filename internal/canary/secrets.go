// Package canary lets secrets that are easy to recognise go through a Dispatcher on a
// durable store, and looks for them in what is left behind. It is for the tests of
// stores.
package canary

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/outhook/outhook"
)

// Secrets are those of one test, which no other test has.
type Secrets struct {
	Keys   []outhook.Key // symmetric, asymmetric, and of another scheme
	Query  string        // a token in a URL
	Header string        // a token in a header
}

// NewSecrets makes them at random.
func NewSecrets() *Secrets {
	token := func(name string) string { return "canary-" + name + "-" + rand.Text() }
	return &Secrets{
		Keys: []outhook.Key{
			outhook.GenerateKey(),
			outhook.GenerateEd25519Key(),
			{Secret: outhook.NewSecret(token("stripe")), Scheme: "stripe"},
		},
		Query:  token("query"),
		Header: token("header"),
	}
}

// Found names the secrets that a text shows, in whatever form.
func (s *Secrets) Found(text string) (found []string) {
	see := func(name, secret string) {
		if Shows(text, secret) {
			found = append(found, name)
		}
	}
	for i, key := range s.Keys {
		see(fmt.Sprintf("key %d", i), key.Secret.Reveal())
	}
	see("query", s.Query)
	see("header", s.Header)
	return found
}

// Shows reports whether a text shows a secret: its characters or, of a key of Standard
// Webhooks, its bytes; as they are, in hex, in base64 of any kind, within something
// longer or not, escaped, or as fmt prints bytes.
func Shows(text, secret string) bool {
	return slices.ContainsFunc(forms(secret), func(form string) bool { return strings.Contains(text, form) })
}

func forms(secret string) (list []string) {
	texts := []string{secret}
	if prefix, encoded, ok := strings.Cut(secret, "_"); ok {
		if b, err := base64.StdEncoding.DecodeString(encoded); err == nil {
			texts = append(texts, encoded, string(b))
			if prefix == "whsk" { // its seed is all of it
				texts = append(texts, string(b[:32]))
			}
		}
	}
	for _, text := range texts {
		b := []byte(text)
		quoted, _ := json.Marshal(text)
		list = append(list, strings.Trim(string(quoted), `"`), escaped(b), url.QueryEscape(text),
			strings.Trim(fmt.Sprint(b), "[]"), fmt.Sprintf("% x", b))
		for _, once := range append(encodings(text), text) {
			list = append(list, once)
			list = append(list, encodings(once)...) // bytes within JSON, and that in a dump, say
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// encodings are the characters that all hex and all base64 have of a text, the latter
// at each of the three places where it can begin.
func encodings(text string) []string {
	digits := hex.EncodeToString([]byte(text))
	list := []string{digits, strings.ToUpper(digits)}
	for offset, begin := range []int{0, 2, 3} {
		padded := append(bytes.Repeat([]byte{0}, offset), text...)
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			// What is behind the last three bytes that are complete depends on what follows.
			list = append(list, encoding.EncodeToString(padded)[begin:len(padded)/3*4])
		}
	}
	return list
}

// escaped is how PostgreSQL's format "escape" and pg_dump show bytes.
func escaped(b []byte) string {
	var out strings.Builder
	for _, c := range b {
		switch {
		case c == '\\':
			out.WriteString(`\\`)
		case c == 0 || c >= 0x80:
			fmt.Fprintf(&out, `\%03o`, c)
		default:
			out.WriteByte(c)
		}
	}
	return out.String()
}
