package sqlitestore

import (
	"encoding/json"
	"errors"

	"github.com/outhook/outhook"
	"github.com/outhook/outhook/internal/stored"
)

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
		var err error
		if restored.Header, err = stored.DecodeHeader([]byte(*p.header)); err != nil {
			return nil, errors.New("payload: its header is not JSON")
		}
	}
	return restored, nil
}

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

// nullText is what a column of text takes: null for nil.
func nullText(data []byte) any {
	if data == nil {
		return nil
	}
	return string(data)
}
