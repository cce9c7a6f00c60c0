package pgxstore

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// occupied keeps all places for transactions of Enqueue taken, until it is called.
func occupied(s *Store) (free func()) {
	s.group.first <- struct{}{}
	s.group.second <- struct{}{}
	return func() {
		<-s.group.first
		<-s.group.second
	}
}

// waiting waits until so many calls wait.
func waiting(t *testing.T, s *Store, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		s.group.mu.Lock()
		defer s.group.mu.Unlock()
		return len(s.group.waiting) == n
	}, time.Minute, time.Millisecond)
}

// TestEnqueueKnown shows that what is known is found by failing once, and then, as long as
// something is known now and then, by looking for it before.
func TestEnqueueKnown(t *testing.T) {
	s, seen := watch(t, newStore(t, nil))
	const fails, looks, more = "insertNew", "insertIfNew", "insertMissing"
	texts := map[string]string{s.sql(insertNew): fails, s.sql(insertIfNew): looks, s.sql(insertMissing): more}
	made := func() (names []string) {
		for _, st := range seen.statements {
			if name, ok := texts[st.sql]; ok {
				names = append(names, name)
			}
		}
		seen.statements = nil
		return names
	}
	again := func(subscribers ...string) {
		var list []outhook.Delivery
		for _, name := range subscribers {
			list = append(list, newDelivery(t, "e", name))
		}
		known, err := s.Enqueue(t.Context(), list)
		require.NoError(t, err)
		require.Equal(t, list[0].ID, known[0])
		require.Len(t, known, 1)
	}
	enqueueNamed(t, s, "e", "a")
	require.Equal(t, []string{fails}, made())
	again("a", "b")
	require.Equal(t, []string{fails, more}, made())
	again("a", "c")
	require.Equal(t, []string{looks, more}, made())
	require.Equal(t, 3, count(t, s, "delivery"))
	enqueueNamed(t, s, "f", "a", "b")
	require.Equal(t, []string{looks}, made())
	s.repeated.Store(new(time.Now().Add(-repeatTime)))
	again("a", "d")
	require.Equal(t, []string{fails, more}, made())
	require.Equal(t, 6, count(t, s, "delivery"))

	config := s.pool.Config()
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // values would be logged
	pool, err := newPoolOf(config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s, err = New(pool, &s.options)
	require.NoError(t, err)
	again("a", "e")
	require.Equal(t, []string{looks, more}, made())
}

// TestGroup: calls that wait are stored in one transaction, and each learns what was known
// of its own deliveries.
func TestGroup(t *testing.T) {
	s := newStore(t, nil)
	enqueued(t, s, 10, nil) // e1 to e10
	template := newDelivery(t, "e", "s")
	list := func(numbers ...int) (list []outhook.Delivery) {
		for _, n := range numbers {
			d := template
			d.ID.Event = fmt.Sprintf("e%d", n)
			list = append(list, d)
		}
		return list
	}
	free := occupied(s)
	calls := [][]outhook.Delivery{list(10, 11), list(12, 9, 8), list(13), list(14, 15), list(7)}
	known := make([][]outhook.DeliveryID, len(calls))
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			var err error
			known[i], err = s.Enqueue(context.Background(), calls[i])
			require.NoError(t, err)
		})
		waiting(t, s, i+1)
	}
	var before, after int64
	transactions := s.sql(`select count(distinct xmin::text) from {schema}.delivery`)
	require.NoError(t, s.pool.QueryRow(t.Context(), transactions).Scan(&before))
	<-s.group.first // one alone: all are stored together
	wg.Wait()
	s.group.first <- struct{}{}
	free()
	require.NoError(t, s.pool.QueryRow(t.Context(), transactions).Scan(&after))
	require.Equal(t, before+1, after)
	id := func(n int) outhook.DeliveryID { return list(n)[0].ID }
	require.Equal(t, [][]outhook.DeliveryID{{id(10)}, {id(9), id(8)}, nil, nil, {id(7)}}, known)
}

// TestGroupFault: what one call does wrong fails no other, and leaves nothing of its own.
func TestGroupFault(t *testing.T) {
	s := newStore(t, nil)
	enqueued(t, s, 1, nil)
	conflicting := newDelivery(t, "e1", "s")
	conflicting.Digest[0]++
	calls := [][]outhook.Delivery{
		{newDelivery(t, "good1", "s")},
		{newDelivery(t, "bad", "s"), conflicting},
		{newDelivery(t, "good2", "s")},
	}
	free := occupied(s)
	errs := make([]error, len(calls))
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() { _, errs[i] = s.Enqueue(context.Background(), calls[i]) })
		waiting(t, s, i+1)
	}
	free()
	wg.Wait()
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], outhook.ErrConflict)
	require.NoError(t, errs[2])
	for event, stored := range map[string]bool{"good1": true, "bad": false, "good2": true} {
		_, err := s.Get(t.Context(), outhook.DeliveryID{Event: event, Subscriber: "s"})
		require.Equal(t, stored, err == nil, event)
	}
}

// TestGroupLeave: a caller that leaves ends neither what others wait for nor waits itself,
// and when all have left, nothing goes on.
func TestGroupLeave(t *testing.T) {
	s := newStore(t, nil)
	enqueued(t, s, 1, nil) // the subscriber is known
	free := occupied(s)
	ctx, leave := context.WithCancel(t.Context())
	gone, stays := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.Enqueue(ctx, []outhook.Delivery{newDelivery(t, "gone", "s")})
		gone <- err
	}()
	waiting(t, s, 1)
	go func() {
		_, err := s.Enqueue(context.Background(), []outhook.Delivery{newDelivery(t, "stays", "s")})
		stays <- err
	}()
	waiting(t, s, 2)
	leave()
	require.ErrorIs(t, <-gone, context.Canceled)
	waiting(t, s, 1)
	free()
	require.NoError(t, <-stays)
	_, err := s.Get(t.Context(), outhook.DeliveryID{Event: "gone", Subscriber: "s"})
	require.ErrorIs(t, err, outhook.ErrNotFound)

	// Two are being stored, behind a lock, when they leave one after the other.
	lock := stopped(t, s, `lock table {schema}.delivery in exclusive mode`)
	var leaves []context.CancelFunc
	free = occupied(s)
	for i := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		leaves = append(leaves, cancel)
		go func() {
			_, err := s.Enqueue(ctx, []outhook.Delivery{newDelivery(t, fmt.Sprint("late", i), "s")})
			gone <- err
		}()
		waiting(t, s, i+1)
	}
	<-s.group.first
	waiting(t, s, 0)
	leaves[0]()
	require.ErrorIs(t, <-gone, context.Canceled)
	require.Len(t, s.group.first, 1, "it goes on for the other")
	leaves[1]()
	require.ErrorIs(t, <-gone, context.Canceled)
	require.Eventually(t, func() bool { return len(s.group.first) == 0 }, time.Minute, time.Millisecond,
		"nothing goes on for nobody, although the lock is still there")
	s.group.first <- struct{}{}
	free()
	require.NoError(t, lock.Rollback(t.Context()))
}

// TestPlaceOfAnother: a lease that is found at its place, but is not the latest there, is lost.
func TestPlaceOfAnother(t *testing.T) {
	for _, state := range []outhook.State{outhook.Delivered, outhook.Dead} {
		s, first := lapsed(t)
		second := claim(t, s, all).Claims[0]
		at, _ := s.places.Find(second.Lease())
		s.places.Keep(map[outhook.Lease]place{first.Lease(): at}) // as after a vacuum
		lost, err := s.Finish(t.Context(), []outhook.Outcome{{Lease: first.Lease(), State: state}})
		require.NoError(t, err)
		require.Equal(t, []outhook.Lease{first.Lease()}, lost)
		_, found := s.places.Find(first.Lease())
		require.False(t, found)
		lost, err = s.Finish(t.Context(), []outhook.Outcome{{Lease: second.Lease(), State: outhook.Delivered}})
		require.NoError(t, err)
		require.Empty(t, lost)
	}
}

// TestFinishTwice: of several outcomes of a lease in one call the first is the one.
func TestFinishTwice(t *testing.T) {
	s := newStore(t, nil)
	enqueued(t, s, 3, nil)
	claims := claim(t, s, all).Claims
	var outcomes []outhook.Outcome
	for i, state := range []outhook.State{outhook.Dead, outhook.Delivered, outhook.Cancelled} {
		outcomes = append(outcomes, outhook.Outcome{Lease: claims[i].Lease(), State: state}, outhook.Outcome{Lease: claims[i].Lease(), State: outhook.Delivered})
	}
	_, err := s.Finish(t.Context(), outcomes)
	require.NoError(t, err)
	for i := range claims {
		record, err := s.Get(t.Context(), claims[i].ID)
		require.NoError(t, err)
		require.Equal(t, outcomes[2*i].State, record.State)
	}
}

// TestGroupTakesAll: a call that has a place stores all that waits, as those who have come
// before it may have no need for one.
func TestGroupTakesAll(t *testing.T) {
	s := newStore(t, nil)
	many := func(prefix string) (list []outhook.Delivery) {
		d := newDelivery(t, "e", "s")
		for i := range groupDeliveries/2 + 100 {
			d.ID.Event = fmt.Sprint(prefix, i)
			list = append(list, d)
		}
		return list
	}
	first := &enqueueCall{deliveries: many("a"), done: make(chan struct{})} // has not asked for a place yet
	s.group.enter(first)
	_, err := s.Enqueue(t.Context(), many("b"))
	require.NoError(t, err)
	<-first.done
	require.NoError(t, first.err)
}

// TestGroupBesideHost: a transaction of the host's that stays open holds back those who need
// what it has locked, and nobody else.
func TestGroupBesideHost(t *testing.T) {
	s := newStore(t, nil)
	enqueued(t, s, 1, nil)
	tx, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = s.InTx(tx).Enqueue(t.Context(), []outhook.Delivery{newDelivery(t, "host", "new")})
	require.NoError(t, err)
	held := make(chan error, 4)
	for i := range cap(held) {
		go func() {
			_, err := s.Enqueue(context.Background(), []outhook.Delivery{newDelivery(t, fmt.Sprint("held", i), "new")})
			held <- err
		}()
	}
	for i := range 10 {
		_, err := s.Enqueue(t.Context(), []outhook.Delivery{newDelivery(t, fmt.Sprint("free", i), "s")})
		require.NoError(t, err)
	}
	require.Empty(t, held)
	require.NoError(t, tx.Commit(t.Context()))
	for range cap(held) {
		require.NoError(t, <-held)
	}
}

// TestGroupSecond: there is a second transaction when the first one takes long, or when more
// waits than one takes.
func TestGroupSecond(t *testing.T) {
	s := newStore(t, nil)
	s.group.first <- struct{}{} // and stays
	_, err := s.Enqueue(t.Context(), []outhook.Delivery{newDelivery(t, "long", "s")})
	require.NoError(t, err)

	s.group.long = time.Hour
	s.group.second <- struct{}{}
	type result struct {
		call int
		err  error
	}
	stored := make(chan result, 2)
	for i := range 2 {
		var list []outhook.Delivery
		for range groupDeliveries {
			list = append(list, newDelivery(t, fmt.Sprint("many", i, "-", len(list)), "s"))
		}
		go func() {
			_, err := s.Enqueue(context.Background(), list)
			stored <- result{i, err}
		}()
		waiting(t, s, i+1)
	}
	<-s.group.second
	require.Equal(t, result{0, nil}, <-stored)
	require.Eventually(t, func() bool { return len(s.group.second) == 0 }, time.Minute, time.Millisecond, "it makes room")
	waiting(t, s, 1) // what is left is no more than the first one can take
	<-s.group.first
	require.Equal(t, result{1, nil}, <-stored)
}

// panicking is a tracer of the host's that panics.
type panicking struct {
	silent
	sql string
}

func (p panicking) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	if strings.Contains(data.SQL, p.sql) {
		panic("tracer")
	}
}

// TestGroupPanics: a panic of the host's code reaches the callers, not the process.
func TestGroupPanics(t *testing.T) {
	s := newStore(t, nil)
	config := s.pool.Config()
	config.ConnConfig.Tracer = panicking{sql: "with body"}
	pool, err := newPoolOf(config)
	require.NoError(t, err)
	defer pool.Close()
	traced, err := New(pool, &s.options)
	require.NoError(t, err)
	free := occupied(traced)
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			require.PanicsWithValue(t, "tracer", func() {
				_, _ = traced.Enqueue(context.Background(), []outhook.Delivery{newDelivery(t, fmt.Sprint("e", i), "s")})
			})
		})
		waiting(t, traced, i+1)
	}
	free()
	wg.Wait()
	many := make([]outhook.Delivery, groupDeliveries)
	for i := range many {
		many[i] = newDelivery(t, fmt.Sprint("many", i), "s")
	}
	ahead := &enqueueCall{deliveries: many, done: make(chan struct{})}
	traced.group.enter(ahead)
	require.PanicsWithValue(t, "tracer", func() { // in a batch of its own, behind one that panics
		_, _ = traced.Enqueue(t.Context(), []outhook.Delivery{newDelivery(t, "behind", "s")})
	})
	<-ahead.done
	require.Equal(t, "tracer", ahead.panicked)
	// Their places are given back a little later.
	require.Eventually(t, func() bool { return len(traced.group.first)+len(traced.group.second) == 0 }, time.Minute, time.Millisecond)
}

// A deafConn loses the answer to the first commit that is made while it is armed.
type deafConn struct {
	net.Conn
	armed *atomic.Bool
	deaf  atomic.Bool
}

func (c *deafConn) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("commit\x00")) && c.armed.CompareAndSwap(true, false) {
		c.deaf.Store(true)
	}
	return c.Conn.Write(b)
}

func (c *deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.deaf.Load() { // the commit was made
		_ = c.Conn.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// TestGroupLosesAnswer: when nobody knows whether a transaction was committed, its callers
// are told so, rather than that others had sent what they sent.
func TestGroupLosesAnswer(t *testing.T) {
	s := newStore(t, nil)
	enqueued(t, s, 1, nil)
	var armed atomic.Bool
	config := s.pool.Config()
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // so that a commit shows as one
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return &deafConn{Conn: conn, armed: &armed}, err
	}
	pool, err := newPoolOf(config)
	require.NoError(t, err)
	defer pool.Close()
	deaf, err := New(pool, &s.options)
	require.NoError(t, err)
	free := occupied(deaf)
	armed.Store(true)
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = deaf.Enqueue(context.Background(), []outhook.Delivery{newDelivery(t, fmt.Sprint("n", i), "s")})
		})
		waiting(t, deaf, i+1)
	}
	<-deaf.group.first
	wg.Wait()
	deaf.group.first <- struct{}{}
	free()
	for i := range errs {
		require.Error(t, errs[i])
		_, err := s.Get(t.Context(), outhook.DeliveryID{Event: fmt.Sprint("n", i), Subscriber: "s"})
		require.NoError(t, err, "it was stored all the same")
	}
}

// TestPayloadsAreCopied: when it has sent an event, a host may use its bytes again.
func TestPayloadsAreCopied(t *testing.T) {
	s := newStore(t, nil)
	d := newDelivery(t, "e", "s")
	d.Payload = &outhook.Payload{ContentType: "text/plain", Header: http.Header{"X": {"1"}}, Body: []byte("body")}
	_, err := s.Enqueue(t.Context(), deliveriesOf(d))
	require.NoError(t, err)
	d.Payload.Body[0], d.Payload.Header["X"][0] = 'x', "2"
	claimed := claim(t, s, all)
	require.Equal(t, &outhook.Payload{ContentType: "text/plain", Header: http.Header{"X": {"1"}}, Body: []byte("body")}, claimed.Claims[0].Payload)
}

// TestKnownOfMany: to find that a delivery is known costs nothing for those that its
// subscriber had before.
func TestKnownOfMany(t *testing.T) {
	s := newStore(t, nil)
	watched, seen := watch(t, s)
	enqueued(t, watched, 20, nil) // plans are made while there is next to nothing
	enqueued(t, watched, 20, nil)
	var checked int
	for _, st := range seen.statements {
		if !strings.Contains(st.sql, "order by d.event, d.subscriber limit 1") {
			continue
		}
		checked++
		var plan []string
		require.NoError(t, s.inPinnedTx(t.Context(), "explain", "", func(tx *transaction) error {
			return ask(t.Context(), tx, func(rows pgx.Rows) (err error) {
				plan, err = pgx.CollectRows(rows, pgx.RowTo[string])
				return err
			}, "explain "+st.sql, st.args...)
		}))
		require.Contains(t, strings.Join(plan, "\n"), "delivery_event_subscriber_key")
	}
	require.NotZero(t, checked)
}

// TestBodiesTogether shows that bodies which are sent as one are told apart again.
func TestBodiesTogether(t *testing.T) {
	for name, bodies := range map[string][][]byte{
		"empty":   {{}},
		"none":    {nil},
		"several": {[]byte("a"), nil, {}, []byte("bc"), {}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, nil)
			var list []outhook.Delivery
			for i, body := range bodies {
				d := newDelivery(t, fmt.Sprint("e", i), "s")
				d.Payload = &outhook.Payload{Body: body}
				list = append(list, d)
			}
			_, err := s.Enqueue(t.Context(), list)
			require.NoError(t, err)
			rows, err := s.pool.Query(t.Context(), s.sql(`select body from {schema}.payload order by event`))
			require.NoError(t, err)
			stored, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
			require.NoError(t, err)
			require.Equal(t, bodies, stored)
		})
	}
}
