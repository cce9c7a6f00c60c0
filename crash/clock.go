//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// skewVariable holds by how many seconds the clock of a process is wrong.
const skewVariable = "OUTHOOK_CRASH_SKEW"

// skew is added to package time: Now is wrong by so much, while what is measured
// on the monotonic clock, timers too, is right.
const skew = `package time

import "syscall"

var skew = func() (seconds int64) {
	text, _ := syscall.Getenv("` + skewVariable + `")
	negative := text != "" && text[0] == '-'
	if negative {
		text = text[1:]
	}
	for _, digit := range []byte(text) {
		seconds = 10*seconds + int64(digit-'0')
	}
	if negative {
		seconds = -seconds
	}
	return seconds
}()
`

// buildSkewed builds this program with a clock that can be wrong. The first time,
// that compiles the standard library anew, too.
func buildSkewed(dir string) (program string, err error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("build with a wrong clock: %w", err) }
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fail(err)
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	text, err := os.ReadFile(filepath.Join(source, "time.go"))
	if err != nil {
		return fail(err)
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(text), now) != 1 {
		return fail(errors.New("time.Now is not as expected"))
	}
	text = []byte(strings.Replace(string(text), now, now+"\tsec += skew\n", 1))
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for name, text := range map[string][]byte{"time.go": text, "skew.go": []byte(skew)} {
		own := filepath.Join(dir, name)
		if err := os.WriteFile(own, text, 0o600); err != nil {
			return fail(err)
		}
		overlay.Replace[filepath.Join(source, name)] = own
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		return fail(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, list, 0o600); err != nil {
		return fail(err)
	}
	program = filepath.Join(dir, "skewed")
	build := exec.Command("go", "build", "-overlay", file, "-tags", "skewed", "-o", program, "github.com/outhook/outhook/crash")
	if out, err := build.CombinedOutput(); err != nil {
		return fail(fmt.Errorf("%w: %s", err, out))
	}
	return program, nil
}

// clock returns the environment of the worker with an index: the clock of one is
// right, of the next ahead, and of the one after behind.
func (p *plan) clock(index int) []string {
	seconds := int(p.Skew / time.Second)
	return []string{skewVariable + "=" + strconv.Itoa([]int{0, seconds, -seconds}[index%3])}
}
