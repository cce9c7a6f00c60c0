package sqlitestore

import (
	"encoding/json"

	"github.com/outhook/outhook"
)

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
