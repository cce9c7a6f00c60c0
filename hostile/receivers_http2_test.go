package hostile_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An h2 is a receiver's end of a connection of HTTP/2, frame by frame.
type h2 struct {
	*peer
	*http2.Framer
	stream uint32 // of the latest request
}

// overHTTP2 makes the handshakes before it calls receive.
func overHTTP2(i *issuer, receive func(h *h2), settings ...http2.Setting) func(*peer) {
	config := i.config("127.0.0.1", time.Now().Add(time.Hour), "h2")
	return overTLS(config, func(p *peer) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(p.r, preface); err != nil {
			return
		}
		h := &h2{peer: p, Framer: http2.NewFramer(p.Conn, p.r)}
		if h.WriteSettings(settings...) == nil {
			receive(h)
		}
	})
}

// headers reads frames until those of the header of a request.
func (h *h2) headers() (ended, ok bool) {
	for {
		f, err := h.ReadFrame()
		if err != nil {
			return false, false
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			h.stream = f.StreamID
			h.w.mu.Lock()
			h.w.requests++
			h.w.mu.Unlock()
			return f.StreamEnded(), true
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = h.WriteSettingsAck()
			}
		}
	}
}

// body reads frames until the end of the request, and lets it send more.
func (h *h2) body() bool {
	for {
		f, err := h.ReadFrame()
		if err != nil {
			return false
		}
		if data, ok := f.(*http2.DataFrame); ok {
			if n := uint32(len(data.Data())); n > 0 {
				_ = h.WriteWindowUpdate(0, n)
				_ = h.WriteWindowUpdate(h.stream, n)
			}
			if data.StreamEnded() {
				return true
			}
		}
	}
}

// request reads one.
func (h *h2) request() bool {
	ended, ok := h.headers()
	return ok && (ended || h.body())
}

// respond writes the header of a response: a status and then names and values.
func (h *h2) respond(end bool, status string, fields ...string) bool {
	return h.WriteHeaders(http2.HeadersFrameParam{
		StreamID: h.stream, BlockFragment: block(status, fields...), EndHeaders: true, EndStream: end,
	}) == nil
}

func block(status string, fields ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	if status != "" {
		_ = e.WriteField(hpack.HeaderField{Name: ":status", Value: status})
	}
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: true}) // not in the table
	}
	return b.Bytes()
}

// read reads all frames until the connection ends.
func (h *h2) read() {
	for {
		if _, err := h.ReadFrame(); err != nil {
			return
		}
	}
}

// reading reads all frames while f runs.
func (h *h2) reading(f func()) {
	var wg sync.WaitGroup
	wg.Go(h.read)
	f()
	wg.Wait()
}

// after reads a request, calls f and reads on.
func after(f func(h *h2)) func(h *h2) {
	return func(h *h2) {
		if h.request() {
			f(h)
			h.read()
		}
	}
}

// each does so with every request.
func each(f func(h *h2)) func(h *h2) {
	return func(h *h2) {
		for h.request() {
			f(h)
		}
	}
}

func with2(status string, fields ...string) func(h *h2) {
	return after(func(h *h2) { h.respond(true, status, fields...) })
}

func http2Cases(i *issuer) []receiverCase {
	requests := func(n int) func(*testing.T, outhook.Record, *receiver) {
		return func(t *testing.T, _ outhook.Record, w *receiver) { require.Equal(t, n, w.requests) }
	}
	resetBy := func(code http2.ErrCode) func(h *h2) {
		return each(func(h *h2) { _ = h.WriteRSTStream(h.stream, code) })
	}
	goAway := func(last uint32, code http2.ErrCode, then func(h *h2)) func(h *h2) {
		return func(h *h2) {
			if h.request() {
				_ = h.WriteGoAway(last, code, []byte(canary))
				then(h)
				h.read()
			}
		}
	}
	nothing, fin := func(*h2) {}, func(h *h2) { h.fin() }
	tooLate := failure("the request failed", 0) // if its settings come before the request
	refused := failure(untaken, 4)
	refused.attempts = 4 // at once, each with the payload
	bareRefused := refused
	bareRefused.sent = 0

	type hcase struct {
		receiverCase
		receive  func(h *h2)
		settings []http2.Setting
	}
	hcases := []hcase{
		{receiverCase{name: "delivers", want: delivered(200)}, with2("200"), nil},
		{receiverCase{name: "no answer", hangs: true, want: failure(timedOut, 1)}, after(nothing), nil},
		{receiverCase{name: "status 099", want: failure(malformed, 1)}, with2("099"), nil},
		{receiverCase{name: "status 1000", want: failure(malformed, 1)}, with2("1000"), nil},
		{receiverCase{name: "status of letters", want: failure(malformed, 1)}, with2(canary), nil},
		{receiverCase{name: "no status", want: failure(malformed, 1)}, with2("", "x", "y"), nil},
		{receiverCase{name: "status 999", want: failed("status 999", 999)}, with2("999"), nil},
		{receiverCase{name: "101", hangs: true, want: failure(timedOut, 1)}, after(func(h *h2) { h.respond(false, "101") }), nil},
		{receiverCase{name: "redirect to loopback", want: failed("status 307", 307), check: requests(1)},
			each(func(h *h2) { h.respond(true, "307", "location", "https://"+h.LocalAddr().String()+"/inside") }), nil},
		{receiverCase{name: "name in capitals", want: failure(malformed, 1)}, with2("200", "X-"+canary, "y"), nil},
		{receiverCase{name: "Retry-After, giant", want: unavailable(24 * time.Hour)}, with2("503", "retry-after", "99999999999"), nil},

		{receiverCase{name: "body dripped", hangs: true, want: delivered(200)}, after(func(h *h2) {
			h.respond(false, "200")
			for h.WriteData(h.stream, false, []byte("x")) == nil {
				select {
				case <-h.w.done:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		}), nil},
		{receiverCase{name: "endless body", want: delivered(200)}, after(func(h *h2) {
			h.respond(false, "200")
			h.reading(func() {
				for h.WriteData(h.stream, false, make([]byte, 1000)) == nil {
				}
			})
		}), nil},
		{receiverCase{name: "body beyond the flow control window", want: delivered(200)}, after(func(h *h2) {
			h.respond(false, "200")
			for range 100 { // without waiting for leave
				if h.WriteData(h.stream, false, make([]byte, 16<<10)) != nil {
					return
				}
			}
		}), nil},
		{receiverCase{name: "frame longer than allowed", want: failure(malformed, 1)}, after(func(h *h2) {
			_ = h.WriteRawFrame(0xbe, 0, h.stream, make([]byte, 64<<10))
			h.respond(true, "200")
		}), nil},
		{receiverCase{name: "header bomb, one line", want: failure(malformed, 1)}, with2("200", "x", strings.Repeat("x", 12<<10)), nil},
		{receiverCase{name: "header bomb, tiny lines", want: failure(tooLong, 1)}, after(func(h *h2) {
			var fields []string
			for range 1000 {
				fields = append(fields, "a", "")
			}
			h.respond(true, "200", fields...)
		}), nil},
		{receiverCase{name: "header bomb, packed by a table", want: failure(tooLong, 1)}, after(func(h *h2) {
			var b bytes.Buffer
			e := hpack.NewEncoder(&b)
			_ = e.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
			for range 4000 { // a byte each, after the first
				_ = e.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("x", 3000)})
			}
			_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: h.stream, BlockFragment: b.Bytes(), EndHeaders: true, EndStream: true})
		}), nil},
		{receiverCase{name: "endless CONTINUATION", want: failure(malformed, 1)}, after(func(h *h2) {
			_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: h.stream, BlockFragment: block("200")})
			for h.WriteContinuation(h.stream, false, block("", "x", strings.Repeat("x", 1000))) == nil {
			}
		}), nil},
		{receiverCase{name: "endless empty CONTINUATION", hangs: true, want: failure(timedOut, 1)}, after(func(h *h2) {
			_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: h.stream, BlockFragment: block("200")})
			for h.WriteContinuation(h.stream, false, nil) == nil {
			}
		}), nil},
		{receiverCase{name: "1xx flood", want: failure(tooLong, 1)}, after(func(h *h2) {
			for h.respond(false, "103", "link", "x") {
			}
		}), nil},
		{receiverCase{name: "trailers after trailers", want: delivered(200)}, after(func(h *h2) {
			h.respond(false, "200")
			h.respond(false, "", "x", "y")
		}), nil},
		{receiverCase{name: "PING flood", hangs: true, want: failure(timedOut, 1)}, after(func(h *h2) {
			h.reading(func() {
				for h.WritePing(false, [8]byte{}) == nil {
				}
			})
		}), nil},
		{receiverCase{name: "PING flood, answers unread", hangs: true, want: failure(timedOut, 1)}, after(func(h *h2) {
			for h.WritePing(false, [8]byte{}) == nil {
			}
		}), nil},
		{receiverCase{name: "SETTINGS flood, answers unread", hangs: true, want: failure(timedOut, 1)}, after(func(h *h2) {
			for h.WriteSettings() == nil {
			}
		}), nil},
		{receiverCase{name: "flow control stalled", size: large, hangs: true, want: failure(timedOut, anySent)}, after(nothing),
			[]http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}},
		{receiverCase{name: "flow control by the byte", size: large, hangs: true, want: failure(timedOut, anySent)}, func(h *h2) {
			if _, ok := h.headers(); !ok {
				return
			}
			h.reading(func() {
				for h.WriteWindowUpdate(h.stream, 1) == nil {
					select {
					case <-h.w.done:
						return
					case <-time.After(20 * time.Millisecond):
					}
				}
			})
		}, []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}},
		{receiverCase{name: "flow control window overflown", want: failure(malformed, 1)}, after(func(h *h2) {
			_ = h.WriteWindowUpdate(0, 1<<31-1)
		}), nil},
		{receiverCase{name: "never reads the request", size: huge, hangs: true, cut: true, want: failure(timedOut, 0)}, func(h *h2) {
			_ = h.WriteWindowUpdate(0, 1<<30)
			h.wait()
		}, []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 1 << 30}}},
		{receiverCase{name: "never reads the request, but answers", size: huge, hangs: true, cut: true, want: outcome{state: outhook.Delivered, status: 200, sent: anySent}}, func(h *h2) {
			if _, ok := h.headers(); ok {
				h.respond(false, "200") // first: once its writes are stuck, net/http takes no SETTINGS, and nothing behind them
				_ = h.WriteWindowUpdate(0, 1<<30)
				_ = h.WriteWindowUpdate(h.stream, 1<<30)
				h.stuck()
				_ = h.WriteData(h.stream, false, make([]byte, 10<<10))
				h.wait()
			}
		}, nil},
		{receiverCase{name: "no streams allowed", hangs: true, want: failure(timedOut, anySent), or: &tooLate}, after(nothing),
			[]http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 0}}},
		{receiverCase{name: "early 413, then reads nothing", size: huge, want: outcome{state: outhook.Pending, status: 413, error: "status 413", sent: anySent}}, func(h *h2) {
			if _, ok := h.headers(); ok {
				h.respond(true, "413")
				h.wait()
			}
		}, nil},
		{receiverCase{name: "early 413, then RST_STREAM", size: huge, want: outcome{state: outhook.Pending, status: 413, error: "status 413", sent: anySent}}, func(h *h2) {
			if _, ok := h.headers(); ok {
				h.respond(true, "413")
				_ = h.WriteRSTStream(h.stream, http2.ErrCodeNo)
				h.read()
			}
		}, nil},
		{receiverCase{name: "RST_STREAM after a 2xx", want: delivered(200)}, after(func(h *h2) {
			h.respond(false, "200")
			_ = h.WriteRSTStream(h.stream, http2.ErrCodeInternal)
		}), nil},
		{receiverCase{name: "RST after the request", want: failure(closed, 1)}, after(func(h *h2) { h.rst() }), nil},
		{receiverCase{name: "FIN after the request", want: failure(closed, 1)}, after(fin), nil},
		{receiverCase{name: "RST in the response's body", want: delivered(200)}, after(func(h *h2) {
			h.respond(false, "200", "content-length", "100")
			h.rst()
		}), nil},
		{receiverCase{name: "refused stream", want: refused, check: requests(4)}, resetBy(http2.ErrCodeRefusedStream), nil},
		{receiverCase{name: "refused stream, no payload", size: -1, want: bareRefused, check: requests(4)}, resetBy(http2.ErrCodeRefusedStream), nil},
		{receiverCase{name: "refused stream, then taken", want: outcome{state: outhook.Delivered, status: 200, attempts: 2, sent: 2}}, each(func(h *h2) {
			if h.number == 0 && h.stream == 1 {
				_ = h.WriteRSTStream(h.stream, http2.ErrCodeRefusedStream)
			} else {
				h.respond(true, "200")
			}
		}), nil},
		{receiverCase{name: "GOAWAY before the request is taken", want: refused}, goAway(0, http2.ErrCodeNo, nothing), nil},
		// If there is no FIN, net/http may keep a connection that nobody uses, as any that is idle.
		{receiverCase{name: "GOAWAY before it is taken, no payload, then FIN", size: -1, want: bareRefused, check: requests(4)}, goAway(0, http2.ErrCodeNo, fin), nil},
		{receiverCase{name: "GOAWAY for cause", want: failure(closed, 1)}, goAway(0, http2.ErrCodeEnhanceYourCalm, nothing), nil},
		{receiverCase{name: "GOAWAY after it is taken, then an answer", want: delivered(200)}, goAway(1, http2.ErrCodeNo, func(h *h2) { h.respond(true, "200") }), nil},
		{receiverCase{name: "GOAWAY after it is taken, then FIN", want: failure(closed, 1)}, goAway(1, http2.ErrCodeNo, fin), nil},
		{receiverCase{name: "GOAWAY after it is taken, then nothing", hangs: true, want: failure(timedOut, 1)}, goAway(1, http2.ErrCodeNo, nothing), nil},
		{receiverCase{name: "GOAWAY within a 2xx", want: delivered(200)}, after(func(h *h2) {
			h.respond(false, "200")
			_ = h.WriteGoAway(1, http2.ErrCodeNo, nil)
			_ = h.WriteData(h.stream, true, nil)
		}), nil},
		{receiverCase{name: "GOAWAY after a 2xx, then FIN", want: delivered(200)}, after(func(h *h2) {
			h.respond(true, "200")
			_ = h.WriteGoAway(1, http2.ErrCodeNo, nil)
			h.fin()
		}), nil},
		{receiverCase{name: "PUSH_PROMISE", want: failure(malformed, 1)}, after(func(h *h2) {
			_ = h.WritePushPromise(http2.PushPromiseParam{StreamID: h.stream, PromiseID: 2, BlockFragment: block("200"), EndHeaders: true})
		}), nil},
		{receiverCase{name: "HTTP/1 in its place", want: failure(malformed, 1)}, after(func(h *h2) { // not before there is one: it is not sent then, and says nothing of why
			_, _ = io.WriteString(h.Conn, "HTTP/1.1 400 "+canary+"\r\n\r\n"+strings.Repeat("x", 20<<10))
		}), nil},
	}
	for code := http2.ErrCodeNo; code <= http2.ErrCodeHTTP11Required; code++ {
		if code == http2.ErrCodeRefusedStream {
			continue
		}
		hcases = append(hcases, hcase{receiverCase{
			name: fmt.Sprintf("RST_STREAM, %v", code), want: failure(reset, 1), check: requests(1),
		}, resetBy(code), nil})
	}
	cases := make([]receiverCase, len(hcases))
	for n, h := range hcases {
		h.secure = true
		h.receiverCase.receive = overHTTP2(i, h.receive, h.settings...)
		cases[n] = h.receiverCase
	}
	return cases
}

func TestReceiversHTTP2(t *testing.T) { runReceivers(t, http2Cases(trustReceivers(t))) }
