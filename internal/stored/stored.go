// Package stored has the forms in which stores keep what a database has no type
// for: attempts, headers, and times with their nanoseconds. All of them are UTF-8
// without NUL, so that any text column takes them, whatever a receiver answered.
package stored

import (
	"encoding/json"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/outhook/outhook"
)

// text is a string of any bytes: in JSON a string if it is UTF-8, else the bytes
// as {"base64": ...}.
type text string

type rawText struct {
	Base64 []byte `json:"base64"`
}

func (t text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return json.Marshal(string(t))
	}
	return json.Marshal(rawText{[]byte(t)})
}

func (t *text) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, (*string)(t))
	}
	var raw rawText
	err := json.Unmarshal(data, &raw)
	*t = text(raw.Base64)
	return err
}

// header is a list of names, each with its values.
type header [][]text

func newHeader(h http.Header) header {
	if h == nil {
		return nil
	}
	stored := make(header, 0, len(h))
	for name, values := range h {
		line := []text{text(name)}
		for _, v := range values {
			line = append(line, text(v))
		}
		stored = append(stored, line)
	}
	return stored
}

func (h header) restore() http.Header {
	if h == nil {
		return nil
	}
	restored := make(http.Header, len(h))
	for _, line := range h {
		if len(line) == 0 {
			continue
		}
		values := make([]string, 0, len(line)-1)
		for _, v := range line[1:] {
			values = append(values, string(v))
		}
		restored[string(line[0])] = values
	}
	return restored
}

// EncodeHeader returns nil for nil.
func EncodeHeader(h http.Header) ([]byte, error) {
	if h == nil {
		return nil, nil
	}
	return json.Marshal(newHeader(h))
}

// DecodeHeader is the inverse of EncodeHeader.
func DecodeHeader(data []byte) (http.Header, error) {
	if data == nil {
		return nil, nil
	}
	var h header
	err := json.Unmarshal(data, &h)
	return h.restore(), err
}

// attempt is an outhook.Attempt. Fields may be added, never renamed.
type attempt struct {
	Number     int           `json:"number"`
	Replay     int           `json:"replay,omitempty"`
	Seconds    int64         `json:"unix"` // when it began, since 1970
	Nanos      int           `json:"nanoseconds"`
	Duration   time.Duration `json:"duration"` // nanoseconds
	Status     int           `json:"status,omitempty"`
	RetryAfter time.Duration `json:"retry_after,omitempty"` // nanoseconds
	Error      text          `json:"error,omitempty"`
	Header     header        `json:"header"` // null: not kept
	Body       []byte        `json:"body"`   // null: not kept
}

// EncodeAttempts returns nil for none. It cannot fail: no field has a value that
// JSON does not take.
func EncodeAttempts(attempts []outhook.Attempt) ([]byte, error) {
	if len(attempts) == 0 {
		return nil, nil
	}
	list := make([]attempt, len(attempts))
	for i, a := range attempts {
		list[i] = attempt{
			a.Number, a.Replay, a.Time.Unix(), a.Time.Nanosecond(), a.Duration,
			a.Status, a.RetryAfter, text(a.Error), newHeader(a.Header), a.Body,
		}
	}
	return json.Marshal(list)
}

// DecodeAttempts is the inverse of EncodeAttempts. Times are in UTC.
func DecodeAttempts(data []byte) ([]outhook.Attempt, error) {
	if data == nil {
		return nil, nil
	}
	var list []attempt
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	attempts := make([]outhook.Attempt, len(list))
	for i, a := range list {
		attempts[i] = outhook.Attempt{
			Number: a.Number, Replay: a.Replay,
			Time: time.Unix(a.Seconds, int64(a.Nanos)).UTC(), Duration: a.Duration,
			Status: a.Status, RetryAfter: a.RetryAfter, Error: string(a.Error),
			Header: a.Header.restore(), Body: a.Body,
		}
	}
	return attempts, nil
}

// EncodeTime keeps the instant of an event to the nanosecond, in UTC: RFC 3339 has no
// seconds in an offset. A year that it has no form for becomes the zero time.
func EncodeTime(t time.Time) string {
	t = t.UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		t = time.Time{}
	}
	return t.Format(time.RFC3339Nano)
}

// DecodeTime is the inverse of EncodeTime.
func DecodeTime(s string) (time.Time, error) { return time.Parse(time.RFC3339Nano, s) }
