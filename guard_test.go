package outhook

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// An ssrfRow is a row of testdata/ssrf-urls.tsv.
type ssrfRow struct {
	url    string
	allow  bool
	reason string
	dns    []netip.Addr // what the name resolves to, if the row says so
}

var (
	dnsTag    = regexp.MustCompile(`\[dns ([^\]]*)\]`)
	dnsAnswer = regexp.MustCompile(`A=([^ ]+)`)
)

func ssrfRows(t testing.TB) (rows []ssrfRow) {
	text, err := os.ReadFile("testdata/ssrf-urls.tsv")
	require.NoError(t, err)
	controls := strings.NewReplacer("{CR}", "\r", "{LF}", "\n", "{DEL}", "\x7f")
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	require.Equal(t, "url\texpected\treason", lines[0])
	for _, line := range lines[1:] {
		cells := strings.Split(line, "\t")
		require.Len(t, cells, 3, line)
		require.Contains(t, []string{"allow", "deny"}, cells[1])
		row := ssrfRow{url: controls.Replace(cells[0]), allow: cells[1] == "allow", reason: cells[2]}
		if tag := dnsTag.FindStringSubmatch(row.reason); tag != nil {
			for _, answer := range dnsAnswer.FindAllStringSubmatch(tag[1], -1) {
				for a := range strings.SplitSeq(answer[1], ",") {
					row.dns = append(row.dns, netip.MustParseAddr(a))
				}
			}
			require.NotEmpty(t, row.dns, line)
		}
		rows = append(rows, row)
	}
	return rows
}

func TestGuardURLs(t *testing.T) {
	for _, row := range ssrfRows(t) {
		t.Run(row.url, func(t *testing.T) {
			guard := Guard{PlainHTTP: strings.HasPrefix(row.url, "http:")} // so that http is not the reason
			u, err := guard.CheckURL(row.url)
			if row.allow || row.dns != nil { // of a name, its address decides
				require.NoError(t, err, row.reason)
				require.NotEmpty(t, u.Host)
				return
			}
			require.ErrorIs(t, err, ErrBlocked, row.reason)
			require.Nil(t, u)
		})
	}
}

func TestGuardAnswers(t *testing.T) {
	public := netip.MustParseAddr("93.184.216.34") // the only one in the file
	for _, row := range ssrfRows(t) {
		for _, addr := range row.dns {
			t.Run(row.url+" "+addr.String(), func(t *testing.T) {
				err := Guard{}.CheckAddr(netip.AddrPortFrom(addr, 443))
				if addr == public {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, ErrBlocked)
				}
			})
		}
	}
}

func TestGuardURLReasons(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, test := range []struct {
		name  string
		guard Guard
		url   string
		want  string // empty: allowed
	}{
		{"http", Guard{}, "http://example.com/", "plain http is not allowed"},
		{"http allowed", Guard{PlainHTTP: true}, "http://example.com/", ""},
		{"2048 bytes", Guard{}, "https://example.com/" + strings.Repeat("a", 2028), ""},
		{"2049 bytes", Guard{}, "https://example.com/" + strings.Repeat("a", 2029), "the URL is longer than 2048 bytes"},
		{"2048 bytes when escaped", Guard{}, "https://example.com/" + strings.Repeat("é", 338), ""},
		{"2054 bytes when escaped", Guard{}, "https://example.com/" + strings.Repeat("é", 339), "the URL is longer than 2048 bytes"},
		{"not UTF-8", Guard{}, "https://example.com/?\xe9", "the URL is longer than 2048 bytes or not UTF-8"},
		{"backslash", Guard{}, `https://example.com\x`, "the URL holds a space, a control character or a backslash"},
		{"scheme", Guard{}, "ws://example.com/", "the scheme must be https"},
		{"no host", Guard{}, "https:///x", "the URL has no host"},
		{"user", Guard{}, "https://u@example.com/", "the URL holds user information"},
		{"fragment", Guard{}, "https://example.com/#a", "the URL holds a fragment"},
		{"empty fragment", Guard{}, "https://example.com/#", "the URL holds a fragment"},
		{"empty port", Guard{}, "https://example.com:/", "the port is empty"},
		{"port 0", Guard{}, "https://example.com:0/", "the port is not in 1 to 65535"},
		{"port 65535", Guard{}, "https://example.com:65535/", ""},
		{"label of 63", Guard{}, "https://" + long + ".example.com/", ""},
		{"label of 64", Guard{}, "https://a" + long + ".example.com/", "the host name has a label that is empty or longer than 63 bytes"},
		{"name of 253", Guard{}, "https://" + strings.Repeat(long+".", 3) + strings.Repeat("a", 57) + ".com/", ""},
		{"name of 254", Guard{}, "https://" + strings.Repeat(long+".", 3) + strings.Repeat("a", 58) + ".com/", "the host name is longer than 253 bytes"},
		{"trailing dot", Guard{}, "https://example.com./", ""},
		{"number", Guard{}, "https://example.5/", "the host name ends in a number but is no address"},
		{"number beyond 64 bits", Guard{}, "https://example.99999999999999999999999/", "the host name ends in a number but is no address"},
		{"0x", Guard{}, "https://example.0x/", "the host name ends in a number but is no address"},
		{"hexadecimal address behind a name", Guard{}, "https://example.0x7f000001/", "the host name ends in a number but is no address"},
		{"not quite a number", Guard{}, "https://example.0xg/", ""},
		{"underscore", Guard{}, "https://a_b.example.com/", ""},
		{"address", Guard{}, "https://10.0.0.1/", "10.0.0.1 may not be called"},
		{"private name", Guard{}, "https://localhost/", "the host name belongs to private networks"},
		{"private name, any range allowed", Guard{Allow: ranges("10.0.0.0/8")}, "https://localhost/", ""},
		{"address in a range", Guard{Allow: ranges("10.0.0.0/8")}, "https://10.0.0.1/", ""},
		{"mapped address in a range", Guard{Allow: ranges("10.0.0.0/8")}, "https://[::ffff:10.0.0.1]/", ""},
		{"address beside the range", Guard{Allow: ranges("10.0.0.0/8")}, "https://127.0.0.1/", "127.0.0.1 may not be called"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.guard.CheckURL(test.url)
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrBlocked)
			require.ErrorContains(t, err, "outhook: target is not allowed: "+test.want)
		})
	}
}

// A URL that Send accepted is judged again, as String returns it, when a store
// has restored it.
func TestGuardAcceptsWhatItReturned(t *testing.T) {
	for name, raw := range map[string]string{
		"ASCII":              "https://example.com:8443/a%2Fb?q=%zz&r",
		"not ASCII":          "https://example.com/é?é",
		"long when escaped":  "https://example.com/" + strings.Repeat("é", 338),
		"to be escaped, too": "https://example.com/<>\"?<>\"",
	} {
		t.Run(name, func(t *testing.T) {
			u, err := Guard{}.CheckURL(raw)
			require.NoError(t, err)
			_, err = Guard{}.CheckURL(u.String())
			require.NoError(t, err)
		})
	}
}

// TestGuardHost covers what the parser of newer Go versions refuses before.
func TestGuardHost(t *testing.T) {
	for hostport, want := range map[string]string{
		"[1.2.3.4]":              "the host is no IPv6 address",
		"[localhost]":            "the host is no IPv6 address",
		"[2a00:1450:4001::1%]":   "the host is no IPv6 address",
		"2a00:1450:4001::1]":     "the host is no IPv6 address",
		"[]":                     "the host is no IPv6 address",
		"[2a00:1450:4001::1%lo]": "2a00:1450:4001::1%lo may not be called, or not at this port",
		"ex ample.com":           "the host name holds other characters than letters, digits, '-' and '_'",
	} {
		t.Run(hostport, func(t *testing.T) {
			_, err := Guard{}.checkHost(hostport, 443)
			require.EqualError(t, err, "outhook: target is not allowed: "+want)
		})
	}
	host, err := Guard{}.checkHost("[2a00:1450:4001::1]:8443", 8443)
	require.NoError(t, err)
	require.Equal(t, "[2a00:1450:4001::1]:8443", host)
}

// What is judged, stored, resolved, named in the TLS handshake and sent as Host is
// one and the same name.
func TestGuardInternationalNames(t *testing.T) {
	for _, test := range []struct {
		url, host string // empty: refused
	}{
		{"https://bücher.example/", "xn--bcher-kva.example"},
		{"https://BÜCHER.example:8443/", "xn--bcher-kva.example:8443"},
		{"https://b%C3%BCcher.example/", "xn--bcher-kva.example"},
		{"https://例え.テスト/", "xn--r8jz45g.xn--zckzah"},
		{"https://faß.example/", "xn--fa-hia.example"},
		{"https://exa\u00admple.com/", "example.com"},
		{"https://example。com/", "example.com"},
		{"https://１.１.１.１/", "1.1.1.1"},
		{"https://１２７.0.0.1/", ""},
		{"https://①⑥⑨.②⑤④.①⑥⑨.②⑤④/", ""},
		{"https://０x7f000001/", ""},
		{"https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", ""},
		{"https://a.ｌｏｃａｌ/", ""},
		{"https://a℀b.example/", ""}, // maps to a slash
		{"https://a＠b.example/", ""}, // to an at sign
		{"https://\u202eexample.com/", ""},
		{"https://\u200b/", ""},
		{"https://bücher..example/", ""},
		{"https://-ü.example/", ""},
		{"https://" + strings.Repeat("ü", 64) + ".example/", ""},
	} {
		t.Run(test.url, func(t *testing.T) {
			u, err := Guard{}.CheckURL(test.url)
			if test.host == "" {
				require.ErrorIs(t, err, ErrBlocked)
				require.Nil(t, u)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.host, u.Host)
		})
	}
}

func TestGuardAddresses(t *testing.T) {
	ten := Guard{Allow: ranges("10.0.0.0/8")}
	for _, test := range []struct {
		name  string
		guard Guard
		addr  string
		allow bool
	}{
		{"public", Guard{}, "1.1.1.1", true},
		{"public, mapped", Guard{}, "::ffff:1.1.1.1", true},
		{"public, mapped, with a zone", Guard{}, "::ffff:1.1.1.1%eth0", false},
		{"public IPv6", Guard{}, "2a00:1450:4001::1", true},
		{"public IPv6 with a zone", Guard{}, "2a00:1450:4001::1%eth0", false},
		{"loopback", Guard{}, "127.0.0.1", false},
		{"loopback IPv6", Guard{}, "::1", false},
		{"broadcast", Guard{}, "255.255.255.255", false},
		{"AS112 IPv6", Guard{}, "2620:4f:8000::1", false},

		{"development: loopback", DevelopmentGuard(), "127.0.0.1", true},
		{"development: all of 127", DevelopmentGuard(), "127.255.255.255", true},
		{"development: loopback, mapped", DevelopmentGuard(), "::ffff:127.0.0.1", true},
		{"development: loopback IPv6", DevelopmentGuard(), "::1", true},
		{"development: loopback IPv6 with a zone", DevelopmentGuard(), "::1%lo", false},
		{"development: public", DevelopmentGuard(), "1.1.1.1", true},
		{"development: private", DevelopmentGuard(), "10.0.0.1", false},
		{"development: private, mapped", DevelopmentGuard(), "::ffff:10.0.0.1", false},
		{"development: metadata", DevelopmentGuard(), "169.254.169.254", false},

		{"range", ten, "10.0.0.1", true},
		{"range, mapped", ten, "::ffff:10.0.0.1", true},
		{"range, upper end", ten, "10.255.255.255", true},
		{"beside the range", ten, "192.168.0.1", false},
		{"range in NAT64", ten, "64:ff9b::a00:1", false},
		{"IPv6 range", Guard{Allow: ranges("fd00::/8")}, "fd00::1", true},
		{"range of everything, with a zone", Guard{Allow: ranges("::/0")}, "fe80::1%eth0", false},

		{"denied", Guard{Deny: prefixes("1.1.1.0/24")}, "1.1.1.1", false},
		{"denied, mapped", Guard{Deny: prefixes("1.1.1.0/24")}, "::ffff:1.1.1.1", false},
		{"beside what is denied", Guard{Deny: prefixes("1.1.1.0/24")}, "1.1.2.1", true},
		{"denied inside a range", Guard{Deny: prefixes("10.1.0.0/16"), Allow: ten.Allow}, "10.1.0.1", false},
		{"denied IPv6", Guard{Deny: prefixes("2a00::/16")}, "2a00:1450:4001::1", false},

		{"NAT64, public", Guard{NAT64: prefixes("64:ff9b::/96")}, "64:ff9b::101:101", true},
		{"NAT64, loopback", Guard{NAT64: prefixes("64:ff9b::/96")}, "64:ff9b::7f00:1", false},
		{"NAT64, metadata", Guard{NAT64: prefixes("64:ff9b::/96")}, "64:ff9b::a9fe:a9fe", false},
		{"NAT64, in a range", Guard{NAT64: prefixes("64:ff9b::/96"), Allow: ten.Allow}, "64:ff9b::a00:1", true},
		{"NAT64, denied", Guard{NAT64: prefixes("64:ff9b::/96"), Deny: prefixes("1.1.1.1/32")}, "64:ff9b::101:101", false},
		{"NAT64 of a public prefix, private", Guard{NAT64: prefixes("2a00:64::/96")}, "2a00:64::a00:1", false},
		{"NAT64 of a public prefix, public", Guard{NAT64: prefixes("2a00:64::/96")}, "2a00:64::101:101", true},
		{"beside NAT64", Guard{NAT64: prefixes("64:ff9b::/96")}, "64:ff9b::1:0:0", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.guard.CheckAddr(netip.AddrPortFrom(netip.MustParseAddr(test.addr), 443))
			if test.allow {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, ErrBlocked)
			}
		})
	}
	require.ErrorIs(t, Guard{}.CheckAddr(netip.AddrPort{}), ErrBlocked, "the zero address")
}

func TestGuardPorts(t *testing.T) {
	guard := Guard{PlainHTTP: true, Ports: []uint16{443, 8443}, Allow: []Range{
		{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Ports: []uint16{9000}},
		{Prefix: netip.MustParsePrefix("1.1.1.1/32"), Ports: []uint16{80}},
	}}
	for target, allow := range map[string]bool{
		"8.8.8.8:443":                  true,
		"8.8.8.8:8443":                 true,
		"8.8.8.8:80":                   false,
		"8.8.8.8:9000":                 false,
		"[2a00:1450:4001::1]:443":      true,
		"[2a00:1450:4001::1]:80":       false,
		"10.0.0.1:9000":                true,
		"10.0.0.1:443":                 false,
		"[::ffff:10.0.0.1]:9000":       true,
		"1.1.1.1:80":                   true,
		"1.1.1.1:443":                  true,
		"[::ffff:1.1.1.1]:8080":        false,
		"127.0.0.1:443":                false,
		"[2a00:1450:4001::1%eth0]:443": false,
	} {
		t.Run(target, func(t *testing.T) {
			ap := netip.MustParseAddrPort(target)
			_, byURL := guard.CheckURL("http://" + target + "/")
			if err := guard.CheckAddr(ap); allow {
				require.NoError(t, err)
				require.NoError(t, byURL)
			} else {
				require.ErrorIs(t, err, ErrBlocked)
				require.ErrorIs(t, byURL, ErrBlocked)
			}
		})
	}
	for url, allow := range map[string]bool{
		"https://example.com/":      true,
		"https://example.com:8443/": true,
		"http://example.com/":       true, // at 1.1.1.1
		"https://example.com:9000/": true, // in 10.0.0.0/8
		"https://example.com:22/":   false,
	} {
		_, err := guard.CheckURL(url)
		require.Equal(t, allow, err == nil, url)
	}
	_, err := Guard{Ports: []uint16{}}.CheckURL("https://example.com/")
	require.ErrorContains(t, err, "the port is not allowed")
}

func TestGuardFaults(t *testing.T) {
	parse := func(raw string) *url.URL {
		u, err := url.Parse(raw)
		require.NoError(t, err)
		return u
	}
	for want, guard := range map[string]Guard{
		"": {Allow: ranges("10.0.0.0/8", "::/0", "fd00::/8", "64::/16"), Deny: prefixes("1.1.1.1/32", "2a00::/16"),
			NAT64: prefixes("64:ff9b::/96"), Proxy: parse("socks5://user:secret@10.0.0.1:1080")},
		"outhook: Options.Guard.Allow[1].Prefix: is no valid prefix":                                                                   {Allow: append(ranges("10.0.0.0/8"), Range{})},
		"outhook: Options.Guard.Allow[0].Prefix: ::ffff:10.0.0.0/104 is an IPv4 range mapped to IPv6: write it as IPv4":                {Allow: ranges("::ffff:10.0.0.0/104")},
		"outhook: Options.Guard.Allow[0].Prefix: 64:ff9b::/96 holds IPv4 addresses, which would not be judged: list it in NAT64":       {Allow: ranges("64:ff9b::/96")},
		"outhook: Options.Guard.Allow[0].Prefix: 64:ff9b::a00:0/104 holds IPv4 addresses, which would not be judged: list it in NAT64": {Allow: ranges("64:ff9b::a00:0/104")},
		"outhook: Options.Guard.Allow[0].Prefix: 64:ff9b:1:2::/64 holds IPv4 addresses, which would not be judged: list it in NAT64":   {Allow: ranges("64:ff9b:1:2::/64")},
		"outhook: Options.Guard.Deny[0]: is no valid prefix":                                                                           {Deny: make([]netip.Prefix, 1)},
		"outhook: Options.Guard.Deny[0]: ::ffff:1.1.1.1/128 is an IPv4 range mapped to IPv6: write it as IPv4":                         {Deny: prefixes("::ffff:1.1.1.1/128")},
		"outhook: Options.Guard.NAT64[0]: 64:ff9b::/64 is no IPv6 prefix of 96 bits":                                                   {NAT64: prefixes("64:ff9b::/64")},
		"outhook: Options.Guard.NAT64[1]: ::ffff:0.0.0.0/96 is no IPv6 prefix of 96 bits":                                              {NAT64: prefixes("64:ff9b::/96", "::ffff:0.0.0.0/96")},
		"outhook: Options.Guard.NAT64[0]: 10.0.0.0/8 is no IPv6 prefix of 96 bits":                                                     {NAT64: prefixes("10.0.0.0/8")},
		"outhook: Options.Guard.Proxy: is no http, https or socks5 URL with a host":                                                    {Proxy: parse("ftp://user:secret@example.com")},
	} {
		_, err := New(NewMemoryStore(), &Options{Guard: guard})
		if want == "" {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, want)
		}
	}
}

func TestLocalAddresses(t *testing.T) {
	local, err := LocalAddresses()
	require.NoError(t, err)
	require.Contains(t, local, netip.MustParsePrefix("127.0.0.1/32"))
	require.ErrorIs(t, Guard{Deny: local, Allow: ranges("127.0.0.0/8")}.CheckAddr(netip.MustParseAddrPort("127.0.0.1:80")), ErrBlocked)
	var f faults
	Guard{Deny: local}.check(&f)
	require.NoError(t, f.err())
}

func TestGuardControl(t *testing.T) {
	for _, test := range []struct {
		network, address string
		allow            bool
	}{
		{"tcp4", "1.1.1.1:443", true},
		{"tcp6", "[2a00:1450:4001::1]:443", true},
		{"tcp4", "10.0.0.1:443", false},
		{"tcp6", "[::1]:443", false},
		{"tcp", "1.1.1.1:443", false},
		{"udp4", "1.1.1.1:443", false},
		{"unix", "/run/docker.sock", false},
		{"tcp4", "127.0.0.1%lo:443", false}, // what the dialer makes of [::ffff:127.0.0.1%lo]
		{"tcp4", "1.1.1.1%lo:443", false},
		{"tcp4", "example.com:443", false},
		{"tcp4", "1.1.1.1", false},
		{"tcp4", "", false},
	} {
		t.Run(test.network+" "+test.address, func(t *testing.T) {
			err := Guard{}.control(t.Context(), test.network, test.address, nil)
			if test.allow {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, ErrBlocked)
			}
		})
	}
}

func ranges(s ...string) (list []Range) {
	for _, p := range prefixes(s...) {
		list = append(list, Range{Prefix: p})
	}
	return list
}

// receiver starts a server that counts its connections.
func receiver(t *testing.T, handler http.HandlerFunc) (server *httptest.Server, connections *atomic.Int32) {
	t.Helper()
	connections = new(atomic.Int32)
	server = httptest.NewUnstartedServer(handler)
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	return server, connections
}

func TestGuardAtDial(t *testing.T) {
	for _, test := range []struct {
		name  string
		guard Guard
		host  string
		allow bool
	}{
		{"default", Guard{}, "127.0.0.1", false},
		{"default, by name", Guard{}, "localhost", false},
		{"plain http", Guard{PlainHTTP: true}, "127.0.0.1", false},
		{"another range", Guard{Allow: ranges("10.0.0.0/8")}, "127.0.0.1", false},
		{"development", DevelopmentGuard(), "127.0.0.1", true},
		{"development, mapped", DevelopmentGuard(), "[::ffff:127.0.0.1]", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, connections := receiver(t, func(http.ResponseWriter, *http.Request) {})
			transport := NewTransport(test.guard)
			defer transport.CloseIdleConnections()
			_, port, err := net.SplitHostPort(server.Listener.Addr().String())
			require.NoError(t, err)
			r, err := http.NewRequest(http.MethodPost, "http://"+test.host+":"+port+"/", nil)
			require.NoError(t, err)

			response, err := transport.RoundTrip(r)
			if test.allow {
				require.NoError(t, err)
				require.NoError(t, response.Body.Close())
				require.EqualValues(t, 1, connections.Load())
				return
			}
			require.ErrorIs(t, err, ErrBlocked)
			server.Close() // so that a connection on its way would have been counted
			require.Zero(t, connections.Load())
		})
	}
}

// What the guard refused is told to the operator, and to nobody else.
func TestGuardDetail(t *testing.T) {
	server, connections := receiver(t, func(http.ResponseWriter, *http.Request) {})
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)
	var log bytes.Buffer
	var details []string
	tell := func(_ context.Context, o Observation) { details = append(details, o.Detail) }
	options := Options{
		Guard:     Guard{PlainHTTP: true, Allow: ranges("10.0.0.0/8")}, // so that "localhost" may be written
		Logger:    slog.New(slog.NewTextHandler(&log, nil)),
		Observers: []Observer{{Attempted: tell, Dead: tell}},
	}
	d, err := New(NewMemoryStore(), &options)
	require.NoError(t, err)
	named := Subscriber{ID: "named", URL: "http://localhost:" + port, Unsigned: true}
	send(t, d, "e", named)
	_, err = d.Drain(t.Context())
	require.NoError(t, err)

	r := record(t, d, "e", "named")
	require.Equal(t, Dead, r.State)
	require.Equal(t, ReasonPermanent, r.Reason)
	require.Equal(t, ErrBlocked.Error(), r.Attempts[0].Error)
	require.Zero(t, connections.Load())
	require.Len(t, details, 2)
	require.Equal(t, details[0], details[1])
	require.Regexp(t, `^the address (127\.0\.0\.1|::1) is not public$`, details[0])
	require.Contains(t, log.String(), `detail="`+details[0]+`"`)

	attempt, err := d.Try(t.Context(), Event{Type: "x"}, named)
	require.ErrorIs(t, err, ErrBlocked)
	require.NotContains(t, fmt.Sprint(attempt, err), "public")
}

// A header that a store gives back, or a Directory gives, is checked again.
func TestHeadersBeforeAttempts(t *testing.T) {
	for name, change := range map[string]func(*Delivery){
		"of the payload": func(d *Delivery) {
			d.Payload = &Payload{Header: http.Header{"X-Amz-Date": {"x"}}, Body: d.Payload.Body}
		},
		"content type": func(d *Delivery) { d.Payload = &Payload{ContentType: "a\r\nb: c", Body: d.Payload.Body} },
		"of the subscriber": func(d *Delivery) {
			changed := *d.Snapshot.target()
			changed.vetted, changed.header = nil, http.Header{"Host": {"inside"}}
			d.Snapshot = newSnapshot(&changed)
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := NewMemoryStore()
			w := &wire{answer: status(200)}
			d := dispatcher(t, store, w, Options{})
			deliveries := enqueued(t, d, "e", subscriber("a"))
			change(&deliveries[0])
			_, err := store.Enqueue(t.Context(), deliveries)
			require.NoError(t, err)
			_, err = d.Drain(t.Context())
			require.NoError(t, err)
			r := record(t, d, "e", "a")
			require.Equal(t, ReasonPermanent, r.Reason)
			require.Equal(t, ErrBlocked.Error(), r.Attempts[0].Error)
			require.Empty(t, w.to(""))
		})
	}
}
