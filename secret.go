package outhook

import (
	"errors"
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// A Secret holds a signing secret that does not print: every fmt verb, slog, JSON
// and text form shows "[redacted]" instead. The zero Secret is empty.
//
// It unmarshals from text, so it can stand in a configuration, but what it
// marshalled to it refuses: a program that stores Secrets by their JSON form
// finds out at once.
type Secret struct {
	// fmt prints the unexported fields of other packages' structs by
	// reflection, past every method, down to the bytes behind a pointer. It
	// cannot look into a func.
	reveal *func() string
}

// NewSecret returns a Secret that holds s.
func NewSecret(s string) Secret {
	reveal := func() string { return s }
	return Secret{&reveal}
}

// Reveal returns the secret itself, to show it once to the customer it belongs
// to, or to sign with it.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return (*s.reveal)()
}

// Format implements [fmt.Formatter] for all verbs.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String returns "[redacted]".
func (s Secret) String() string { return redacted }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[redacted]".
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText sets the secret to text, unless that is "[redacted]".
func (s *Secret) UnmarshalText(text []byte) error {
	if string(text) == redacted {
		return errors.New("outhook: unmarshal secret: the text is the redacted form")
	}
	*s = NewSecret(string(text))
	return nil
}
