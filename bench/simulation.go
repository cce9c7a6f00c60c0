//go:build unix

package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/outhook/outhook"
)

// A simulation has a Dispatcher with its default options deliver to many subscribers
// who are as they are in life, in a time that passes at once. What is drawn at random
// comes from the seed.
type simulation struct {
	simulationPlan

	mu    sync.Mutex // guards all below
	sent  map[string]time.Time
	lanes []lane
	stats []groupStats
}

type simulationPlan struct {
	Seed        uint64
	Subscribers int
	Rate        float64 // deliveries per second
	Lasts       time.Duration
	Cured       bool // none fails
}

// A group is subscribers that are alike.
type group struct {
	name   string
	fails  bool
	share  float64       // of the subscribers, in percent
	median time.Duration // of the latency, which is distributed log-normally
	spread float64       // sigma of that
	answer func(s *simulation, l *lane, draw float64) *http.Response
}

// outage is when the receivers of a group are down, as parts of the simulation.
const outageBegins, outageEnds = 0.2, 0.5

func groups() []group {
	ok := func(*simulation, *lane, float64) *http.Response { return reply(http.StatusOK) }
	return []group{
		{"healthy", false, 90, 80 * time.Millisecond, 0.6, ok},
		{"slow", false, 5, 2 * time.Second, 0.5, ok},
		{"flaky: one in five fails", true, 2, 120 * time.Millisecond, 0.8, func(_ *simulation, _ *lane, draw float64) *http.Response {
			if draw < 0.2 {
				return reply(http.StatusServiceUnavailable)
			}
			return reply(http.StatusOK)
		}},
		{"limited to one in 2 s: 429", true, 1, 60 * time.Millisecond, 0.4, func(_ *simulation, l *lane, _ float64) *http.Response {
			if now := time.Now(); now.Before(l.next) {
				r := reply(http.StatusTooManyRequests)
				r.Header.Set("Retry-After", "5")
				return r
			} else {
				l.next = now.Add(2 * time.Second)
			}
			return reply(http.StatusOK)
		}},
		{"down for a while: 502", true, 1, 40 * time.Millisecond, 0.4, func(s *simulation, l *lane, _ float64) *http.Response {
			if part := float64(time.Since(l.began)) / float64(s.Lasts); part >= outageBegins && part < outageEnds {
				return reply(http.StatusBadGateway)
			}
			return reply(http.StatusOK)
		}},
		{"broken: 500", true, 0.5, 50 * time.Millisecond, 0.4, func(*simulation, *lane, float64) *http.Response {
			return reply(http.StatusInternalServerError)
		}},
		{"hanging", true, 0.5, time.Hour, 0, ok},
	}
}

func reply(status int) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody}
}

// A lane is a subscriber.
type lane struct {
	group int
	began time.Time // of the simulation
	next  time.Time // when a limited one takes a request
}

// groupStats are what a group has come to.
type groupStats struct {
	Subscribers int
	Sent        int
	Delivered   int
	Attempts    int
	Busy        time.Duration   // slots
	Waits       []time.Duration // from Send to the first attempt
	Ages        []time.Duration // from Send to delivered
}

// run simulates. Time is that of a synctest bubble.
func (s *simulation) run(ctx context.Context) error {
	began := time.Now()
	random := rand.New(rand.NewPCG(s.Seed, 1))
	s.sent = make(map[string]time.Time)
	s.stats = make([]groupStats, len(groups()))
	subscribers := make([]outhook.Subscriber, s.Subscribers)
	for i := range subscribers {
		g := s.draw(random.Float64() * 100)
		s.stats[g].Subscribers++
		s.lanes = append(s.lanes, lane{group: g, began: began})
		subscribers[i] = outhook.Subscriber{ID: strconv.Itoa(i), URL: "https://" + strconv.Itoa(i) + ".example/", Unsigned: true}
	}
	store := &outhook.MemoryStore{MaxPending: math.MaxInt32, MaxPerSubscriber: math.MaxInt32}
	d, err := outhook.New(store, &outhook.Options{
		Transport: s,
		Grace:     -1,
		Observers: []outhook.Observer{{Attempting: s.attempting, Attempted: s.attempted, Delivered: s.delivered}},
	})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	var run sync.WaitGroup
	var runErr error
	run.Go(func() { runErr = d.Run(running) })

	// Some subscribers get far more than others.
	popular := rand.NewZipf(random, 1.1, 50, uint64(s.Subscribers-1))
	order := random.Perm(s.Subscribers)
	for n := 0; time.Since(began) < s.Lasts && err == nil; n++ {
		time.Sleep(time.Duration(random.ExpFloat64() / s.Rate * float64(time.Second)))
		subscriber := order[popular.Uint64()]
		err = s.send(ctx, d, "sim-"+strconv.Itoa(n), subscribers[subscriber])
	}
	time.Sleep(time.Minute) // for what is on its way
	stop()
	run.Wait()
	if err == nil {
		err = runErr
	}
	return err
}

// draw returns a group by a number from 0 to 100.
func (s *simulation) draw(at float64) int {
	for i, g := range groups() {
		if at -= g.share; at < 0 && !(g.fails && s.Cured) {
			return i
		}
	}
	return 0
}

func (s *simulation) send(ctx context.Context, d *outhook.Dispatcher, id string, to outhook.Subscriber) error {
	s.mu.Lock()
	s.sent[id] = time.Now()
	s.of(to.ID).Sent++
	s.mu.Unlock()
	_, err := d.Send(ctx, outhook.Event{ID: id, Type: "simulated.event"}, []outhook.Subscriber{to})
	return err
}

// of returns the stats of a subscriber's group. s.mu is held.
func (s *simulation) of(subscriber string) *groupStats {
	i, _ := strconv.Atoi(subscriber)
	return &s.stats[s.lanes[i].group]
}

func (s *simulation) attempting(ctx context.Context, o outhook.Observation) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.Attempt.Number == 1 {
		g := s.of(o.ID.Subscriber)
		g.Waits = append(g.Waits, time.Since(s.sent[o.ID.Event]))
	}
	return context.WithValue(ctx, attemptKey{}, o)
}

type attemptKey struct{}

func (s *simulation) attempted(_ context.Context, o outhook.Observation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.of(o.ID.Subscriber)
	g.Attempts++
	g.Busy += o.Attempt.Duration
}

func (s *simulation) delivered(_ context.Context, o outhook.Observation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.of(o.ID.Subscriber)
	g.Delivered++
	g.Ages = append(g.Ages, time.Since(s.sent[o.ID.Event]))
	delete(s.sent, o.ID.Event)
}

// RoundTrip is the receivers. What an attempt meets depends on nothing but the seed,
// the event and the attempt's number.
func (s *simulation) RoundTrip(req *http.Request) (*http.Response, error) {
	o := req.Context().Value(attemptKey{}).(outhook.Observation)
	h := fnv.New64a()
	fmt.Fprint(h, o.ID.Event, " ", o.Attempt.Number)
	random := rand.New(rand.NewPCG(s.Seed, h.Sum64()))
	i, _ := strconv.Atoi(o.ID.Subscriber)
	g := &groups()[s.lanes[i].group]
	latency := time.Duration(float64(g.median) * math.Exp(g.spread*random.NormFloat64()))
	timer := time.NewTimer(latency)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return g.answer(s, &s.lanes[i], random.Float64()), nil
}

// A groupReport is what a group has come to, summed up.
type groupReport struct {
	Name                             string
	Fails                            bool
	Subscribers, Sent                int
	Delivered, Attempts              float64 // of and per delivery
	Slots                            float64 // share of the time that slots are busy
	WaitP50, WaitP99, AgeP50, AgeP99 time.Duration
}

func (s *simulation) report() (reports []groupReport) {
	var busy time.Duration
	for i := range s.stats {
		busy += s.stats[i].Busy
	}
	for i, of := range groups() {
		g := &s.stats[i]
		if g.Sent == 0 {
			continue
		}
		if len(g.Ages) == 0 {
			g.Ages = append(g.Ages, -1) // none
		}
		slices.Sort(g.Waits)
		slices.Sort(g.Ages)
		reports = append(reports, groupReport{
			Name: of.name, Fails: of.fails, Subscribers: g.Subscribers, Sent: g.Sent,
			Delivered: float64(g.Delivered) / float64(g.Sent), Attempts: float64(g.Attempts) / float64(g.Sent),
			Slots:   float64(g.Busy) / float64(busy),
			WaitP50: percentile(g.Waits, 50), WaitP99: percentile(g.Waits, 99),
			AgeP50: percentile(g.Ages, 50), AgeP99: percentile(g.Ages, 99),
		})
	}
	return reports
}

// simulate tells how subscribers fare among others, and what those who fail cost; and
// how long healthy ones wait when so much is sent that nearly all slots are busy,
// with those who fail and without.
func simulate(ctx context.Context, b *bench) error {
	s := b.plan.simulated
	usual, err := b.simulate(ctx, s)
	if err != nil {
		return err
	}
	s.Rate *= 4.0 / 3
	crowded, err := b.simulate(ctx, s)
	if err != nil {
		return err
	}
	s.Cured = true
	cured, err := b.simulate(ctx, s)
	if err != nil {
		return err
	}
	attempts, sent, failing := 0.0, 0, 0.0
	for _, g := range usual {
		attempts += g.Attempts * float64(g.Sent)
		sent += g.Sent
		if g.Fails {
			failing += g.Slots
		}
	}
	s = b.plan.simulated
	b.simulated = fmt.Sprintf("%d subscribers, %.0f deliveries per second for %v, default options, seed %d.\n\n%s",
		s.Subscribers, s.Rate, s.Lasts, s.Seed, simulationTable(usual))
	b.logf("%s", b.simulated)
	b.figure("sim_healthy_wait_p99_ms", 1, series{millis(usual[0].WaitP99)})
	b.figure("sim_attempts_per_delivery", 2, series{attempts / float64(sent)})
	b.figure("sim_failing_slots", 2, series{failing})
	b.detail("sim_crowded_healthy_wait_p99_ms", 1, series{millis(crowded[0].WaitP99)})
	b.detail("sim_crowded_healthy_wait_p99_ms_none_fails", 1, series{millis(cured[0].WaitP99)})
	return nil
}

// simulate has a process of its own do it, and returns what it reports.
func (b *bench) simulate(ctx context.Context, s simulationPlan) ([]groupReport, error) {
	c, err := b.spawn(ctx, childPlan{Role: roleSimulation, Simulation: &s})
	if err != nil {
		return nil, err
	}
	defer c.kill()
	var reports []groupReport
	if err := c.answers.Decode(&reports); err != nil {
		return nil, fmt.Errorf("simulation: %w", err)
	}
	return reports, nil
}

func simulationTable(reports []groupReport) string {
	var t strings.Builder
	t.WriteString("| subscribers | how many | deliveries | delivered | attempts each | first attempt after, p50 | p99 | delivered after, p50 | p99 | share of busy slots |\n")
	t.WriteString("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, g := range reports {
		fmt.Fprintf(&t, "| %s | %d | %d | %.1f %% | %.2f | %s | %s | %s | %s | %.1f %% |\n", g.Name, g.Subscribers, g.Sent, 100*g.Delivered, g.Attempts,
			brief(g.WaitP50), brief(g.WaitP99), brief(g.AgeP50), brief(g.AgeP99), 100*g.Slots)
	}
	return t.String()
}

// brief rounds a duration to what a reader wants to know of it.
func brief(d time.Duration) string {
	switch {
	case d < 0:
		return "–"
	case d < time.Millisecond:
		return "< 1 ms"
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", millis(d))
	case d < 100*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.1f min", d.Minutes())
}
