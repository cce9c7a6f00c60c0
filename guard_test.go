package outhook

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// knownDifferences are rows of ssrf-urls.tsv that CheckURL refuses although it
// should not, with the reason.
var knownDifferences = map[string]string{
	"https://b%C3%BCcher.example/": "international names: to be mapped by the complete guard",
	"https://bücher.example/":      "international names: to be mapped by the complete guard",
	"http://exa\u00admple.com/":    "international names: to be mapped by the complete guard",
}

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
		if knownDifferences[row.url] != "" {
			continue
		}
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

func TestGuardKnownDifferences(t *testing.T) {
	found := 0
	for _, row := range ssrfRows(t) {
		if reason := knownDifferences[row.url]; reason != "" {
			found++
			require.True(t, row.allow)
			_, err := Guard{PlainHTTP: true}.CheckURL(row.url)
			require.ErrorContains(t, err, "xn--", "%s is no difference any more (%s)", row.url, reason)
		}
	}
	require.Len(t, knownDifferences, found, "each is a row of the file")
}

func TestGuardAnswers(t *testing.T) {
	public := netip.MustParseAddr("93.184.216.34") // the only one in the file
	for _, row := range ssrfRows(t) {
		for _, addr := range row.dns {
			t.Run(row.url+" "+addr.String(), func(t *testing.T) {
				err := Guard{}.CheckAddr(addr)
				if addr == public {
					require.NoError(t, err)
				} else {
					require.Equal(t, ErrBlocked, err)
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
		{"address", Guard{}, "https://10.0.0.1/", "the address is not public"},
		{"private name", Guard{}, "https://localhost/", "the host name belongs to private networks"},
		{"private name, any range allowed", Guard{Allow: prefixes("10.0.0.0/8")}, "https://localhost/", ""},
		{"address in a range", Guard{Allow: prefixes("10.0.0.0/8")}, "https://10.0.0.1/", ""},
		{"mapped address in a range", Guard{Allow: prefixes("10.0.0.0/8")}, "https://[::ffff:10.0.0.1]/", ""},
		{"address beside the range", Guard{Allow: prefixes("10.0.0.0/8")}, "https://127.0.0.1/", "the address is not public"},
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
	for _, test := range []struct {
		host      string
		bracketed bool
	}{
		{"1.2.3.4", true},
		{"localhost", true},
		{"2a00:1450:4001::1%", true},
		{"2a00:1450:4001::1", false},
		{"", true},
	} {
		t.Run(test.host, func(t *testing.T) {
			require.Equal(t, "the host is no IPv6 address", Guard{}.checkHost(test.host, test.bracketed))
		})
	}
	require.Equal(t, "the address is not public", Guard{}.checkHost("2a00:1450:4001::1%lo", true))
	require.Empty(t, Guard{}.checkHost("2a00:1450:4001::1", true))
}

func TestGuardAddresses(t *testing.T) {
	ten := Guard{Allow: prefixes("10.0.0.0/8")}
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
		{"IPv6 range", Guard{Allow: prefixes("fd00::/8")}, "fd00::1", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.guard.CheckAddr(netip.MustParseAddr(test.addr))
			if test.allow {
				require.NoError(t, err)
			} else {
				require.Equal(t, ErrBlocked, err)
			}
		})
	}
	require.Equal(t, ErrBlocked, Guard{}.CheckAddr(netip.Addr{}), "the zero address")
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
				require.Equal(t, ErrBlocked, err)
			}
		})
	}
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
		{"another range", Guard{Allow: prefixes("10.0.0.0/8")}, "127.0.0.1", false},
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
