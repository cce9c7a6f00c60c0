package webhooktest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Diff compares two bodies and returns "" if they are the same. JSON is the same
// whatever the order of its members and its white space, and is shown indented;
// numbers are compared as they are written. What is no JSON is compared as text.
//
// Lines of want that got does not have begin with "-", those that it has besides
// with "+". Of the others, three are shown around each difference.
func Diff(want, got []byte) string {
	wantLines, wantJSON := jsonLines(want)
	gotLines, gotJSON := jsonLines(got)
	if !wantJSON || !gotJSON {
		wantLines, gotLines = textLines(want), textLines(got)
	}
	if slices.Equal(wantLines, gotLines) {
		return ""
	}
	return shorten(compareLines(wantLines, gotLines))
}

// jsonLines returns JSON with sorted members, indented, and false if b is none.
func jsonLines(b []byte) ([]string, bool) {
	if !utf8.Valid(b) {
		return nil, false // it would be decoded to something else
	}
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.UseNumber()
	var v any
	if decoder.Decode(&v) != nil {
		return nil, false
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, false
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if encoder.Encode(v) != nil {
		return nil, false
	}
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n"), true
}

// textLines returns lines, quoted if they hold what does not show.
func textLines(b []byte) []string {
	lines := strings.Split(string(b), "\n")
	for i, line := range lines {
		if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) && r != '\t' }) {
			lines[i] = strconv.Quote(line)
		}
	}
	return lines
}

// maxCompared bounds how many pairs of lines are compared. Longer ones, beyond
// what they begin and end with alike, are shown one after the other.
const maxCompared = 1 << 20

// compareLines returns the lines of both in an order that keeps as many in
// common as can be, each with what it begins with.
func compareLines(want, got []string) []string {
	var out []string
	for len(want) > 0 && len(got) > 0 && want[0] == got[0] {
		out = append(out, "  "+want[0])
		want, got = want[1:], got[1:]
	}
	same := 0 // at the end
	for same < min(len(want), len(got)) && want[len(want)-1-same] == got[len(got)-1-same] {
		same++
	}
	tail := want[len(want)-same:]
	want, got = want[:len(want)-same], got[:len(got)-same]

	// common(i, j) is how many lines want[i:] and got[j:] have in common.
	width := len(got) + 1
	var table []int
	if len(want)*len(got) <= maxCompared {
		table = make([]int, (len(want)+1)*width)
	}
	common := func(i, j int) int {
		if table == nil {
			return 0
		}
		return table[i*width+j]
	}
	if table != nil {
		for i := len(want) - 1; i >= 0; i-- {
			for j := len(got) - 1; j >= 0; j-- {
				if want[i] == got[j] {
					table[i*width+j] = common(i+1, j+1) + 1
				} else {
					table[i*width+j] = max(common(i+1, j), common(i, j+1))
				}
			}
		}
	}
	i, j := 0, 0
	for i < len(want) || j < len(got) {
		switch {
		case table != nil && i < len(want) && j < len(got) && want[i] == got[j]:
			out = append(out, "  "+want[i])
			i, j = i+1, j+1
		case i < len(want) && (j == len(got) || common(i+1, j) >= common(i, j+1)):
			out = append(out, "- "+want[i])
			i++
		default:
			out = append(out, "+ "+got[j])
			j++
		}
	}
	for _, line := range tail {
		out = append(out, "  "+line)
	}
	return out
}

// around is how many unchanged lines are shown beside a changed one.
const around = 3

// shorten joins lines and leaves out those that are far from a change.
func shorten(lines []string) string {
	shown := make([]bool, len(lines))
	for i, line := range lines {
		if line[0] != ' ' {
			for k := max(0, i-around); k <= min(len(lines)-1, i+around); k++ {
				shown[k] = true
			}
		}
	}
	var out []string
	for i := 0; i < len(lines); i++ {
		if shown[i] {
			out = append(out, lines[i])
			continue
		}
		begin := i
		for i+1 < len(lines) && !shown[i+1] {
			i++
		}
		if i == begin {
			out = append(out, lines[i])
		} else {
			out = append(out, fmt.Sprintf("  … %d lines", i+1-begin))
		}
	}
	return strings.Join(out, "\n")
}
