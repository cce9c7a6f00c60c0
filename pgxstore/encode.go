package pgxstore

import (
	"encoding/json"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/outhook/outhook"
)

// text is a string of any bytes: in JSON a string if it is UTF-8, else the bytes
// as {"base64": ...}. What a receiver answers need not be UTF-8.
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

// storedHeader is a header as a list of names, each with its values.
type storedHeader [][]text

func storeHeader(h http.Header) storedHeader {
	if h == nil {
		return nil
	}
	stored := make(storedHeader, 0, len(h))
	for name, values := range h {
		line := []text{text(name)}
		for _, v := range values {
			line = append(line, text(v))
		}
		stored = append(stored, line)
	}
	return stored
}

func (s storedHeader) header() http.Header {
	if s == nil {
		return nil
	}
	h := make(http.Header, len(s))
	for _, line := range s {
		if len(line) == 0 {
			continue
		}
		values := make([]string, 0, len(line)-1)
		for _, v := range line[1:] {
			values = append(values, string(v))
		}
		h[string(line[0])] = values
	}
	return h
}

// storedAttempt is an outhook.Attempt. Fields may be added, never renamed.
type storedAttempt struct {
	Number     int           `json:"number"`
	Replay     int           `json:"replay,omitempty"`
	Time       string        `json:"time"`
	Duration   time.Duration `json:"duration"` // nanoseconds
	Status     int           `json:"status,omitempty"`
	RetryAfter time.Duration `json:"retry_after,omitempty"` // nanoseconds
	Error      text          `json:"error,omitempty"`
	Header     storedHeader  `json:"header"` // null: not kept
	Body       []byte        `json:"body"`   // null: not kept
}

// encodeAttempts returns nil for no attempts. It cannot fail: no field has a value
// that JSON does not take.
func encodeAttempts(attempts []outhook.Attempt) ([]byte, error) {
	if len(attempts) == 0 {
		return nil, nil
	}
	stored := make([]storedAttempt, len(attempts))
	for i, a := range attempts {
		stored[i] = storedAttempt{
			a.Number, a.Replay, encodeTime(a.Time), a.Duration,
			a.Status, a.RetryAfter, text(a.Error), storeHeader(a.Header), a.Body,
		}
	}
	return json.Marshal(stored)
}

func decodeAttempts(data []byte) ([]outhook.Attempt, error) {
	if data == nil {
		return nil, nil
	}
	var stored []storedAttempt
	if err := json.Unmarshal(data, &stored); err != nil {
		return nil, err
	}
	attempts := make([]outhook.Attempt, len(stored))
	for i, a := range stored {
		attempts[i] = outhook.Attempt{
			Number: a.Number, Replay: a.Replay, Duration: a.Duration,
			Status: a.Status, RetryAfter: a.RetryAfter, Error: string(a.Error),
			Header: a.Header.header(), Body: a.Body,
		}
		var err error
		if attempts[i].Time, err = decodeTime(a.Time); err != nil {
			return nil, err
		}
	}
	return attempts, nil
}

// encodeHeader returns nil for nil.
func encodeHeader(h http.Header) ([]byte, error) {
	if h == nil {
		return nil, nil
	}
	return json.Marshal(storeHeader(h))
}

func decodeHeader(data []byte) (http.Header, error) {
	if data == nil {
		return nil, nil
	}
	var stored storedHeader
	err := json.Unmarshal(data, &stored)
	return stored.header(), err
}

// encodeTime keeps nanoseconds and the offset, which timestamptz does not. A year that
// RFC 3339 has no form for becomes the zero time.
func encodeTime(t time.Time) string {
	if y := t.Year(); y < 0 || y > 9999 {
		t = time.Time{}
	}
	return t.Format(time.RFC3339Nano)
}

func decodeTime(s string) (time.Time, error) { return time.Parse(time.RFC3339Nano, s) }
