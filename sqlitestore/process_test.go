package sqlitestore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outhook/outhook"
)

// Tests run this binary again, as one of the children, on the file that is named
// in the environment. What a child has done it prints, a line for each call that
// has returned.
const (
	childEnv = "SQLITESTORE_TEST_CHILD"
	pathEnv  = "SQLITESTORE_TEST_PATH"
	nameEnv  = "SQLITESTORE_TEST_NAME"
)

var children = map[string]func() error{"send": childSend, "work": childWork}

// child is the main function of a child. It does not outlive its parent.
func child(work func() error) {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// childSend sends until it is killed.
func childSend() error {
	ctx := context.Background()
	s, err := Open(ctx, os.Getenv(pathEnv), nil)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		id := fmt.Sprintf("%s-%d", os.Getenv(nameEnv), i)
		d := newDelivery(id, "s")
		d.Payload = &outhook.Payload{Body: []byte(strings.Repeat(id, 100))}
		if _, err := s.Enqueue(ctx, []outhook.Delivery{d}); err != nil {
			return err
		}
		fmt.Println(id)
	}
}

// childWork sends some, and then claims and delivers, of any process, until nothing
// waits.
func childWork() error {
	ctx := context.Background()
	s, err := Open(ctx, os.Getenv(pathEnv), nil)
	if err != nil {
		return err
	}
	for i := range sentByChild {
		d := newDelivery(fmt.Sprintf("%s-%d", os.Getenv(nameEnv), i), fmt.Sprintf("s%d", i%5))
		if i%2 == 0 {
			d.OrderKey = "k"
		}
		if _, err := s.Enqueue(ctx, []outhook.Delivery{d}); err != nil {
			return err
		}
	}
	for {
		claimed, err := s.Claim(ctx, outhook.ClaimRequest{Limit: 7, PerSubscriber: 3, SuspectAfter: 3, Lease: time.Hour})
		if err != nil {
			return err
		}
		var outcomes []outhook.Outcome
		for _, c := range claimed.Claims {
			fmt.Println(c.ID)
			outcomes = append(outcomes, outhook.Outcome{Lease: c.Lease(), State: outhook.Delivered})
		}
		lost, err := s.Finish(ctx, outcomes)
		if err != nil || len(lost) > 0 {
			return fmt.Errorf("lost %v, %w", lost, err)
		}
		if stats, err := s.Stats(ctx); err != nil || len(claimed.Claims) == 0 && stats.Pending == 0 {
			return errors.Join(err, s.Close())
		}
	}
}

const sentByChild = 200

// start starts a child. Its lines end when it does.
func start(t *testing.T, work, path, name string) (cmd *exec.Cmd, lines *bufio.Scanner) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+work, pathEnv+"="+path, nameEnv+"="+name)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	_, err = cmd.StdinPipe() // ends with this process, however that ends
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, bufio.NewScanner(io.Reader(out))
}

func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hooks.db")
	first, a := start(t, "work", path, "a")
	second, b := start(t, "work", path, "b")
	claimed := make(map[string]int)
	for _, lines := range []*bufio.Scanner{a, b} {
		n := 0
		for ; lines.Scan(); n++ {
			claimed[lines.Text()]++
		}
		t.Logf("a process claimed %d", n)
	}
	require.NoError(t, first.Wait())
	require.NoError(t, second.Wait())
	require.Len(t, claimed, 2*sentByChild, "nothing is lost")
	for id, n := range claimed {
		require.Equal(t, 1, n, "%s was claimed more than once", id)
	}
	require.Equal(t, outhook.Stats{Delivered: 2 * sentByChild}, stats(t, reopen(t, path)))
}

func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hooks.db")
	var sent []string
	for round := range 5 {
		first, a := start(t, "send", path, fmt.Sprintf("a%d", round))
		second, b := start(t, "send", path, fmt.Sprintf("b%d", round))
		for range 20 + 10*round {
			require.True(t, a.Scan())
			sent = append(sent, a.Text())
		}
		require.NoError(t, first.Process.Kill())
		require.NoError(t, second.Process.Kill())
		for _, lines := range []*bufio.Scanner{a, b} {
			for lines.Scan() {
				sent = append(sent, lines.Text())
			}
		}
		require.Error(t, first.Wait(), "killed")
		require.Error(t, second.Wait(), "killed")

		s := reopen(t, path)
		var check string
		require.NoError(t, s.DB().QueryRow("pragma integrity_check").Scan(&check))
		require.Equal(t, "ok", check)
		for _, id := range sent {
			r, err := s.Get(t.Context(), outhook.DeliveryID{Event: id, Subscriber: "s"})
			require.NoError(t, err)
			require.Equal(t, strings.Repeat(id, 100), string(r.Payload.Body))
		}
		n := stats(t, s).Pending
		require.GreaterOrEqual(t, n, len(sent))
		require.LessOrEqual(t, n, len(sent)+2*(round+1), "one at most of each process that was killed, whose answer got lost")
	}
	t.Logf("%d were sent", len(sent))
	require.NotEmpty(t, claim(t, reopen(t, path)))
}
