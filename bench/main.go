// Command bench measures what outhook costs beside the least that a service could do:
// a loop of http.Client that signs and posts. Both post the same bodies to the
// same receiver in this process, at the same concurrency, in turns.
package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/outhook/outhook"
)

type config struct {
	deliveries  int
	rounds      int
	concurrency int
	subscribers int
	body        int
	cpuprofile  string
}

func main() {
	var c config
	flag.IntVar(&c.deliveries, "n", 60_000, "deliveries per run")
	flag.IntVar(&c.rounds, "rounds", 7, "runs of each, in turns")
	flag.IntVar(&c.concurrency, "concurrency", 64, "requests in flight")
	flag.IntVar(&c.subscribers, "subscribers", 10, "subscribers of each event")
	flag.IntVar(&c.body, "body", 1024, "bytes of each body")
	flag.StringVar(&c.cpuprofile, "cpuprofile", "", "write a CPU profile of outhook's last run to this `file`")
	flag.Parse()
	if err := compare(context.Background(), c, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// compare prints the throughput of both, and the ratio of each round's pair.
func compare(ctx context.Context, c config, out io.Writer) error {
	receiver, err := listen()
	if err != nil {
		return err
	}
	defer receiver.close()
	key := outhook.GenerateKey()
	body := bytes.Repeat([]byte("x"), c.body)
	fmt.Fprintf(out, "%s %s/%s, %d CPUs, %d deliveries of %d bytes, %d in flight\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), c.deliveries, c.body, c.concurrency)

	bare := func() (run, error) { return bareLoop(ctx, c, receiver, key, body) }
	memory := func() (run, error) { return drain(ctx, c, receiver, key, body) }
	if _, err := bare(); err != nil { // warm up
		return err
	}
	if _, err := memory(); err != nil {
		return err
	}
	var bares, memories, ratios []float64
	for range c.rounds {
		b, err := bare()
		if err != nil {
			return err
		}
		m, err := memory()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "http.Client %v   memory %v   ratio %.2f\n", b, m, m.perSecond/b.perSecond)
		bares, memories, ratios = append(bares, b.perSecond), append(memories, m.perSecond), append(ratios, m.perSecond/b.perSecond)
	}
	fmt.Fprintf(out, "http.Client loop: %s\n", spread(bares))
	fmt.Fprintf(out, "memory, drain:    %s\n", spread(memories))
	slices.Sort(ratios)
	_, err = fmt.Fprintf(out, "bench: memory_vs_nethttp=%.2f\n", ratios[len(ratios)/2])
	return err
}

func spread(values []float64) string {
	slices.Sort(values)
	return fmt.Sprintf("median %.0f/s, from %.0f to %.0f", values[len(values)/2], values[0], values[len(values)-1])
}

// A run is one measurement.
type run struct {
	perSecond float64
	allocs    float64 // per delivery, the receiver's included
}

func (r run) String() string { return fmt.Sprintf("%6.0f/s %3.0f allocs", r.perSecond, r.allocs) }

// measure times f, which makes n posts, and checks that they have arrived.
func measure(n int, r *receiver, f func() error) (run, error) {
	r.requests.Store(0)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	if err := f(); err != nil {
		return run{}, err
	}
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	if got := r.requests.Load(); got != int64(n) {
		return run{}, fmt.Errorf("the receiver has seen %d requests, not %d", got, n)
	}
	return run{float64(n) / took.Seconds(), float64(after.Mallocs-before.Mallocs) / float64(n)}, nil
}

// bareLoop signs and posts with an http.Client, as the standard library has it.
func bareLoop(ctx context.Context, c config, r *receiver, key outhook.Key, body []byte) (run, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: c.concurrency}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	secret, err := base64.StdEncoding.DecodeString(key.Secret.Reveal()[len("whsec_"):])
	if err != nil {
		return run{}, err
	}
	post := func() error {
		id, timestamp := uuid.Must(uuid.NewV7()).String(), strconv.FormatInt(time.Now().Unix(), 10)
		h := hmac.New(sha256.New, secret)
		h.Write([]byte(id + "." + timestamp + "."))
		h.Write(body)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("User-Agent", "outhook/1")
		req.Header.Set("webhook-id", id)
		req.Header.Set("webhook-timestamp", timestamp)
		req.Header.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
		response, err := client.Do(req)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, response.Body)
		return response.Body.Close()
	}
	return measure(c.deliveries, r, func() error {
		var next atomic.Int64
		var workers sync.WaitGroup
		errs := make(chan error, c.concurrency)
		for range c.concurrency {
			workers.Go(func() {
				for next.Add(1) <= int64(c.deliveries) {
					if err := post(); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		workers.Wait()
		close(errs)
		return <-errs
	})
}

// drain delivers a backlog from a MemoryStore.
func drain(ctx context.Context, c config, r *receiver, key outhook.Key, body []byte) (run, error) {
	store := &outhook.MemoryStore{MaxPending: c.deliveries, MaxPerSubscriber: c.deliveries}
	d, err := outhook.New(store, &outhook.Options{
		Guard:                 outhook.DevelopmentGuard(),
		Concurrency:           c.concurrency,
		SubscriberConcurrency: c.concurrency,
	})
	if err != nil {
		return run{}, err
	}
	subscribers := make([]outhook.Subscriber, c.subscribers)
	for i := range subscribers {
		subscribers[i] = outhook.Subscriber{ID: strconv.Itoa(i), URL: r.url, Keys: []outhook.Key{key}}
	}
	for left := c.deliveries; left > 0; left -= len(subscribers) {
		event := outhook.Event{Type: "bench.event", Payload: &outhook.Payload{Body: body}}
		if _, err := d.Send(ctx, event, subscribers[:min(left, len(subscribers))]); err != nil {
			return run{}, err
		}
	}
	if c.cpuprofile != "" {
		f, err := os.Create(c.cpuprofile)
		if err != nil {
			return run{}, err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return run{}, err
		}
		defer pprof.StopCPUProfile()
	}
	return measure(c.deliveries, r, func() error {
		_, err := d.Drain(ctx)
		return err
	})
}

// A receiver reads and counts requests, and answers 200.
type receiver struct {
	url      string
	requests atomic.Int64
	close    func()
}

func listen() (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &receiver{url: "http://" + l.Addr().String() + "/"}
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body)
			r.requests.Add(1)
		}),
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	r.close = func() {
		_ = server.Close()
		serving.Wait()
	}
	return r, nil
}
