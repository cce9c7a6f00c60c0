package outhook

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// An Observer is told what a Dispatcher does: what metrics and tracing attach
// to. Each func may be nil. They are called concurrently, must return soon,
// since deliveries wait for them, and must not change what they are given.
// A panic is contained and logged.
type Observer struct {
	// Sent is called after a Send was stored; through [Dispatcher.Via], before
	// the commit.
	Sent func(ctx context.Context, event Event, receipt Receipt)

	// Attempting is called before each attempt and returns the context of
	// its request, derived from ctx, with a span say. ctx does not end with
	// the attempt: what was begun here is to be ended in Attempted.
	Attempting func(ctx context.Context, o Observation) context.Context

	// Attempted is called after each attempt, with the context of its
	// request, before its outcome is stored. It is called, too, for one that
	// was cut before a byte had left, which is not recorded.
	Attempted func(ctx context.Context, o Observation)

	// One of these is called after the outcome of a claim was stored,
	// with Attempt the last that was made. Of a claim that was released, only
	// Held is told, if it was for After. What waits for a subscriber that is paused or
	// disabled is not claimed, and so not told.
	Delivered func(ctx context.Context, o Observation)
	Retrying  func(ctx context.Context, o Observation) // After is set
	Dead      func(ctx context.Context, o Observation) // Reason is set
	Cancelled func(ctx context.Context, o Observation) // Reason is set; not for Dispatcher.Cancel
	Held      func(ctx context.Context, o Observation) // Reason and After are set: no Directory or Sealer could give the subscriber

	// Standing is called when outcomes have changed the state of a
	// subscriber, once for each change, by one of the processes that share
	// a store. It is not called for Disable and Enable.
	Standing func(ctx context.Context, change StandingChange)

	// LeaseLost is called when an outcome came too late: the delivery was
	// claimed by another worker, cancelled, replayed or pruned meanwhile.
	LeaseLost func(ctx context.Context, o Observation)

	// StoreDown is called when a call of the store failed after others had
	// succeeded, StoreUp when one succeeded again.
	StoreDown func(ctx context.Context, err error)
	StoreUp   func(ctx context.Context)
}

// An Observation is what an Observer is told of a delivery.
type Observation struct {
	ID      DeliveryID
	Type    string            // of the event
	Labels  map[string]string // of the event
	Target  string            // scheme and host of the URL, or "(directory)" or "(sealed)"
	Attempt Attempt           // before an attempt: Number, Replay and Time alone
	Age     time.Duration     // since Send or replay, when it was claimed
	After   time.Duration     // until the next attempt
	Reason  string            // of a dead, cancelled or held one
	Detail  string            // what the guard refused: for the operator, not for a tenant
}

// A StandingChange is what an Observer is told of a subscriber.
type StandingChange struct {
	Standing
	From, To SubscriberState
	Pending  int // deliveries that wait; -1: not known
}

// observers calls those of a Dispatcher.
type observers struct {
	list   []Observer
	logger *slog.Logger

	mu      sync.Mutex
	alarmed time.Time // when alarm logged last; guarded by mu
}

func (os *observers) each(call func(*Observer)) {
	for i := range os.list {
		os.contained(func() { call(&os.list[i]) })
	}
}

// contained calls a func of the host's.
func (os *observers) contained(f func()) {
	defer func() {
		if recover() != nil {
			os.log("observer panicked")
		}
	}()
	f()
}

// log contains a logger that panics.
func (os *observers) log(text string, args ...any) {
	defer func() { _ = recover() }()
	os.logger.Error(text, args...)
}

// alarm logs what may happen over and over while something lasts that somebody
// has to mend: at most once a minute.
func (os *observers) alarm(text string, args ...any) {
	now := time.Now()
	os.mu.Lock()
	due := os.alarmed.IsZero() || now.Sub(os.alarmed) >= time.Minute
	if due {
		os.alarmed = now
	}
	os.mu.Unlock()
	if due {
		os.log(text, args...)
	}
}

func (os *observers) sent(ctx context.Context, event Event, receipt Receipt) {
	os.each(func(o *Observer) {
		if o.Sent != nil {
			o.Sent(ctx, event, receipt)
		}
	})
}

func (os *observers) attempting(ctx context.Context, ob Observation) context.Context {
	os.each(func(o *Observer) {
		if o.Attempting != nil {
			if derived := o.Attempting(ctx, ob); derived != nil {
				ctx = derived
			}
		}
	})
	return ctx
}

// observe calls one func, which pick chooses, of each observer.
func (os *observers) observe(ctx context.Context, ob Observation, pick func(*Observer) func(context.Context, Observation)) {
	os.each(func(o *Observer) {
		if f := pick(o); f != nil {
			f(ctx, ob)
		}
	})
}

func (os *observers) standing(ctx context.Context, change StandingChange) {
	os.each(func(o *Observer) {
		if o.Standing != nil {
			o.Standing(ctx, change)
		}
	})
}

func (os *observers) storeDown(ctx context.Context, err error) {
	os.each(func(o *Observer) {
		if o.StoreDown != nil {
			o.StoreDown(ctx, err)
		}
	})
}

func (os *observers) storeUp(ctx context.Context) {
	os.each(func(o *Observer) {
		if o.StoreUp != nil {
			o.StoreUp(ctx)
		}
	})
}

func attempted(o *Observer) func(context.Context, Observation) { return o.Attempted }
func delivered(o *Observer) func(context.Context, Observation) { return o.Delivered }
func retrying(o *Observer) func(context.Context, Observation)  { return o.Retrying }
func died(o *Observer) func(context.Context, Observation)      { return o.Dead }
func cancelled(o *Observer) func(context.Context, Observation) { return o.Cancelled }
func heldBack(o *Observer) func(context.Context, Observation)  { return o.Held }
func leaseLost(o *Observer) func(context.Context, Observation) { return o.LeaseLost }

// logObserver writes what happens to a logger: failures that will be retried
// as debug, what is given up and who is paused as warnings, an unavailable
// store as an error.
func logObserver(logger *slog.Logger) Observer {
	log := func(level slog.Level, text string) func(context.Context, Observation) {
		return func(ctx context.Context, o Observation) {
			if !logger.Enabled(ctx, level) {
				return
			}
			attrs := []slog.Attr{
				slog.String("event", o.ID.Event),
				slog.String("subscriber", o.ID.Subscriber),
				slog.String("type", o.Type),
				slog.String("target", o.Target),
				slog.Int("attempt", o.Attempt.Number),
				slog.Int("status", o.Attempt.Status),
				slog.Duration("duration", o.Attempt.Duration),
			}
			if o.Attempt.Error != "" {
				attrs = append(attrs, slog.String("error", o.Attempt.Error))
			}
			if o.Detail != "" {
				attrs = append(attrs, slog.String("detail", o.Detail))
			}
			if o.Reason != "" {
				attrs = append(attrs, slog.String("reason", o.Reason))
			}
			if o.After != 0 {
				attrs = append(attrs, slog.Duration("after", o.After))
			}
			logger.LogAttrs(ctx, level, text, attrs...)
		}
	}
	return Observer{
		Delivered: log(slog.LevelDebug, "delivered"),
		Retrying:  log(slog.LevelDebug, "delivery failed, will retry"),
		Dead:      log(slog.LevelWarn, "delivery is dead"),
		Cancelled: log(slog.LevelInfo, "delivery cancelled"),
		Held:      log(slog.LevelDebug, "delivery held"),
		LeaseLost: log(slog.LevelWarn, "lease lost, outcome dropped"),
		Standing: func(ctx context.Context, c StandingChange) {
			level := slog.LevelInfo
			if c.To == Disabled || c.To == Failing {
				level = slog.LevelWarn
			}
			logger.Log(ctx, level, "subscriber is "+string(c.To), "subscriber", c.Subscriber, "reason", c.Reason,
				"failures", c.Failures, "pending", c.Pending)
		},
		StoreDown: func(ctx context.Context, err error) {
			logger.ErrorContext(ctx, "store unavailable", "error", err)
		},
		StoreUp: func(ctx context.Context) { logger.InfoContext(ctx, "store available again") },
	}
}
