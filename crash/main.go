//go:build unix

// Command crash kills workers and stores while they deliver, and counts what was lost.
//
//	go run ./crash -store postgres
//	go run ./crash -store sqlite -kills 100 -deliveries 50000 -seed 7
//	go run ./crash -scenario order -store postgres
//	go run ./crash -scenario rate -store sqlite
//
// One process, the parent, runs the receiver of all webhooks and starts
// the others, which are this program again in another role: senders, which send the
// events of the plan, and workers, which run a Dispatcher. All share one
// store. The parent kills them, stops them and disturbs the store, lets what is left be
// delivered, and then holds the receiver's log and the store's records against
// what the senders have had accepted. It exits with 1 if anything is amiss.
//
// Scenarios show more: order, that the events of a key come one after the other,
// with workers killed meanwhile; rate, pause and breaker, that a pace, a Retry-After and an
// open breaker hold over all workers, of which breaker kills some.
//
// Read in this order:
//
//   - plan.go: which events there are, and how the receiver answers
//   - receiver.go, sender.go, worker.go: the three roles
//   - run.go: the parent
//   - faults.go: what is done to processes
//   - postgres.go, sqlite.go: the stores, and what is done to them
//   - check.go: what must be true at the end
//   - trial.go: how rate, pause and breaker run
//   - order.go, rate.go, pause.go, probe.go: what must be true of each scenario
//   - process.go, clock.go: processes that end with the parent, and wrong clocks
//
// What is drawn at random follows from -seed. What the scheduler makes of it does not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if roleOf() != "" {
		os.Exit(playRole())
	}
	p, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = run(ctx, p, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		os.Exit(1)
	}
}

// defaults returns the flags of a scenario where they differ from those of the first.
func defaults(scenario string) []string {
	common := []string{"-subscribers", "1", "-stops", "0", "-rounds", "0", "-skew", "0s"}
	switch scenario {
	case scenarioOrder:
		return append(common, "-kills", "2", "-deliveries", "10000", "-senders", "1", "-spread", "1m")
	case scenarioRate:
		return append(common, "-kills", "0", "-deliveries", "3000", "-processes", "4")
	case scenarioPause:
		return append(common, "-kills", "0", "-deliveries", "300", "-processes", "4")
	case scenarioBreaker:
		return append(common, "-kills", "1", "-deliveries", "300", "-processes", "4")
	}
	return nil
}

// parse returns the plan that the flags ask for.
func parse(args []string) (plan, error) {
	p, err := parseFrom(args)
	if err != nil {
		return plan{}, err
	}
	return parseFrom(append(defaults(p.Scenario), args...))
}

func parseFrom(args []string) (plan, error) {
	var p plan
	f := flag.NewFlagSet("crash", flag.ContinueOnError)
	f.StringVar(&p.Scenario, "scenario", scenarioLoss, "loss, order, rate, pause or breaker")
	f.StringVar(&p.Store, "store", "postgres", "postgres or sqlite")
	f.IntVar(&p.Kills, "kills", 100, "how many workers are killed")
	deliveries := f.Int("deliveries", 50_000, "how many deliveries there are, in all")
	f.IntVar(&p.Subscribers, "subscribers", 50, "how many subscribers get each event")
	f.IntVar(&p.Workers, "processes", 3, "how many workers run at a time")
	f.IntVar(&p.Senders, "senders", 2, "how many senders run at a time")
	f.IntVar(&p.Stops, "stops", 2, "how many workers are stopped for longer than their lease, and resumed")
	f.IntVar(&p.Keys, "keys", 100, "order: how many order keys there are")
	f.IntVar(&p.Repeats, "repeats", 4, "pause: how many pauses are asked for; breaker: how many probes fail")
	f.IntVar(&p.Rounds, "rounds", 3, "how often each fault of the database is caused")
	f.DurationVar(&p.Spread, "spread", 2*time.Minute, "time over which all this is spread")
	f.DurationVar(&p.Skew, "skew", 10*time.Minute, "postgres: how far the clock of every second worker is ahead, and of every third behind")
	f.Uint64Var(&p.Seed, "seed", rand.Uint64(), "of what is drawn at random")
	f.BoolVar(&p.Verbose, "v", false, "tell what happens")
	if err := f.Parse(args); err != nil {
		return plan{}, err
	}
	if min(p.Subscribers, p.Workers, p.Senders, p.Keys, p.Repeats) < 1 || min(p.Kills, p.Stops, p.Rounds, *deliveries) < 0 || p.Spread <= 0 {
		return plan{}, errors.New("a flag is negative, or a count zero that must not be")
	}
	if p.Workers < 2 && p.Stops > 0 {
		return plan{}, errors.New("stops need two processes: one that is stopped, and another that takes over")
	}
	switch p.Scenario {
	case scenarioLoss, scenarioOrder, scenarioRate, scenarioPause, scenarioBreaker:
	default:
		return plan{}, fmt.Errorf("there is no scenario %q", p.Scenario)
	}
	p.Events = (*deliveries + p.Subscribers - 1) / p.Subscribers
	return p, nil
}
