package sqlitestore

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/outhook/outhook"
)

// text is a string that may hold any bytes. In JSON, one that is not UTF-8 is in
// base64, within an array to tell it apart.
type text string

func (s text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(s)) {
		return json.Marshal(string(s))
	}
	return json.Marshal([1][]byte{[]byte(s)})
}

func (s *text) UnmarshalJSON(data []byte) error {
	if len(data) == 0 || data[0] != '[' {
		return json.Unmarshal(data, (*string)(s))
	}
	var b [1][]byte
	err := json.Unmarshal(data, &b)
	*s = text(b[0])
	return err
}

// header is a http.Header. Its names are tokens.
type header map[string][]text

func newHeader(h http.Header) header {
	if h == nil {
		return nil
	}
	stored := make(header, len(h))
	for name, values := range h {
		stored[name] = make([]text, len(values))
		for i, v := range values {
			stored[name][i] = text(v)
		}
	}
	return stored
}

func (h header) restore() http.Header {
	if h == nil {
		return nil
	}
	restored := make(http.Header, len(h))
	for name, values := range h {
		restored[name] = make([]string, len(values))
		for i, v := range values {
			restored[name][i] = string(v)
		}
	}
	return restored
}

// attempt is the stored form of an Attempt. Fields may be added, never renamed.
type attempt struct {
	Number     int           `json:"number"`
	Replay     int           `json:"replay,omitempty"`
	Seconds    int64         `json:"unix"` // when it began, since 1970
	Nanos      int           `json:"nanoseconds"`
	Duration   time.Duration `json:"duration"` // nanoseconds
	Status     int           `json:"status,omitempty"`
	RetryAfter time.Duration `json:"retryAfter,omitempty"`
	Error      text          `json:"error,omitempty"`
	Header     header        `json:"header"`
	Body       []byte        `json:"body"` // null: not kept
}

// encodeAttempts returns nil for none.
func encodeAttempts(attempts []outhook.Attempt) (any, error) {
	if len(attempts) == 0 {
		return nil, nil
	}
	stored := make([]attempt, len(attempts))
	for i, a := range attempts {
		stored[i] = attempt{
			a.Number, a.Replay, a.Time.Unix(), a.Time.Nanosecond(), a.Duration,
			a.Status, a.RetryAfter, text(a.Error), newHeader(a.Header), a.Body,
		}
	}
	data, err := json.Marshal(stored)
	return string(data), err
}

func decodeAttempts(data string) ([]outhook.Attempt, error) {
	var stored []attempt
	if err := json.Unmarshal([]byte(data), &stored); err != nil {
		return nil, err
	}
	attempts := make([]outhook.Attempt, len(stored))
	for i, a := range stored {
		attempts[i] = outhook.Attempt{
			Number: a.Number, Replay: a.Replay,
			Time: time.Unix(a.Seconds, int64(a.Nanos)).UTC(), Duration: a.Duration,
			Status: a.Status, RetryAfter: a.RetryAfter, Error: string(a.Error),
			Header: a.Header.restore(), Body: a.Body,
		}
	}
	return attempts, nil
}

// encodeHeader returns nil for none.
func encodeHeader(h http.Header) (any, error) {
	if h == nil {
		return nil, nil
	}
	data, err := json.Marshal(newHeader(h))
	return string(data), err
}

// payload is what is stored of a Payload.
type payload struct {
	contentType *string // nil: there is no row
	header      *string
	body        []byte
}

func (p *payload) restore() (*outhook.Payload, error) {
	if p.contentType == nil {
		return nil, errors.New("payload: it is missing")
	}
	restored := &outhook.Payload{ContentType: *p.contentType, Body: p.body}
	if p.header != nil {
		var h header
		if err := json.Unmarshal([]byte(*p.header), &h); err != nil {
			return nil, errors.New("payload: its header is not JSON")
		}
		restored.Header = h.restore()
	}
	return restored, nil
}

func encodeTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func decodeTime(s string) (time.Time, error) { return time.Parse(time.RFC3339Nano, s) }

// encodeStanding returns nil for the zero standing.
func encodeStanding(s outhook.Standing) (any, error) {
	if s == (outhook.Standing{Subscriber: s.Subscriber}) {
		return nil, nil
	}
	data, err := json.Marshal(s)
	return string(data), err
}

// decodeStanding returns the zero standing if it cannot restore the stored one:
// there is no better use for one that nobody can read.
func decodeStanding(subscriber string, data *string) (s outhook.Standing) {
	if data == nil || json.Unmarshal([]byte(*data), &s) != nil {
		s = outhook.Standing{}
	}
	s.Subscriber = subscriber
	return s
}
