package hostile_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outhook/outhook"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

// A memoryCase is what a receiver sends to have memory held. The attempts wait for more.
type memoryCase struct {
	name string
	keep int // Options.KeepResponse
	text []byte
	h2   bool // text is frames of stream 1
}

// tinyLines is a header of so many bytes, with as many names as there is room for.
func tinyLines(size int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~"
	var b strings.Builder
	b.WriteString("HTTP/1.1 200 OK\n")
	for i := 0; b.Len() < size-len("aa:\n\n"); i++ {
		b.WriteByte(letters[i/len(letters)])
		b.WriteByte(letters[i%len(letters)])
		b.WriteString(":\n")
	}
	return b.String() + "\n"
}

// frames returns what write writes of stream 1.
func frames(write func(f *http2.Framer)) []byte {
	var b bytes.Buffer
	write(http2.NewFramer(&b, nil))
	return b.Bytes()
}

func memoryCases() []memoryCase {
	header := func(f *http2.Framer, fields ...string) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block("200", fields...), EndHeaders: true})
	}
	var lines []string
	for i := range 170 {
		lines = append(lines, fmt.Sprintf("%02x", i), "")
	}
	return []memoryCase{
		{name: "header of one line, unended", text: []byte("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 6000))},
		{name: "header of tiny lines", text: []byte(tinyLines(6 << 10))},
		{name: "header of equal lines", text: []byte("HTTP/1.1 200 OK\r\n" + strings.Repeat("a:\n", 2000) + "\n")},
		{name: "header of tiny lines, unended", text: []byte(strings.TrimSuffix(tinyLines(6<<10), "\n"))},
		{name: "header of equal lines, unended", text: []byte("HTTP/1.1 200 OK\r\n" + strings.Repeat("a:\n", 2000))},
		{name: "header of tiny lines, kept", keep: 1, text: []byte(tinyLines(6 << 10))},
		{name: "body", text: []byte("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", drained-1))},
		{name: "body, 1 MiB kept", keep: 1 << 20, text: []byte("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 1<<20-1))},
		{name: "chunks of a byte, 64 KiB kept", keep: 64 << 10,
			text: []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\nx\r\n", 64<<10-1))},
		{name: "HTTP/2, header of one line", h2: true, text: frames(func(f *http2.Framer) { header(f, "x", strings.Repeat("x", 6000)) })},
		{name: "HTTP/2, header of tiny lines", h2: true, text: frames(func(f *http2.Framer) { header(f, lines...) })},
		{name: "HTTP/2, body", h2: true, text: frames(func(f *http2.Framer) {
			header(f)
			_ = f.WriteData(1, false, make([]byte, drained-1))
		})},
		{name: "HTTP/2, body of a window", h2: true, keep: 256 << 10, text: frames(func(f *http2.Framer) {
			header(f)
			for range 2 {
				_ = f.WriteData(1, false, make([]byte, 16<<10-1))
			}
		})},
	}
}

const drained = 16 << 10 // of a body, beyond what is kept

// What an answer has the process hold, and allocate, is bounded.
func TestReceiversMemory(t *testing.T) {
	i := trustReceivers(t)
	for _, m := range memoryCases() {
		t.Run(m.name, func(t *testing.T) {
			const answers = 48
			var asked atomic.Int32
			speak := make(chan struct{})
			c := &receiverCase{secure: m.h2}
			c.receive = func(p *peer) {
				if p.request() {
					asked.Add(1)
					<-speak
					_, _ = p.Conn.Write(m.text)
					p.wait()
				}
			}
			if m.h2 {
				c.receive = overHTTP2(i, func(h *h2) {
					if h.request() {
						asked.Add(1)
						<-speak
						go func() { _, _ = h.Conn.Write(m.text) }() // it may need leave to send more
						h.read()
					}
				})
			}
			d, err := outhook.New(outhook.NewMemoryStore(), &outhook.Options{
				Guard: outhook.DevelopmentGuard(), KeepResponse: m.keep, Timeout: patience, Grace: -1,
				Concurrency: answers, SubscriberConcurrency: answers, Retry: outhook.Schedule(time.Hour),
			})
			require.NoError(t, err)
			receivers := make([]*receiver, answers)
			for n := range receivers {
				receivers[n] = listen(t, c)
				_, err := d.Send(t.Context(), outhook.Event{Type: "invoice.paid", Payload: &outhook.Payload{Body: []byte(payload)}},
					[]outhook.Subscriber{{ID: fmt.Sprintf("customer%d", n), URL: receivers[n].url, Unsigned: true}})
				require.NoError(t, err)
			}
			ctx, stop := context.WithCancel(t.Context())
			running := make(chan error, 1)
			go func() { running <- d.Run(ctx) }()
			require.Eventually(t, func() bool { return asked.Load() == answers }, patience, time.Millisecond)
			before := memory()
			close(speak)
			held, same := memory(), 0
			for began := time.Now(); same < 4 && time.Since(began) < patience; { // until all is read
				time.Sleep(20 * time.Millisecond)
				now := memory()
				if same++; now.TotalAlloc-held.TotalAlloc > 1<<10*answers {
					same = 0
				}
				held = now
			}
			stop()
			require.NoError(t, <-running)
			ended := worked()
			for _, w := range receivers {
				w.requireClosed(t, d, ended+slack)
			}
			per := (int(held.HeapAlloc) - int(before.HeapAlloc)) / answers
			t.Logf("figures: %s | held while it waits for more | %d KiB, of which %d KiB may be kept; %d KiB allocated", m.name, per>>10, m.keep>>10,
				int(held.TotalAlloc-before.TotalAlloc)/answers>>10)
			if underRace {
				per -= per / 6 // the detector has strings take more
			}
			require.Less(t, per, m.keep+(128<<10))
		})
	}
}

func memory() (m runtime.MemStats) {
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m
}
