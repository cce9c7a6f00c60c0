package outhook

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// fuzzGuards are the guards that the URL policy is fuzzed with.
func fuzzGuards() []Guard {
	return []Guard{
		{},
		{PlainHTTP: true},
		DevelopmentGuard(),
		{Ports: []uint16{443, 8443}, Deny: prefixes("93.184.216.0/24", "2001:4860::/32")},
		{
			Ports: []uint16{443},
			Allow: []Range{{Prefix: prefixes("10.0.0.0/8")[0], Ports: []uint16{8080}}, {Prefix: prefixes("fd00::/8")[0]}},
			Deny:  prefixes("10.1.0.0/16"),
			NAT64: prefixes("64:ff9b::/96", "2001:db8:64::/96"),
		},
	}
}

var (
	errDialled = errors.New("dialled")

	// What a resolver may read as a number, and with it the whole name as an address.
	numericLabel = regexp.MustCompile(`^(?i:[0-9]+|0x[0-9a-f]*)$`)
)

// dialled returns what net/http dials for a URL that was accepted.
func dialled(t *testing.T, u *url.URL) (host, port string) {
	t.Helper()
	var address string
	transport := &http.Transport{DialContext: func(_ context.Context, _, a string) (net.Conn, error) {
		address = a
		return nil, errDialled
	}}
	_, err := transport.RoundTrip(&newOutgoing(blank, &target{url: u}, nil).request)
	require.ErrorIs(t, err, errDialled)
	host, port, err = net.SplitHostPort(address)
	require.NoError(t, err)
	return host, port
}

// dialVerdict is what the dialer says of an address that is about to be used. The
// net package has unmapped it by then.
func dialVerdict(t *testing.T, guard Guard, addr netip.Addr, port uint16) error {
	t.Helper()
	network := "tcp4"
	if addr = addr.Unmap(); addr.Is6() {
		network = "tcp6"
	}
	return guard.dialer().ControlContext(t.Context(), network, netip.AddrPortFrom(addr, port).String(), nil)
}

// FuzzCheckURL: what is accepted is what net/http calls, in a form that was judged:
// an address only if the dialer would take it, and no name that could be read as one.
func FuzzCheckURL(f *testing.F) {
	for _, row := range ssrfRows(f) {
		f.Add(row.url)
	}
	for _, host := range []string{
		"127。0。0。1", "①②⑦.⓪.⓪.①", "１２７.1", "0x7f.1", "0x", "127.0.0.1.", "[::1%25lo]", "[::ffff:7f00:1]", "[::1].", "[[::1]]",
		"xn--", "xn--a", "loc\u00adalhost", "ﬀ.example", "a..b", "-a-.example", "ß.example", "\u202e.example", "example.com:0443", "％41.example",
	} {
		f.Add("https://" + host + "/")
		f.Add("http://" + host + ":8080")
	}
	guards := fuzzGuards()
	f.Fuzz(func(t *testing.T, raw string) {
		for _, guard := range guards {
			u, err := guard.CheckURL(raw)
			if err != nil {
				require.ErrorIs(t, err, ErrBlocked)
				require.True(t, utf8.ValidString(err.Error()))
				require.Nil(t, u)
				continue
			}
			require.True(t, u.Scheme == "https" || guard.PlainHTTP && u.Scheme == "http", u.Scheme)
			require.Nil(t, u.User)
			require.Empty(t, u.Fragment)
			require.LessOrEqual(t, len(u.String()), maxURL)

			host, port := dialled(t, u)
			require.Equal(t, u.Hostname(), host)
			number, err := strconv.ParseUint(port, 10, 16)
			require.NoError(t, err)
			require.NotZero(t, number)
			if addr, err := netip.ParseAddr(host); err == nil {
				require.NoError(t, dialVerdict(t, guard, addr, uint16(number)))
			} else {
				labels := strings.Split(strings.TrimSuffix(host, "."), ".")
				require.NotRegexp(t, numericLabel, labels[len(labels)-1])
				require.NotContains(t, host, ":")
			}

			again, err := guard.CheckURL(u.String()) // as vet does with what came from a store
			require.NoError(t, err)
			require.Equal(t, u.String(), again.String())
		}
	})
}

// FuzzLiteral: of an address in a URL, however it is spelled, the policy says what
// the dialer would. None that is by the standard library's lights not public is taken.
func FuzzLiteral(f *testing.F) {
	for _, row := range ssrfRows(f) {
		if u, err := url.Parse(row.url); err == nil {
			if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
				f.Add(addr.AsSlice(), uint16(443))
			}
		}
	}
	for _, s := range []string{"10.0.0.1", "10.1.0.1", "93.184.216.34", "::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::a00:1", "64:ff9b::a01:1", "64:ff9b::808:808", "64:ff9b::7f00:1", "2001:db8:64::808:808", "fd00::1", "2002:a00:1::", "2001:0:a00:1::", "fec0::1", "ff02::1", "3fff:ffff::1"} {
		f.Add(netip.MustParseAddr(s).AsSlice(), uint16(0))
		f.Add(netip.MustParseAddr(s).AsSlice(), uint16(443))
		f.Add(netip.MustParseAddr(s).AsSlice(), uint16(8080))
	}
	guards := fuzzGuards()
	f.Fuzz(func(t *testing.T, address []byte, port uint16) {
		addr, ok := netip.AddrFromSlice(address)
		if !ok {
			return
		}
		hosts := []string{addr.String()}
		switch {
		case addr.Is4():
			b := addr.As4()
			hosts = append(hosts, "[::ffff:"+addr.String()+"]", fmt.Sprintf("[0:0:0:0:0:FFFF:%X%02X:%x%02x]", b[0], b[1], b[2], b[3]))
		case addr.Is6():
			hosts = []string{"[" + addr.String() + "]", "[" + addr.StringExpanded() + "]", "[" + strings.ToUpper(addr.StringExpanded()) + "]"}
		}
		for _, guard := range guards {
			want := dialVerdict(t, guard, addr, port)
			for _, host := range hosts {
				u, err := guard.CheckURL("https://" + host + ":" + strconv.Itoa(int(port)) + "/")
				if port == 0 {
					require.ErrorIs(t, err, ErrBlocked)
					continue
				}
				require.Equal(t, want == nil, err == nil, "%s: %v at the URL, %v at the dial", host, err, want)
				if err == nil {
					dialled, _ := dialled(t, u)
					again, err := netip.ParseAddr(strings.TrimSuffix(dialled, "."))
					require.NoError(t, err)
					require.Equal(t, addr.Unmap(), again.Unmap())
				}
			}
		}
		plain := addr.Unmap()
		if plain.IsPrivate() || plain.IsLoopback() || plain.IsLinkLocalUnicast() || plain.IsMulticast() || plain.IsUnspecified() ||
			plain.Is6() && address[0]>>5 != 1 {
			require.ErrorIs(t, dialVerdict(t, Guard{}, addr, port), ErrBlocked)
		}
	})
}

// FuzzRetryAfter compares with numbers of any size, and with the dates that are
// made of seconds.
func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{
		"", "0", "120", "-1", "+1", " 1", "1 ", "1.5", "1e3", "0x10", "١", "00000000000000000000000000000000000000000060", "9223372036", "9223372037",
		"99999999999999999999", strings.Repeat("9", 1000), "1, 2", "1;2", "Fri, 02 Jan 2026 03:05:05 GMT", "Friday, 02-Jan-26 03:05:05 GMT",
		"Fri Jan  2 03:05:05 2026", "Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 32 Jan 2026 03:05:05 GMT", "2026-01-02T03:05:05Z",
	} {
		f.Add(value, int64(1767323105))
	}
	f.Add("1", int64(math.MinInt64))
	f.Add("1", int64(math.MaxInt64))
	longest := big.NewInt(int64(math.MaxInt64 / time.Second))
	f.Fuzz(func(t *testing.T, value string, seconds int64) {
		for _, now := range []time.Time{{}, time.Unix(0, 0), time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)} {
			got := parseRetryAfter(http.Header{"Retry-After": {value}}, now)
			date, notDate := http.ParseTime(value)
			number, isNumber := new(big.Int).SetString(value, 10)
			switch {
			case isNumber && strings.Trim(value, "0123456789") == "" && number.Cmp(longest) > 0:
				require.Equal(t, time.Duration(math.MaxInt64), got)
			case isNumber && strings.Trim(value, "0123456789") == "":
				require.Equal(t, time.Duration(number.Int64())*time.Second, got)
			case notDate == nil:
				require.Equal(t, max(0, date.Sub(now)), got)
			default:
				require.Zero(t, got)
			}
			require.Zero(t, parseRetryAfter(http.Header{"Retry-After": {value, "60"}}, now), "there are several")

			at := time.Unix(seconds%(1<<37), 0).UTC()
			if at.Year() < 1 || at.Year() > 9999 {
				continue
			}
			for _, layout := range []string{http.TimeFormat, time.ANSIC} {
				got := parseRetryAfter(http.Header{"Retry-After": {at.Format(layout)}}, now)
				require.Equal(t, max(0, at.Sub(now)), got, layout)
			}
		}
	})
}

var (
	token = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$") // RFC 9110, section 5.6.2

	// What the framing, the connection, the signature and clouds need, whatever else is denied.
	denied = regexp.MustCompile(`^(?i:host|connection|keep-alive|proxy-connection|proxy-authorization|te|trailer|transfer-encoding|upgrade|` +
		`content-length|content-encoding|content-type|expect|idempotency-key|x-idempotency-key|webhook-.*|` +
		`metadata-flavor|x-aws-.*|x-amz-.*|x-goog-.*|x-google-.*|x-ms-.*|x-azure-.*)$`)
)

// FuzzHeader: what checkHeader accepts is a token and a value without controls, and
// arrives as one field and nothing besides. Under a name that means nothing to
// anybody, all such are accepted.
func FuzzHeader(f *testing.F) {
	for _, seed := range [][2]string{
		{"X-Team", "one"}, {"x!#$%&'*+-.^_`|~", "tw\to é \xff"}, {"X\r\nEvil", "a"}, {"X", "a\r\nEvil: b"}, {"X", "a\nb"}, {"X", "\x00"},
		{"X", " padded\t"}, {"Host", "x"}, {"hOST", "x"}, {"", ""}, {"X:", "a"}, {"X ", "a"}, {"é", "a"}, {"webhook-id", "e"}, {"WEBHOOK-x", ""}, {"x-aws-ec2-metadata-token", "a"}, {"X-GOOG-a", ""}, {"Metadata-Flavor", "Google"},
		{"user-agent", ""}, {"user-agent", " "}, {"Webhook-Request-Origin", "a.example"}, {"Transfer-Encoding", "chunked"}, {"X", strings.Repeat("a", 9000)}, {strings.Repeat("a", 9000), ""}, {"Connection", "X"},
		{"X\u212a", "a"}, {"X", "\u2028\ufeff"},
	} {
		f.Add(seed[0], seed[1])
	}
	for _, name := range []string{
		"Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "TE", "Trailer", "Upgrade", "Content-Length", "Content-Encoding", "Content-Type",
		"Expect", "Idempotency-Key", "X-Idempotency-Key", "Webhook-Signature", "X-Aws-A", "X-Amz-A", "X-Goog-A", "X-Google-A", "X-Ms-A", "X-Azure-A",
	} {
		f.Add(name, "a")
	}
	accepted := func(h http.Header) bool {
		var found faults
		checkHeader("s", "Header", h, &found)
		return found == nil
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		good := utf8.ValidString(value) && strings.IndexFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) < 0
		harmless := "X-Fuzz-" + name
		small := len(harmless)+len(value) <= 8<<10
		require.Equal(t, token.MatchString(harmless) && good && small, accepted(http.Header{harmless: {value}}))

		if !accepted(http.Header{name: {value}}) {
			return
		}
		require.Regexp(t, token, name)
		if !strings.EqualFold(name, headerOrigin) { // of CloudEvents
			require.NotRegexp(t, denied, name)
		}
		require.True(t, good)
		if other := strings.ToLower(name); other != name {
			require.False(t, accepted(http.Header{name: {value}, other: {value}}), "one name twice")
		}

		sent := &newOutgoing(blank, &target{url: &url.URL{Scheme: "https", Host: "127.0.0.1:1", Path: "/"}}, nil).request
		sent.Header = http.Header{http.CanonicalHeaderKey(name): {value}}
		// RoundTrip checks the header before it dials.
		_, err := (&http.Transport{DialContext: Guard{}.dialer().DialContext}).RoundTrip(sent)
		require.ErrorIs(t, err, ErrBlocked)
		var wire bytes.Buffer
		require.NoError(t, sent.Write(&wire))
		got, err := http.ReadRequest(bufio.NewReader(&wire))
		require.NoError(t, err)
		require.Empty(t, wire.String(), "one request and nothing behind it")
		want := http.Header{"User-Agent": got.Header["User-Agent"], "Content-Length": {"0"}}
		if http.CanonicalHeaderKey(name) != "User-Agent" { // of which Write takes what is set
			want[http.CanonicalHeaderKey(name)] = []string{strings.Trim(value, " \t")}
		} else if got.Header["User-Agent"] == nil { // nor if it is empty
			delete(want, "User-Agent")
			require.Empty(t, value)
		}
		require.Equal(t, want, got.Header)
		require.Equal(t, "127.0.0.1:1", got.Host)
	})
}

// FuzzKey: a key is "whsec_" and the base64 of 24 to 64 bytes, "whpk_" and 32, or
// "whsk_" and the two halves of an Ed25519 key; what it signs verifies; and an error
// does not repeat it.
func FuzzKey(f *testing.F) {
	private := GenerateEd25519Key().Secret.Reveal()
	public, err := GenerateEd25519Key().Public()
	require.NoError(f, err)
	for _, secret := range []string{
		whsec(24), whsec(32), whsec(64), whsec(23), whsec(65), "", "whsec_", "whsec_ AAAA\n", testSecret, strings.TrimRight(whsec(25), "="),
		strings.ToUpper(testSecret), "whpk_" + testSecret, testSecret + "\n", testSecret + "=", testSecret + " ", "whsec_" + strings.Repeat("-_", 20),
		private, public.Secret.Reveal(), "whsk_" + private[len("whsk_"):len(private)-3] + "A==", "whsk_" + testSecret[len("whsec_"):], "_", "whsk_", "whpk_\xff",
	} {
		f.Add(secret)
	}
	f.Fuzz(func(t *testing.T, secret string) {
		key, err := ParseKey(secret)
		prefix, encoded, _ := strings.Cut(secret, "_")
		b, notBase64 := base64.StdEncoding.DecodeString(encoded)
		good := false
		switch prefix {
		case "whsec":
			good = 24 <= len(b) && len(b) <= 64
		case "whpk":
			good = len(b) == 32
		case "whsk":
			good = len(b) == 64 && bytes.Equal(b, ed25519.NewKeyFromSeed(b[:32]))
		}
		require.Equal(t, good && notBase64 == nil, err == nil)
		if err != nil {
			require.ErrorIs(t, err, ErrKey)
			require.Equal(t, Key{}, key)
			if len(encoded) > 8 {
				require.NotContains(t, err.Error(), encoded)
			}
			return
		}
		require.Equal(t, secret, key.Secret.Reveal())
		verifier := Verifier{Keys: []Key{key}}
		public, err := key.Public()
		require.Equal(t, prefix != "whsec", err == nil)
		if err == nil {
			verifier.Keys[0] = public
		}
		header, err := StandardWebhooks{}.Sign(t.Context(), Message{ID: "e", Time: time.Now()}, []Key{key})
		require.Equal(t, prefix != "whpk", err == nil)
		if err == nil {
			require.NoError(t, verifier.Verify(header, nil))
		}
	})
}

// referenceSignature is that of Standard Webhooks, written down once more.
func referenceSignature(secret []byte, id string, seconds int64, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	_, _ = fmt.Fprintf(mac, "%s.%d.%s", id, seconds, body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// flip returns bytes with one of their bits flipped.
func flip(b []byte, bit uint) []byte {
	b = bytes.Clone(b)
	b[bit/8%uint(len(b))] ^= 1 << (bit % 8)
	return b
}

// FuzzVerify: what is signed is what the specification says, and verifies; with any
// bit of it flipped, or another key, it does not.
func FuzzVerify(f *testing.F) {
	f.Add("e", []byte("{}"), uint(0), int16(0), bytes.Repeat([]byte{1}, 24))
	f.Add("e.1", []byte{}, uint(3), int16(-200), bytes.Repeat([]byte{2}, 64))
	f.Add("\xff", []byte("\x00\xff"), uint(1000), int16(400), bytes.Repeat([]byte{0}, 32))
	f.Add("", []byte("{}"), uint(347), int16(-400), bytes.Repeat([]byte{0xff}, 32))
	f.Fuzz(func(t *testing.T, id string, body []byte, bit uint, ahead int16, raw []byte) {
		if len(raw) < 24 || len(raw) > 64 {
			return
		}
		keyOf := func(b []byte) Key { return Key{Secret: NewSecret("whsec_" + base64.StdEncoding.EncodeToString(b))} }
		verifier := Verifier{Keys: []Key{keyOf(raw)}}
		now := time.Now().Add(time.Duration(ahead) * time.Second)
		header, err := StandardWebhooks{}.Sign(t.Context(), Message{ID: id, Time: now, Body: body}, verifier.Keys)
		require.NoError(t, err)
		signature := header.Get("Webhook-Signature")
		require.Equal(t, referenceSignature(raw, id, now.Unix(), body), signature)
		require.Equal(t, strconv.FormatInt(now.Unix(), 10), header.Get("Webhook-Timestamp"))

		err = verifier.Verify(header, body)
		switch {
		case id == "":
			require.ErrorIs(t, err, ErrHeader)
			return
		case ahead > 310 || ahead < -310:
			require.ErrorIs(t, err, ErrTimestamp)
			verifier.Tolerance = 12 * time.Hour
		case ahead > 290 || ahead < -290: // the clock goes on
			verifier.Tolerance = 12 * time.Hour
		default:
			require.NoError(t, err)
		}
		require.NoError(t, verifier.Verify(header, body))

		require.ErrorIs(t, verifier.Verify(header, append(bytes.Clone(body), 0)), ErrSignature)
		if len(body) > 0 {
			require.ErrorIs(t, verifier.Verify(header, flip(body, bit)), ErrSignature)
			require.ErrorIs(t, verifier.Verify(header, body[:len(body)-1]), ErrSignature)
		}
		with := func(name, value string) error {
			changed := header.Clone()
			changed[name] = []string{value}
			return verifier.Verify(changed, body)
		}
		require.ErrorIs(t, with("Webhook-Id", string(flip([]byte(id), bit))), ErrSignature)
		require.ErrorIs(t, with("Webhook-Id", id+"x"), ErrSignature)
		for i := range uint(8 * len(header.Get("Webhook-Timestamp"))) {
			require.Error(t, with("Webhook-Timestamp", string(flip([]byte(header.Get("Webhook-Timestamp")), i))))
		}
		require.ErrorIs(t, with("Webhook-Signature", string(flip([]byte(signature), bit))), ErrSignature)
		for i := range uint(8) { // of the last character, which has bits that stand for nothing
			require.ErrorIs(t, with("Webhook-Signature", string(flip([]byte(signature), 8*uint(len(signature)-2)+i))), ErrSignature)
		}
		require.NoError(t, with("Webhook-Signature", "v1a,"+signature[3:]+" v1,x "+signature), "among others")
		other := Verifier{Keys: []Key{keyOf(flip(raw, bit))}, Tolerance: verifier.Tolerance}
		require.ErrorIs(t, other.Verify(header, body), ErrSignature)
	})
}

// A fuzzScheme is one that FuzzSchemes signs and verifies with, and which headers it signs
// besides the body.
type fuzzScheme struct {
	name          string
	sign, verify  Key
	id, timestamp string // empty: it does not sign them
	signature     string
}

var fuzzOwn = HMAC{Header: "X-Own", Base64: true, Content: "{id}|{body}|{timestamp}|{id}"}

// fuzzSchemes are the schemes with keys that are made of any bytes.
func fuzzSchemes(t *testing.T, raw []byte) []fuzzScheme {
	sum := sha256.Sum256(raw)
	text := func(scheme string) Key { return Key{Scheme: scheme, Secret: NewSecret("x" + string(raw))} }
	symmetric := standardKey{hmac: sum[:]}.key()
	private := standardKey{private: ed25519.NewKeyFromSeed(sum[:])}.key()
	public, err := private.Public()
	require.NoError(t, err)
	return []fuzzScheme{
		{"", symmetric, symmetric, "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"},
		{"", private, public, "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"},
		{"github", text("github"), text("github"), "", "", "X-Hub-Signature-256"},
		{"shopify", text("shopify"), text("shopify"), "", "", "X-Shopify-Hmac-Sha256"},
		{"slack", text("slack"), text("slack"), "", "X-Slack-Request-Timestamp", "X-Slack-Signature"},
		{"stripe", text("stripe"), text("stripe"), "", "", "Stripe-Signature"}, // which holds the time
		{"own", text("own"), text("own"), "Webhook-Id", "Webhook-Timestamp", "X-Own"},
	}
}

// FuzzSchemes: what any of the schemes signs verifies, and with a bit flipped of what
// it signs, or of the signature, it does not.
func FuzzSchemes(f *testing.F) {
	f.Add("e", []byte("{}"), uint(0), []byte("key"))
	f.Add("\xff|.", []byte{}, uint(61), []byte{})
	f.Add("{body}{id}", []byte("{timestamp}|"), uint(1000), []byte("\x00\n"))
	schemes := map[string]Scheme{"own": fuzzOwn}
	f.Fuzz(func(t *testing.T, id string, body []byte, bit uint, raw []byte) {
		if id == "" {
			return
		}
		others := fuzzSchemes(t, append(bytes.Clone(raw), 'x'))
		for i, s := range fuzzSchemes(t, raw) {
			verifier := Verifier{Keys: []Key{s.verify}, Schemes: schemes}
			header, err := verifier.scheme(s.name).Sign(t.Context(), Message{ID: id, Time: time.Now(), Body: body}, []Key{s.sign})
			require.NoError(t, err)
			require.NoError(t, verifier.Verify(header, body), s.name)
			require.ErrorIs(t, (&Verifier{Keys: []Key{others[i].verify}, Schemes: schemes}).Verify(header, body), ErrSignature, s.name)

			require.ErrorIs(t, verifier.Verify(header, append(bytes.Clone(body), 0)), ErrSignature, s.name)
			if len(body) > 0 {
				require.ErrorIs(t, verifier.Verify(header, flip(body, bit)), ErrSignature, s.name)
			}
			for _, name := range []string{s.id, s.timestamp, s.signature} {
				if name == "" {
					continue
				}
				changed := header.Clone()
				before := header.Get(name)
				after := string(flip([]byte(before), bit))
				if s.sameHex(before, after) {
					continue
				}
				changed[name] = []string{after}
				require.Error(t, verifier.Verify(changed, body), "%s: %s: %q", s.name, name, after)
				changed[name] = []string{before, before}
				require.ErrorIs(t, verifier.Verify(changed, body), ErrHeader, "%s: twice", s.name)
				if s.name == "stripe" {
					changed[name] = []string{before + "," + before}
					require.ErrorIs(t, verifier.Verify(changed, body), ErrHeader, "two times")
				}
			}
		}
	})
}

// sameHex reports whether two signatures differ in the case of their letters alone,
// where they are in hex.
func (s fuzzScheme) sameHex(a, b string) bool {
	switch s.name {
	case "github", "slack", "stripe":
		return strings.EqualFold(a, b) && strings.Count(a, "v") == strings.Count(b, "v")
	}
	return false
}

// FuzzVerifyHeader: no header that was not signed is accepted, by any scheme.
func FuzzVerifyHeader(f *testing.F) {
	f.Add("e", "1", "v1,AAAA")
	f.Add("e", "9223372036854775807", "v1, v1,= v1a,x ,")
	f.Add("e", "-9223372036854775808", strings.Repeat("v1, ", 15)+"v1,")
	f.Add("e", "1", referenceSignature([]byte("another"), "e", 1, []byte("{}")))
	f.Add("e", "01", "v1,"+strings.Repeat("A", 43)+"=")
	f.Add("e", " 1", "V1,AAAA\tv1,AAAA")
	f.Add("e", "1", "v1a,"+strings.Repeat("A", 86)+"==")
	f.Add("e", "1", "t=1,v1="+strings.Repeat("0", 64))
	f.Add("e", "1", "t=1,t=1,v0=x,v1,v1="+strings.Repeat(",v1=", 20))
	f.Add("e", "1", "sha256="+strings.Repeat("0", 64))
	f.Add("e", "1", "v0="+strings.Repeat("0", 62))
	f.Add("", "", "")
	schemes := map[string]Scheme{"own": fuzzOwn}
	raw := []byte(rand.Text())
	f.Fuzz(func(t *testing.T, id, timestamp, signature string) {
		all := Verifier{Schemes: schemes, Tolerance: 1<<63 - 1}
		h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "X-Slack-Request-Timestamp": {timestamp}}
		for _, s := range fuzzSchemes(t, raw) {
			h[s.signature] = []string{signature}
			one := Verifier{Keys: []Key{s.verify}, Schemes: schemes, Tolerance: 1<<63 - 1}
			all.Keys = append(all.Keys, s.verify)
			err := one.Verify(h, []byte("{}"))
			require.True(t, errors.Is(err, ErrHeader) || errors.Is(err, ErrTimestamp) || errors.Is(err, ErrSignature), "%s: %v", s.name, err)
			number, notNumber := strconv.ParseInt(timestamp, 10, 64)
			if signature == "" || s.id != "" && id == "" || s.timestamp != "" && (notNumber != nil || strconv.FormatInt(number, 10) != timestamp) {
				require.ErrorIs(t, err, ErrHeader, s.name)
			}
		}
		err := all.Verify(h, []byte("{}"))
		require.True(t, errors.Is(err, ErrHeader) || errors.Is(err, ErrTimestamp) || errors.Is(err, ErrSignature), err)
	})
}

// FuzzHandler: whatever body was signed, the handler is given it as it is; and none
// that was not.
func FuzzHandler(f *testing.F) {
	for _, body := range []string{
		"", "{}", "null", `{"type":"a.b","timestamp":"2026-01-02T03:04:05Z","data":{"n":1}}`, `{"type":1}`, `{"timestamp":"noon"}`, `{"data":`,
		"\xff", strings.Repeat("[", 10_001),
	} {
		f.Add([]byte(body), "application/json")
	}
	verifier := Verifier{Keys: []Key{GenerateKey()}}
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		var events []Event
		handler := verifier.Handler(func(_ context.Context, e Event) error {
			events = append(events, e)
			_, _ = Decode[any](e)
			_, _ = Decode[struct{ N int }](e)
			return nil
		})
		header, err := StandardWebhooks{}.Sign(t.Context(), Message{ID: "e", Time: time.Now(), Body: body}, verifier.Keys)
		require.NoError(t, err)
		post := func(body []byte) int {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(body))
			r.Header = header.Clone()
			r.Header["Content-Type"] = []string{contentType}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			return w.Code
		}
		require.Equal(t, http.StatusNoContent, post(body))
		require.Equal(t, http.StatusUnauthorized, post(append(bytes.Clone(body), ' ')))
		require.Len(t, events, 1)
		require.Equal(t, "e", events[0].ID)
		require.Equal(t, string(body), string(events[0].Payload.Body))
		require.Equal(t, contentType, events[0].Payload.ContentType)
	})
}

var (
	typeForm    = regexp.MustCompile(`^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$`)
	patternForm = regexp.MustCompile(`^(\*|[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*(\.\*)?)$`)
)

// FuzzPattern: a pattern is valid, and matches, as the regular expression does that
// says the same.
func FuzzPattern(f *testing.F) {
	for _, test := range patterns {
		f.Add(test.pattern, test.eventType)
	}
	f.Add("a.*\n", "a.b\n")
	f.Add("É.*", "É.b")
	f.Fuzz(func(t *testing.T, pattern, eventType string) {
		require.Equal(t, typeForm.MatchString(eventType), validType(eventType))
		require.Equal(t, patternForm.MatchString(pattern), validPattern(pattern))
		if !validPattern(pattern) || !validType(eventType) {
			return
		}
		form := "^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".+") + "$"
		want := regexp.MustCompile(form).MatchString(eventType)
		require.Equal(t, want, matchType(pattern, eventType))
		require.Equal(t, want, (&Subscriber{Events: []string{"other", pattern}}).wants(eventType) && eventType != "other")
		require.True(t, (&Subscriber{}).wants(eventType))
	})
}

// FuzzSnapshot: what a store has kept of a subscriber, damaged or not, is a fault, or
// is the same after a second round, and goes nowhere that the guard does not allow.
func FuzzSnapshot(f *testing.F) {
	for _, seed := range []string{
		`{"url":"https://a.example/"}`, `{"url":"https://a.example/","unsigned":true}`,
		`{"url":"https://a.example:8443/x?q=1","header":{"X":["1",""]},"unsigned":true,"timeout":5,"concurrency":-1,"labels":{"a":"b"}}`,
		`{"url":"https://[::1%25lo]/","keys":[{"secret":"d2hzZWNf","scheme":"x","expires":"2026-01-02T03:04:05.6+01:00"},{}]}`,
		`{"url":"https://a.example/","keys":[{"secret":"d2hzZWNfQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="}]}`,
		`{"url":"http://10.0.0.1/","unsigned":true}`, `{"url":"https://127.0.0.1/","unsigned":true}`,
		`{"url":"https://a.example/","unsigned":true,"header":{"host":["b"],"Webhook-Id":["x"],"X":["a\r\nb"]}}`,
		`{"url":"https://a.example/","unsigned":true,"timeout":-1}`, `{"url":"https://a.example/","unsigned":true,"concurrency":9223372036854775807}`,
		`{"sealed":{"key":"k1","data":"c2VhbGVk"},"url":"https://a.example/"}`, `{"sealed":{}}`, `{"sealed":{"key":"k1"}}`, `{"directory":true,"labels":{"a":"b"}}`,
		`{"url":"//%41/\u0000"}`, `{"url":null}`, `{"url":"https://a.example/","URL":"https://b.example/"}`, `null`, `[]`, ``, "\xff", strings.Repeat("[", 10_001),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second Snapshot
		fault := first.UnmarshalBinary(data)
		if fault != nil {
			require.Nil(t, first.target())
		} else {
			require.True(t, first.target().url == nil || first.target().url.Host != "")
			_, _ = fmt.Fprint(io.Discard, first)
			once, err := first.MarshalBinary()
			require.NoError(t, err)
			require.NoError(t, second.UnmarshalBinary(once), "%s", once)
			twice, err := second.MarshalBinary()
			require.NoError(t, err)
			require.Equal(t, string(once), string(twice))
			require.Equal(t, first.String(), second.String())
		}

		requests := 0
		w := &wire{answer: func(r *http.Request, _ int) (*http.Response, error) {
			requests++
			requireAllowed(t, r, first.target())
			return response(200), nil
		}}
		d := dispatcher(t, NewMemoryStore(), w, Options{StoreKeysInPlaintext: true})
		claim := Claim{Delivery: Delivery{ID: DeliveryID{"e", "s"}, Payload: &Payload{Body: []byte("{}")}, Snapshot: first}, Attempt: 1}
		if fault != nil {
			claim.Fault = fault.Error()
		}
		j := &job{Claim: &claim, lane: &workerLane{}, standing: none, round: 1, held: d.open(&claim), leaseEnd: time.Now().Add(time.Hour)}
		s := newSlot(d, t.Context(), 0)
		defer s.close()
		o := (&worker{d: d, stop: t.Context()}).deliver(s, j)
		require.Equal(t, claim.Lease(), o.Lease)
		switch {
		case fault != nil:
			require.Equal(t, Dead, o.State)
			require.Equal(t, fault.Error(), o.Reason)
			require.Zero(t, requests)
		case first.target().url == nil: // sealed, or to be looked up, and there is nobody to do it
			require.Equal(t, Pending, o.State)
			require.True(t, o.Released)
			require.Zero(t, requests)
		default:
			require.Len(t, o.Attempts, 1)
			require.Equal(t, o.State == Delivered, requests == 1)
		}
	})
}

// requireAllowed fails if a request is not what a target and the zero Guard allow.
func requireAllowed(t *testing.T, r *http.Request, of *target) {
	require.Equal(t, of.url.String(), r.URL.String())
	_, err := Guard{}.CheckURL(r.URL.String())
	require.NoError(t, err)
	for name, values := range r.Header {
		require.Regexp(t, token, name)
		for _, value := range values {
			require.True(t, validHeaderValue(value))
		}
	}
	for name := range of.header {
		require.NotRegexp(t, denied, name)
	}
	require.Equal(t, []string{"e"}, r.Header["Webhook-Id"])
	require.Equal(t, []string{"application/json"}, r.Header["Content-Type"])
	require.Equal(t, of.unsigned && len(of.keys) == 0, len(r.Header["Webhook-Signature"]) == 0)
}

// FuzzSealed: what is sealed opens as what it was and for its delivery alone, with
// any bit flipped it does not open, and nothing that was not sealed does.
func FuzzSealed(f *testing.F) {
	f.Add("e", "a", []byte(`{"url":"https://a.example/"}`), uint(0))
	f.Add("", "", []byte(`{"url":"https://[::1]/","keys":[{"secret":"d2hzZWNf"}]}`), uint(1000))
	f.Add("e/", "\xff", []byte("\x00"), uint(100))
	sealer := newSealer(f, sealingKey("k1", 1), sealingKey("k2", 2))
	f.Fuzz(func(t *testing.T, event, subscriber string, data []byte, bit uint) {
		id := DeliveryID{event, subscriber}
		_, err := sealer.open(&sealed{"k2", data}, id)
		require.ErrorIs(t, err, errUnopened)

		want, fault := decodeTarget(data)
		if fault == nil && want.url == nil {
			fault = errUnopened
		}
		stored, err := json.Marshal(storedTarget{Sealed: sealer.seal(data, id)})
		require.NoError(t, err)
		open := func(stored []byte, id DeliveryID) (*target, error) {
			t, err := decodeTarget(stored)
			if err != nil || t.sealed == nil {
				return nil, errUnopened
			}
			return sealer.open(t.sealed, id)
		}
		opened, err := open(stored, id)
		require.Equal(t, fault == nil, err == nil)
		if fault == nil {
			require.Equal(t, want.url, opened.url)
			require.Equal(t, want.header, opened.header)
		}
		_, err = open(stored, DeliveryID{event + "x", subscriber})
		require.ErrorIs(t, err, errUnopened)
		_, err = open(stored, DeliveryID{subscriber, event + "x"})
		require.ErrorIs(t, err, errUnopened)

		// A bit of the JSON around it, as the case of a name, may make no difference.
		if flipped, err := open(flip(stored, bit), id); err == nil {
			require.Equal(t, opened.url, flipped.url)
			require.Equal(t, opened.header, flipped.header)
		}
		inside := sealer.seal(data, id)
		inside.Data = flip(inside.Data, bit)
		_, err = sealer.open(inside, id)
		require.ErrorIs(t, err, errUnopened)
	})
}
