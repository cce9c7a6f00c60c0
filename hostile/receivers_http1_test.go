package hostile_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
)

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

// reply reads the request and says a text. Then it waits.
func reply(text string) func(*peer) {
	return func(p *peer) {
		if p.request() && p.say(text) {
			p.wait()
		}
	}
}

// replyThen reads the request, says a text and goes on.
func replyThen(text string, then func(*peer)) func(*peer) {
	return func(p *peer) {
		if p.request() && p.say(text) {
			then(p)
		}
	}
}

func dripping(text string) func(*peer) { return func(p *peer) { p.drip(text) } }
func flooding(text string) func(*peer) { return func(p *peer) { p.flood(text) } }

// with is an answer of 503 with a header.
func with(header string) func(*peer) {
	return reply("HTTP/1.1 503 " + canary + "\r\nContent-Length: 0\r\n" + header + "\r\n\r\n")
}

func unavailable(retryAfter time.Duration) outcome {
	return outcome{state: outhook.Pending, status: 503, error: "status 503", retryAfter: retryAfter, sent: 1}
}

// bomb is 16 MiB when it is unpacked.
var bomb = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.CopyN(z, zeros{}, 16<<20)
	_ = z.Close()
	return b.Bytes()
})

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

const (
	large = 1 << 20 // a payload
	huge  = 8 << 20 // one that the buffers of the sockets do not hold
)

func http1Cases() []receiverCase {
	cases := []receiverCase{
		{name: "header dripped", hangs: true, want: failure(timedOut, 1),
			receive: replyThen("HTTP/1.1 200 OK\r\nX: ", dripping(canary))},
		{name: "status line dripped", hangs: true, want: failure(timedOut, 1),
			receive: replyThen("HTTP/1.1 200 ", dripping(canary))},
		{name: "no answer", hangs: true, want: failure(timedOut, 1), receive: reply("")},
		{name: "body dripped", hangs: true, want: delivered(200),
			receive: replyThen("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", dripping("x"))},
		{name: "body of a failure dripped", hangs: true, want: failed("status 503", 503),
			receive: replyThen("HTTP/1.1 503 No\r\n\r\n", dripping(canary))},
		{name: "endless chunks", want: delivered(200),
			receive: replyThen("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", flooding("400\r\n"+strings.Repeat("x", 1024)+"\r\n"))},
		{name: "endless chunks of a byte", want: delivered(200),
			receive: replyThen("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", flooding("1\r\nx\r\n"))},
		{name: "endless chunk extension", want: delivered(200),
			receive: replyThen("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=", flooding("x"))},
		{name: "endless trailer", want: delivered(200),
			receive: replyThen("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", flooding("X: x\r\n"))},
		{name: "endless body, kept in part", want: delivered(200), options: outhook.Options{KeepResponse: 1000},
			receive: replyThen("HTTP/1.1 200 OK\r\n\r\n", flooding("x")),
			check: func(t *testing.T, r outhook.Record, _ *receiver) {
				require.Len(t, r.Attempts[0].Body, 1000)
			}},
		{name: "gzip bomb", want: delivered(200), options: outhook.Options{KeepResponse: 1 << 20},
			receive: func(p *peer) {
				header := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n", len(bomb()))
				reply(header + string(bomb()))(p)
			},
			check: func(t *testing.T, r outhook.Record, _ *receiver) {
				require.Equal(t, bomb(), r.Attempts[0].Body, "it is kept as it is")
			}},
		{name: "header bomb, one line", want: failure(tooLong, 1),
			receive: replyThen("HTTP/1.1 200 OK\r\nX: ", flooding(canary))},
		{name: "header bomb, tiny lines", want: failure(tooLong, 1),
			receive: replyThen("HTTP/1.1 200 OK\r\n", flooding("a:\r\n"))},
		{name: "header bomb, status line", want: failure(tooLong, 1),
			receive: replyThen("HTTP/1.1 200 ", flooding(canary))},
		{name: "header over 6 KiB", want: failure(tooLong, 1),
			receive: reply("HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("x", 251)+"\r\n", 26) + "\r\n")},
		{name: "header of 5 KiB", want: delivered(200),
			receive: reply("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + strings.Repeat("X: "+strings.Repeat("x", 251)+"\r\n", 20) + "\r\n")},
		{name: "1xx flood", want: failure(tooLong, 1),
			receive: replyThen("", flooding("HTTP/1.1 103 Hints\r\n\r\n"))},
		{name: "1xx drip", hangs: true, want: failure(timedOut, 1),
			receive: replyThen("", dripping("HTTP/1.1 103 Hints\r\n\r\n"))},
		{name: "100 and 103 before the answer", want: delivered(200),
			receive: reply("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + ok)},
		{name: "101 with an open connection", want: failed("status 101", 101),
			receive: reply("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")},
		{name: "101 with an endless stream", want: failed("status 101", 101),
			options: outhook.Options{KeepResponse: 1000},
			receive: replyThen("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", flooding("x")),
			check: func(t *testing.T, r outhook.Record, _ *receiver) {
				require.Empty(t, r.Attempts[0].Body)
			}},
		{name: "never reads the request", hangs: true, size: huge, want: failure(timedOut, 0),
			receive: func(p *peer) { p.wait() }},
		{name: "never reads, but answers in drips", hangs: true, size: huge, want: failure(timedOut, 0),
			receive: func(p *peer) {
				if _, err := p.Read(make([]byte, 1)); err == nil {
					p.drip("H")
				}
			}},

		{name: "status 099", want: failure(malformed, 1), receive: reply("HTTP/1.1 099 " + canary + "\r\nContent-Length: 0\r\n\r\n")},
		{name: "status 000", want: failure(malformed, 1), receive: reply("HTTP/1.1 000 " + canary + "\r\nContent-Length: 0\r\n\r\n")},
		{name: "status 999", want: failed("status 999", 999), receive: reply("HTTP/1.1 999 " + canary + "\r\nContent-Length: 0\r\n\r\n")},
		{name: "status of letters", want: failure(malformed, 1), receive: reply("HTTP/1.1 " + canary[:3] + " OK\r\n\r\n")},
		{name: "status of four digits", want: failure(malformed, 1), receive: reply("HTTP/1.1 2000 " + canary + "\r\n\r\n")},
		{name: "escape codes in the reason phrase", want: failed("status 500", 500),
			receive: reply("HTTP/1.1 500 \x1b[31m" + canary + "\x1b]0;x\x07\r\nContent-Length: 0\r\n\r\n")},
		{name: "escape codes for an answer", want: failure(malformed, 1),
			receive: reply("\x1b[2J" + canary + "\r\n\r\n")},
		{name: "escape codes in a header", want: failure(malformed, 1),
			receive: reply("HTTP/1.1 200 OK\r\n\x1b[2J" + canary + "\r\n\r\n")},

		{name: "Retry-After, giant", want: unavailable(24 * time.Hour), receive: with("Retry-After: 99999999999999999999")},
		{name: "Retry-After, giant, own bound", want: unavailable(time.Minute), receive: with("Retry-After: 86400"),
			options: outhook.Options{MaxRetryAfter: time.Minute}},
		{name: "Retry-After, negative", want: unavailable(0), receive: with("Retry-After: -5")},
		{name: "Retry-After, malformed", want: unavailable(0), receive: with("Retry-After: 1e3 " + canary)},
		{name: "Retry-After, date in 9999", want: unavailable(24 * time.Hour), receive: with("Retry-After: Fri, 31 Dec 9999 23:59:59 GMT")},
		{name: "Retry-After, date in the past", want: unavailable(0), receive: with("Retry-After: Sun, 06 Nov 1994 08:49:37 GMT")},
		{name: "Retry-After, twice", want: unavailable(0), receive: with("Retry-After: 5\r\nRetry-After: 6")},
		{name: "Retry-After with 200", want: delivered(200), receive: reply("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nRetry-After: 86400\r\n\r\n")},

		{name: "early 413, then drains", size: huge, want: outcome{state: outhook.Pending, status: 413, error: "status 413", sent: anySent},
			receive: func(p *peer) {
				if _, ok := p.head(); ok && p.say("HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n") {
					_, _ = io.Copy(io.Discard, p.r)
				}
			}},
		{name: "early 413, then reads nothing", size: huge, want: outcome{state: outhook.Pending, status: 413, error: "status 413", sent: anySent},
			receive: func(p *peer) {
				if _, ok := p.head(); ok && p.say("HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n") {
					p.wait()
				}
			}},
		{name: "early 413, then closes", size: huge, want: outcome{state: outhook.Pending, status: 413, error: "status 413", sent: anySent},
			or: &outcome{state: outhook.Pending, error: closed, sent: anySent},
			receive: func(p *peer) {
				if _, ok := p.head(); ok && p.say("HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n") {
					_ = p.Close()
				}
			}},
		{name: "200 before the request is read", size: huge, want: outcome{state: outhook.Delivered, status: 200, sent: anySent},
			receive: func(p *peer) {
				if _, err := p.Read(make([]byte, 1)); err == nil && p.say(ok) {
					p.wait()
				}
			}},
		{name: "200 before there is a request", want: outcome{state: outhook.Delivered, status: 200, sent: anySent},
			or: &outcome{state: outhook.Pending, error: "the request failed", sent: anySent},
			receive: func(p *peer) {
				if p.say(ok) {
					p.wait()
				}
			}},
		{name: "two responses at once", want: delivered(200), receive: reply(ok + "HTTP/1.1 500 " + canary + "\r\n\r\n")},
		{name: "HTTP/0.9", want: failure(malformed, 1), receive: replyThen("<html>"+canary+"</html>\r\n", (*peer).fin)},
		{name: "another protocol", want: failure(malformed, 1), receive: reply("220 smtp.example.com ESMTP " + canary + "\r\n")},
		{name: "Content-Length beyond the body", want: delivered(200), receive: replyThen("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx", (*peer).fin)},
		{name: "Content-Length short of the body", want: delivered(200), receive: reply("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nHTTP/1.1 500 " + canary + "\r\n\r\n")},
		{name: "Content-Length, negative", want: failure(malformed, 1), receive: reply("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n")},
		{name: "Content-Length, malformed", want: failure(malformed, 1), receive: reply("HTTP/1.1 200 OK\r\nContent-Length: 0" + canary + "\r\n\r\n")},
		{name: "Content-Length, two", want: failure(malformed, 1), receive: reply("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")},
		{name: "Content-Length and Transfer-Encoding", want: delivered(200),
			receive: reply("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxxx\r\n0\r\n\r\n")},
		{name: "Transfer-Encoding, unknown", want: failure(malformed, 1), receive: reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: " + canary + "\r\n\r\n")},
		{name: "chunks, malformed", want: delivered(200), receive: reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + canary + "\r\n")},
		{name: "header without a colon", want: failure(malformed, 1), receive: reply("HTTP/1.1 200 OK\r\n" + canary + "\r\n\r\n")},
		{name: "header folded", want: delivered(200), receive: reply("HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n")},
	}
	for _, code := range []int{301, 302, 303, 307, 308} {
		cases = append(cases, receiverCase{
			name: fmt.Sprintf("redirect %d to loopback", code), want: failed(fmt.Sprintf("status %d", code), code),
			receive: func(p *peer) {
				for p.request() && p.say(fmt.Sprintf("HTTP/1.1 %d %s\r\nLocation: http://%s/inside\r\nContent-Length: 0\r\n\r\n", code, canary, p.LocalAddr())) {
				}
			},
			check: func(t *testing.T, _ outhook.Record, w *receiver) {
				require.Equal(t, 1, w.requests, "it was followed")
			},
		})
	}
	for _, end := range []struct {
		name string
		f    func(*peer)
	}{
		{"RST", (*peer).rst},
		{"FIN", func(p *peer) { p.fin(); p.wait() }},
	} {
		for _, phase := range []struct {
			name    string
			size    int
			want    outcome
			receive func(p *peer) bool
		}{
			{"before reading", 0, failure(closed, 0), func(*peer) bool { return true }},
			{"after the request's header", large, failure(closed, anySent), func(p *peer) bool { _, ok := p.head(); return ok }},
			{"in the request's body", large, failure(closed, 1), func(p *peer) bool {
				r, ok := p.head()
				if !ok {
					return false
				}
				_, err := io.CopyN(io.Discard, r.Body, large/2)
				return err == nil
			}},
			{"after the request", 0, failure(closed, 1), (*peer).request},
			{"in the status line", 0, failure(malformed, 1), func(p *peer) bool { return p.request() && p.say("HTTP/1.1 20") }},
			{"in the response's header", 0, failure(closed, 1), func(p *peer) bool { return p.request() && p.say("HTTP/1.1 200 OK\r\nX: ") }},
			{"in the response's body", 0, delivered(200), func(p *peer) bool {
				return p.request() && p.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nxxx")
			}},
			{"after a 2xx", 0, delivered(200), func(p *peer) bool { return p.request() && p.say(ok) }},
		} {
			cases = append(cases, receiverCase{
				name: end.name + " " + phase.name, size: phase.size, want: phase.want,
				receive: func(p *peer) {
					if phase.receive(p) {
						end.f(p)
					}
				},
			})
		}
	}
	for i := range cases {
		cases[i].cut = cases[i].hangs
	}
	return cases
}

func TestReceiversHTTP1(t *testing.T) { runReceivers(t, http1Cases()) }
