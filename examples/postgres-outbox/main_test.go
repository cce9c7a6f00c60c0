package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain is the shop when the test has started it as such.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(shopMain(role))
	}
	os.Exit(m.Run())
}

func TestRun(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, runOn("", &out), "printed so far:\n%s", &out)
	require.Equal(t, `the shop starts
shop: order 1001 is rolled back: the payment was declined
shop: order 1002 is committed, and its webhook with it
the shop was killed
database: 1 order, 1 webhook waits, 0 delivered
the shop starts again
customer: received order.placed 1002, signed well
the shop has stopped
database: 1 order, 0 webhook waits, 1 delivered
`, out.String())
}
