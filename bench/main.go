//go:build unix

// Command bench measures what outhook costs, on each of its stores, beside the least
// that a service could do, a loop of http.Client that signs and posts, and beside
// River with a worker that does so. All post the same bodies to the same receiver in
// this process, at the same concurrency, in turns.
package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/outhook/outhook"
)

func main() {
	if beChild() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p, err := parse(os.Args[1:])
	if err == nil {
		err = start(ctx, p, os.Stdout)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A bench is one run of the program.
type bench struct {
	plan        plan
	out         io.Writer
	key         outhook.Key
	body        []byte
	subscribers []outhook.Subscriber
	receiver    *receiver
	database    *databaseServer
	last        bool // round

	figures, details []figure
	simulated        string // a table
}

type scenario struct {
	name string
	run  func(ctx context.Context, b *bench) error
}

func scenarios() []scenario {
	return []scenario{
		{drain, throughput(drain)},
		{flow, throughput(flow)},
		{single, throughput(single)},
		{"hung", beside(hung())},
		{"health", beside(unhealthy())},
		{"latency", latency},
		{"fanout", fanout},
		{"claims", claims},
		{"processes", processes},
		{"bodies", bodies},
		{"idle", idle},
		{"pending", pending},
		{"allocations", allocations},
		{"signing", signing},
		{"simulation", simulate},
	}
}

func scenarioNames() (names []string) {
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return names
}

func start(ctx context.Context, p plan, out io.Writer) (err error) {
	b := &bench{plan: p, out: out, key: outhook.GenerateKey(), body: text(p.body)}
	if b.receiver, err = listen(); err != nil {
		return err
	}
	defer b.receiver.close()
	for i := range p.subscribers {
		b.subscribers = append(b.subscribers, b.subscriber(i))
	}
	if b.database, err = startDatabase(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.database.stop()) }()

	b.logf("%s %s/%s, %d CPUs, %d deliveries of %d bytes, %d in flight",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), p.n, p.body, p.concurrency)
	for _, s := range scenarios() {
		for _, name := range p.scenarios {
			if s.name == name {
				began := time.Now()
				if err := s.run(ctx, b); err != nil {
					return err
				}
				b.logf("%s took %.1f s", name, time.Since(began).Seconds())
			}
		}
	}
	if p.markdown != "" {
		if err := b.writeTable(ctx, p.markdown); err != nil {
			return err
		}
	}
	if p.svg != "" {
		return b.writeChart(p.svg)
	}
	return nil
}

func (b *bench) subscriber(i int) outhook.Subscriber {
	return outhook.Subscriber{ID: subscriberID(i), URL: b.receiver.path(i), Keys: []outhook.Key{b.key}}
}

func subscriberID(i int) string { return "subscriber-" + strconv.Itoa(i) }

// text returns n bytes that a database cannot compress much.
func text(n int) []byte {
	random := make([]byte, n)
	_, _ = rand.Read(random)
	return []byte(base64.StdEncoding.EncodeToString(random)[:n])
}
