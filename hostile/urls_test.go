//go:build linux

package hostile_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
)

// urlDispatcher returns a Dispatcher with the default transport.
func urlDispatcher(t *testing.T, options outhook.Options) *outhook.Dispatcher {
	t.Helper()
	require.Nil(t, options.Transport)
	d, err := outhook.New(outhook.NewMemoryStore(), &options)
	require.NoError(t, err)
	return d
}

// guardFor allows http for a URL that has it, so that this is not the reason to refuse it.
func guardFor(rawURL string) outhook.Guard {
	return outhook.Guard{PlainHTTP: strings.HasPrefix(rawURL, "http:")}
}

func customerAt(rawURL string) outhook.Subscriber {
	return outhook.Subscriber{ID: "customer", URL: rawURL, Unsigned: true}
}

// deliverTo sends an event and attempts what is due, on fresh connections. It returns
// what has become of it, or the error of Send.
func deliverTo(t *testing.T, d *outhook.Dispatcher, s outhook.Subscriber) (outhook.Record, error) {
	t.Helper()
	receipt, err := d.Send(t.Context(), outhook.Event{Type: "invoice.paid"}, []outhook.Subscriber{s})
	if err != nil {
		return outhook.Record{}, err
	}
	require.Equal(t, []string{s.ID}, receipt.Accepted)
	_, err = d.Drain(t.Context()) // closes its connections
	require.NoError(t, err)
	record, err := d.Get(t.Context(), outhook.DeliveryID{Event: receipt.EventID, Subscriber: s.ID})
	require.NoError(t, err)
	return record, nil
}

func requireDelivered(t *testing.T, r outhook.Record) {
	t.Helper()
	require.Equal(t, outhook.Delivered, r.State, "%+v", r.Attempts)
	require.Len(t, r.Attempts, 1)
	require.Equal(t, http.StatusNoContent, r.Attempts[0].Status)
}

// requireBlocked checks that an attempt was refused for good, and tells no reason.
func requireBlocked(t *testing.T, r outhook.Record) {
	t.Helper()
	require.Len(t, r.Attempts, 1)
	require.Equal(t, outhook.ErrBlocked.Error(), r.Attempts[0].Error)
	require.Zero(t, r.Attempts[0].Status)
	require.Equal(t, outhook.Dead, r.State)
	require.Equal(t, outhook.ReasonPermanent, r.Reason)
}

// requireNoConnection checks that nothing was dialled, whether anybody listens
// there or not.
func requireNoConnection(t *testing.T, w *world) {
	t.Helper()
	require.Empty(t, w.dialled())
	require.Zero(t, w.attempted())
}

// requirePublic checks that there was a connection, and none but to public addresses.
func requirePublic(t *testing.T, w *world, public map[netip.Addr]bool) {
	t.Helper()
	require.NotEmpty(t, w.dialled())
	require.Len(t, w.dialled(), w.attempted(), "the kernel counts other connections than were accepted")
	require.Empty(t, others(w.dialled(), public))
}

// others returns the connections that were made to other addresses than public ones.
func others(connections []netip.AddrPort, public map[netip.Addr]bool) []netip.AddrPort {
	return slices.DeleteFunc(connections, func(c netip.AddrPort) bool { return public[c.Addr()] })
}

// Every row of testdata/ssrf-urls.tsv, sent as a host sends, gets its verdict.
func TestURLs(t *testing.T) {
	rows := readRows(t)
	public, names := publicAddrs(rows), zone(rows)
	inWorld(t, nil, func(t *testing.T, w *world) {
		var allowed, atSend, atDial int
		var connections []netip.AddrPort
		for _, r := range rows {
			t.Run(r.url, func(t *testing.T) {
				steps := r.steps
				if steps == nil {
					steps = names[r.name]
				}
				if steps != nil {
					w.names.answer(r.name, false, steps...)
				}
				d := urlDispatcher(t, outhook.Options{Guard: guardFor(r.url)})
				for i := range max(len(steps), 1) {
					last := i >= len(steps)-1
					allow := r.allow
					if !last {
						allow = slices.ContainsFunc(steps[i].addrs(), func(a netip.Addr) bool { return public[a] })
					}
					w.forget()
					record, err := deliverTo(t, d, customerAt(r.url))
					switch {
					case allow:
						require.NoError(t, err, r.reason)
						requireDelivered(t, record)
						requirePublic(t, w, public)
					case err != nil:
						require.ErrorIs(t, err, outhook.ErrBlocked, r.reason)
						d := urlDispatcher(t, outhook.Options{Guard: guardFor(r.url), Directory: sameDirectory{customerAt(r.url)}})
						record, err := deliverTo(t, d, customerAt(r.url))
						require.NoError(t, err)
						requireBlocked(t, record) // as it would be, had it got past Send
						requireNoConnection(t, w)
						require.Empty(t, w.names.asked())
					default:
						requireBlocked(t, record)
						requireNoConnection(t, w)
					}
					if asked := w.names.asked(); len(asked) > 0 {
						require.Equal(t, []string{r.name}, asked)
					}
					connections = append(connections, w.dialled()...)
					switch {
					case allow && last:
						allowed++
					case err != nil:
						atSend++
					case last:
						atDial++
					}
				}

				// Try gives the same verdict.
				w.forget()
				d = urlDispatcher(t, outhook.Options{Guard: guardFor(r.url)}) // without a connection
				attempt, err := d.Try(t.Context(), outhook.Event{Type: "invoice.paid"}, customerAt(r.url))
				if r.allow {
					require.NoError(t, err)
					require.Equal(t, http.StatusNoContent, attempt.Status)
					requirePublic(t, w, public)
				} else {
					require.ErrorIs(t, err, outhook.ErrBlocked)
					requireNoConnection(t, w)
				}
				connections = append(connections, w.dialled()...)
				_, err = d.Drain(t.Context()) // closes the connections of Try
				require.NoError(t, err)
			})
		}
		t.Logf(figures+"%d rows: %d allowed, %d refused by Send, %d at the dial; %d connections, %d to other than public addresses",
			len(rows), allowed, atSend, atDial, len(connections), len(others(connections, public)))
	})
}

// The default transport refuses by itself, without the check of the URL, what is
// not public: then every name that the rows have no answers for is loopback.
func TestURLsAtTheDial(t *testing.T) {
	rows := readRows(t)
	public := publicAddrs(rows)
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.names.answerOthers(parseAnswers(t, "A=127.0.0.1 AAAA=::1")[0])
		for name, steps := range zone(rows) {
			w.names.answer(name, false, steps[len(steps)-1])
		}
		var refused, harmless, unusable int
		for _, r := range rows {
			if r.allow {
				continue
			}
			t.Run(r.url, func(t *testing.T) {
				w.forget()
				request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url, nil)
				if err != nil {
					unusable++
					return
				}
				transport := outhook.NewTransport(guardFor(r.url))
				defer transport.CloseIdleConnections()
				response, err := transport.RoundTrip(request)
				if err == nil { // it is a public host, and the URL's form was the reason
					requirePublic(t, w, public)
					require.NoError(t, response.Body.Close())
					harmless++
					return
				}
				requireNoConnection(t, w)
				if strings.HasPrefix(r.reason, "[ip]") || strings.HasPrefix(r.reason, "[zone]") || r.steps != nil {
					require.ErrorIs(t, err, outhook.ErrBlocked)
				}
				if errors.Is(err, outhook.ErrBlocked) {
					refused++
				} else {
					unusable++
				}
			})
		}
		require.NotZero(t, refused)
		t.Logf(figures+"%d rows to be denied: %d refused at the dial, %d lead to a public address, %d cannot be requested",
			refused+harmless+unusable, refused, harmless, unusable)
	})
}

// A name server that answers with a public address and with loopback in turn, and
// with both at once, never gets a connection to loopback.
func TestURLsRebinding(t *testing.T) {
	const rounds = 1000
	public := publicAddrs(readRows(t))
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.names.answer("rebind.example.com", true, parseAnswers(t,
			"A=93.184.216.34 then A=127.0.0.1 then A=127.0.0.1,93.184.216.34 then AAAA=::1 "+
				"then A=93.184.216.34 AAAA=::1 then AAAA=::ffff:127.0.0.1")...)
		d := urlDispatcher(t, outhook.Options{Guard: outhook.Guard{PlainHTTP: true}, Concurrency: 1})
		w.forget()
		var deliveries, refusals int
		for range rounds {
			record, err := deliverTo(t, d, customerAt("http://rebind.example.com/"))
			require.NoError(t, err)
			if record.State == outhook.Delivered {
				requireDelivered(t, record)
				deliveries++
			} else {
				requireBlocked(t, record)
				refusals++
			}
		}
		require.NotZero(t, deliveries)
		require.NotZero(t, refusals)
		requirePublic(t, w, public)
		require.Len(t, w.dialled(), deliveries, "each round dials anew")
		loopback := slices.DeleteFunc(w.dialled(), func(c netip.AddrPort) bool { return !c.Addr().IsLoopback() })
		t.Logf(figures+"%d rounds: %d connections to the public address, %d rounds refused, %d connections to loopback",
			rounds, deliveries, refusals, len(loopback))
	})
}

// The proxies that the environment names are not asked.
func TestURLsEnvironmentProxy(t *testing.T) {
	proxy := netip.AddrPortFrom(netip.MustParseAddr("1.1.1.1"), proxyPort) // one that the guard would allow
	var env []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		env = append(env, name+"=http://"+proxy.String(), strings.ToLower(name)+"=http://"+proxy.String())
	}
	env = append(env, "NO_PROXY=", "no_proxy=")
	rows := readRows(t)
	public := publicAddrs(rows)
	inWorld(t, env, func(t *testing.T, w *world) {
		w.names.answer("hooks.example.com", false, zone(rows)["hooks.example.com"]...)
		urls := []string{"http://hooks.example.com/", "https://hooks.example.com/", "http://93.184.216.34/", "https://93.184.216.34/"}

		// A transport that heeds the environment asks the proxy.
		other := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
		w.forget()
		for _, u := range urls {
			response, err := (&http.Client{Transport: other}).Get(u)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
		}
		require.Len(t, w.askedProxy(), len(urls))
		require.Contains(t, w.dialled(), proxy)

		w.forget()
		for _, u := range urls {
			record, err := deliverTo(t, urlDispatcher(t, outhook.Options{Guard: guardFor(u)}), customerAt(u))
			require.NoError(t, err)
			requireDelivered(t, record)
		}
		requirePublic(t, w, public)
		require.Len(t, w.dialled(), len(urls))
		require.NotContains(t, w.dialled(), proxy)
		require.Empty(t, w.askedProxy())
		t.Logf(figures+"%d connections to the targets, %d requests to the proxy", len(w.dialled()), len(w.askedProxy()))
	})
}

// The guard's own proxy makes the connections, and is not asked for what the check
// of the URL refuses.
func TestURLsProxy(t *testing.T) {
	proxy := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.8"), proxyPort)
	rows := readRows(t)
	inWorld(t, nil, func(t *testing.T, w *world) {
		guard := outhook.Guard{PlainHTTP: true, Proxy: &url.URL{Scheme: "http", Host: proxy.String()}}
		target := netip.MustParseAddr("93.184.216.34")
		w.names.answer("hooks.example.com", false, answer{dns.TypeA: {target}})

		for _, test := range []struct {
			url  string
			want string           // what the proxy is asked for
			then []netip.AddrPort // what it connects to
		}{
			{"http://hooks.example.com/", "POST hooks.example.com", nil},
			{"https://hooks.example.com/", "CONNECT hooks.example.com:443", []netip.AddrPort{netip.AddrPortFrom(target, 443)}},
		} {
			w.forget()
			record, err := deliverTo(t, urlDispatcher(t, outhook.Options{Guard: guard}), customerAt(test.url))
			require.NoError(t, err)
			requireDelivered(t, record)
			require.Equal(t, []string{test.want}, w.askedProxy())
			require.Equal(t, append([]netip.AddrPort{proxy}, test.then...), w.dialled())
		}

		w.forget()
		refused := 0
		for _, r := range rows {
			if r.allow || r.steps != nil {
				continue
			}
			_, err := deliverTo(t, urlDispatcher(t, outhook.Options{Guard: guard}), customerAt(r.url))
			require.ErrorIs(t, err, outhook.ErrBlocked, r.url)
			record, err := deliverTo(t, urlDispatcher(t, outhook.Options{Guard: guard, Directory: sameDirectory{customerAt(r.url)}}), customerAt(r.url))
			require.NoError(t, err)
			requireBlocked(t, record)
			refused++
		}
		require.NotZero(t, refused)
		requireNoConnection(t, w)
		require.Empty(t, w.names.asked())
		t.Logf(figures+"%d URLs refused at Send and at the attempt, %d requests to the proxy", refused, len(w.askedProxy()))
	})
}

// What a tenant can see of an attempt that was refused does not tell what is at the
// address, or whether there is such a name.
func TestURLsTellNothing(t *testing.T) {
	open := ports(readRows(t))
	inWorld(t, nil, func(t *testing.T, w *world) {
		closed := 1
		for _, is := open[uint16(closed)]; is; _, is = open[uint16(closed)] {
			closed++
		}
		inside := parseAnswers(t, "A=10.0.0.1")
		w.names.answer("inside.example.com", false, inside...)
		w.names.answer("known.internal", false, inside...)
		w.names.answer("outside.example.com", false, parseAnswers(t, "A=93.184.216.34")...)
		response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://10.0.0.1/")
		require.NoError(t, err, "the port that is to be open")
		require.NoError(t, response.Body.Close())
		_, err = net.Dial("tcp", fmt.Sprintf("10.0.0.1:%d", closed))
		require.ErrorIs(t, err, syscall.ECONNREFUSED)

		// Each group is one for Try, whose error also says what can be seen of the URL
		// alone.
		groups := map[string][]string{
			"name of a blocked address":   {"http://inside.example.com/", fmt.Sprintf("http://inside.example.com:%d/", closed)},
			"blocked address":             {"http://10.0.0.1/", fmt.Sprintf("http://10.0.0.1:%d/", closed)},
			"name under a blocked suffix": {"http://foo.internal/", "http://known.internal/", fmt.Sprintf("http://known.internal:%d/", closed)},
		}
		options := outhook.Options{Guard: outhook.Guard{PlainHTTP: true}, KeepResponse: 1 << 10}
		var first *tenantView
		compared := 0
		for name, urls := range groups {
			var tried *tryView
			for _, u := range urls {
				w.forget()
				o := options
				o.Directory = sameDirectory{customerAt(u)}
				view := viewOf(t, o, u)
				requireBlocked(t, view.got)
				if first == nil {
					first = &view
				}
				require.Equal(t, *first, view, "%s: %s", name, u)
				compared++

				if name == "name of a blocked address" { // Send lets it pass
					require.Equal(t, *first, viewOf(t, options, u), "%s: %s, without a Directory", name, u)
					compared++
				}

				try := tryOf(t, options, u)
				if tried == nil {
					tried = &try
				}
				require.Equal(t, *tried, try, "%s: %s", name, u)

				// Nor can the time that it takes: nothing was connected to, and no
				// name server was asked for what the URL alone tells.
				requireNoConnection(t, w)
				if name == "name of a blocked address" {
					require.Equal(t, []string{"inside.example.com"}, w.names.asked())
				} else {
					require.Empty(t, w.names.asked())
				}
			}
		}

		// The comparison sees differences where there may be some.
		require.NotEqual(t, *first, viewOf(t, options, "http://outside.example.com/"))
		require.NotEqual(t, *first, viewOf(t, options, fmt.Sprintf("http://outside.example.com:%d/", closed)))
		t.Logf(figures+"%d deliveries refused, all with equal records", compared)
	})
}

// A tenantView is what a tenant may be shown of a delivery, without what differs
// between any two.
type tenantView struct {
	got, listed outhook.Record
	standings   []standingView
}

// A standingView is what a tenant may be shown of a subscriber, without instants.
type standingView struct {
	disabled, paused bool
	reason           string
	failures         int
}

// viewOf delivers to a URL.
func viewOf(t *testing.T, options outhook.Options, rawURL string) tenantView {
	t.Helper()
	d := urlDispatcher(t, options)
	record, err := deliverTo(t, d, customerAt(rawURL))
	require.NoError(t, err)
	view := tenantView{got: clearRecord(record)}
	for r, err := range d.List(t.Context(), outhook.Filter{}) {
		require.NoError(t, err)
		view.listed = clearRecord(r)
	}
	require.Equal(t, record.State, view.listed.State)
	for s, err := range d.Standings(t.Context()) {
		require.NoError(t, err)
		view.standings = append(view.standings, standingView{s.Disabled, !s.PausedUntil.IsZero(), s.Reason, s.Failures})
	}
	return view
}

// clearRecord leaves out IDs, instants, durations and the payload, which holds an instant.
func clearRecord(r outhook.Record) outhook.Record {
	r.ID, r.Time, r.Since, r.Due, r.Payload = outhook.DeliveryID{}, time.Time{}, time.Time{}, time.Time{}, nil
	r.Attempts = slices.Clone(r.Attempts)
	for i := range r.Attempts {
		r.Attempts[i].Time, r.Attempts[i].Duration = time.Time{}, 0
	}
	return r
}

// A tryView is what Try returns.
type tryView struct {
	attempt outhook.Attempt
	err     string
}

func tryOf(t *testing.T, options outhook.Options, rawURL string) tryView {
	t.Helper()
	attempt, err := urlDispatcher(t, options).Try(t.Context(), outhook.Event{ID: "e", Type: "invoice.paid"}, customerAt(rawURL))
	require.ErrorIs(t, err, outhook.ErrBlocked)
	attempt.Time, attempt.Duration = time.Time{}, 0
	return tryView{attempt, err.Error()}
}

// A sameDirectory has one subscriber for every ID.
type sameDirectory struct{ subscriber outhook.Subscriber }

func (d sameDirectory) Subscriber(context.Context, string) (outhook.Subscriber, error) {
	return d.subscriber, nil
}
