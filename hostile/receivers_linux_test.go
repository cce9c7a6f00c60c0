package hostile_test

import (
	"cmp"
	"syscall"
)

func init() {
	shorten = func(_, _ string, c syscall.RawConn) (err error) {
		control := c.Control(func(fd uintptr) { // small segments: then the sender's buffer stays small
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536)
		})
		return cmp.Or(control, err)
	}
}
