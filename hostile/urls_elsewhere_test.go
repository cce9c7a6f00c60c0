//go:build !linux

package hostile_test

import "testing"

func TestURLs(t *testing.T) {
	t.Skip("the tests of URLs need a network in which every address is this machine, which only Linux has")
}
