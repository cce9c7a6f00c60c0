//go:build unix

package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A plan is what a run is to do.
type plan struct {
	scenarios []string
	stores    []string // and River: all contenders but the bare loop

	n           int // deliveries of a measurement
	rounds      int
	concurrency int // requests in flight
	subscribers int
	fanout      int // subscribers of an event that is sent
	senders     int
	connections int // to PostgreSQL
	body        int // bytes

	least      int           // deliveries of those who make many in a second
	tries      int           // of those in a round; the middle one counts
	long       int           // rounds of scenarios that take long
	waiting    int           // for each subscriber that hangs or fails
	steady     time.Duration // of a load at half the capacity
	backlogs   []int         // that are claimed from
	claims     int           // from each
	idle       time.Duration
	pending    int // deliveries in a MemoryStore
	signatures int
	simulated  simulationPlan

	strict   bool // each delivery is noted, to see that it arrives once
	profiles string
	markdown string
	svg      string
}

func parse(args []string) (p plan, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := f.Bool("quick", false, "measure less, in under a minute")
	scenarios := f.String("scenario", "", "`names` of scenarios, with commas; all by default: "+strings.Join(scenarioNames(), ","))
	stores := f.String("stores", "memory,sqlite,postgres,river", "`names` of the contenders")
	f.IntVar(&p.n, "n", 0, "deliveries of a measurement (default 20000, quick 2500)")
	f.IntVar(&p.rounds, "rounds", 0, "measurements of each, in turns (default 5, quick 3)")
	f.IntVar(&p.concurrency, "concurrency", 64, "requests in flight")
	f.IntVar(&p.subscribers, "subscribers", 10, "subscribers in all")
	f.IntVar(&p.fanout, "fanout", 10, "subscribers of each event that is sent")
	f.IntVar(&p.senders, "senders", 64, "concurrent senders")
	f.IntVar(&p.connections, "connections", 16, "connections of a store to PostgreSQL")
	f.IntVar(&p.body, "body", 1024, "bytes of each body")
	f.BoolVar(&p.strict, "strict", false, "note each delivery, to see that it arrives exactly once")
	f.StringVar(&p.profiles, "profiles", "", "write profiles of CPU and allocations of each last round to this `directory`")
	f.StringVar(&p.markdown, "markdown", "", "write the figures as a table to this `file`")
	f.StringVar(&p.svg, "svg", "", "write the chart to this `file`")
	if err := f.Parse(args); err != nil {
		return p, err
	}
	if p.scenarios = scenarioNames(); *scenarios != "" {
		p.scenarios = strings.Split(*scenarios, ",")
	}
	p.stores = strings.Split(*stores, ",")
	if p.n == 0 {
		p.n = pick(*quick, 2_500, 20_000)
	}
	p.least, p.tries = pick(*quick, 6_000, 20_000), pick(*quick, 1, 3)
	p.long = pick(*quick, 2, 5)
	p.waiting = pick(*quick, 1_000, 10_000)
	p.steady, p.idle = 1500*time.Millisecond, 10*time.Second
	p.backlogs, p.claims = []int{1_000, 10_000, 100_000, 1_000_000}, 200
	p.pending, p.signatures = pick(*quick, 20_000, 100_000), pick(*quick, 10_000, 20_000)
	p.simulated = simulationPlan{Seed: 1, Subscribers: 10_000, Rate: 150, Lasts: time.Duration(pick(*quick, 1, 15)) * time.Minute}
	if *quick {
		p.steady, p.idle = 300*time.Millisecond, 2*time.Second
		p.backlogs, p.claims = []int{1_000, 20_000}, 50
	}
	if p.rounds == 0 {
		p.rounds = pick(*quick, 3, 5)
	}
	return p, p.check()
}

func pick(quick bool, little, much int) int {
	if quick {
		return little
	}
	return much
}

func (p *plan) check() error {
	for _, s := range p.scenarios {
		if !slices.Contains(scenarioNames(), s) {
			return fmt.Errorf("there is no scenario %q", s)
		}
	}
	for _, s := range p.stores {
		if !slices.Contains([]string{memory, sqlite, postgres, riverJob}, s) {
			return fmt.Errorf("there is no contender %q", s)
		}
	}
	if min(p.n, p.rounds, p.concurrency, p.subscribers, p.fanout, p.senders, p.connections, p.body) < 1 {
		return errors.New("a flag is less than 1")
	}
	if p.subscribers > maxPaths {
		return fmt.Errorf("there can be %d subscribers", maxPaths)
	}
	return nil
}
