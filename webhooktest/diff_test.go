package webhooktest

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDiff(t *testing.T) {
	numbers := func(from, to int) string {
		var list []string
		for i := from; i <= to; i++ {
			list = append(list, strconv.Itoa(i))
		}
		return "[" + strings.Join(list, ",") + "]"
	}
	for _, test := range []struct {
		name, want, got string
		diff            []string
	}{
		{"same", `{"a":1}`, `{"a":1}`, nil},
		{"both empty", ``, ``, nil},
		{"other order and white space", `{"a":1,"b":[true,null]}`, "{ \"b\": [true,\n null], \"a\": 1 }\n", nil},
		{"escapes", `"\u00e9\u003c"`, `"é<"`, nil},
		{"same text", "a\nb", "a\nb", nil},
		{"changed", `{"a":1,"b":2}`, `{"a":1,"b":3}`, []string{`  {`, `    "a": 1,`, `-   "b": 2`, `+   "b": 3`, `  }`}},
		{"missing", `{"a":1,"b":2}`, `{"b":2}`, []string{`  {`, `-   "a": 1,`, `    "b": 2`, `  }`}},
		{"additional", `[1,3]`, `[1,2,3]`, []string{`  [`, `    1,`, `+   2,`, `    3`, `  ]`}},
		{"moved", `[1,2,3,4]`, `[2,3,1,4]`, []string{`  [`, `-   1,`, `    2,`, `    3,`, `+   1,`, `    4`, `  ]`}},
		{"type", `{"a":1}`, `{"a":"1"}`, []string{`  {`, `-   "a": 1`, `+   "a": "1"`, `  }`}},
		{"large number", `9007199254740993`, `9007199254740992`, []string{`- 9007199254740993`, `+ 9007199254740992`}},
		{"spelling of a number", `1.0`, `1`, []string{`- 1.0`, `+ 1`}},
		{"no JSON received", `{}`, `error`, []string{`- {}`, `+ error`}},
		{"nothing received", `{}`, ``, []string{`- {}`, `+ `}},
		{"more than JSON received", `{}`, `{} {}`, []string{`- {}`, `+ {} {}`}},
		{"text", "a\nb\nc", "a\nc", []string{`  a`, `- b`, `  c`}},
		{"what does not show", "a\r\nb", "a\nb", []string{`- "a\r"`, `+ a`, `  b`}},
		{"not UTF-8", "\"\xff\"", "\"\xfe\"", []string{`- "\"\xff\""`, `+ "\"\xfe\""`}},
		{"far away", numbers(1, 20), strings.Replace(numbers(1, 20), "10", "0", 1), []string{
			`  … 7 lines`, `    7,`, `    8,`, `    9,`, `-   10,`, `+   0,`, `    11,`, `    12,`, `    13,`, `  … 8 lines`,
		}},
		{"one line between", numbers(1, 9), strings.Replace(strings.Replace(numbers(1, 9), "[1,", "[0,", 1), "9]", "0]", 1), []string{
			`  [`, `-   1,`, `+   0,`, `    2,`, `    3,`, `    4,`, `    5,`, `    6,`, `    7,`, `    8,`, `-   9`, `+   0`, `  ]`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, strings.Join(test.diff, "\n"), Diff([]byte(test.want), []byte(test.got)))
		})
	}
}

// Bodies of many lines that have nothing in common are shown one after the
// other, in time and space that grow with their length alone.
func TestDiffOfLargeBodies(t *testing.T) {
	const n = 5_000
	want, got := make([]string, n), make([]string, n)
	for i := range n {
		want[i], got[i] = "w"+strconv.Itoa(i), "g"+strconv.Itoa(i)
	}
	got[n/2] = want[n/2]
	diff := strings.Split(Diff([]byte(strings.Join(want, "\n")), []byte(strings.Join(got, "\n"))), "\n")
	require.Len(t, diff, 2*n)
	require.Equal(t, n, len(slices.DeleteFunc(diff, func(line string) bool { return line[0] != '-' })))
}
