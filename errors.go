package outhook

import (
	"errors"
	"fmt"
)

// Sentinels that callers may branch on with [errors.Is].
var (
	// ErrInvalid is matched by every [FieldError]: an argument or option has a
	// fault that repeating the call will not cure.
	ErrInvalid = errors.New("outhook: invalid")

	// ErrConflict is returned by Send when the event ID was already sent to a
	// subscriber with another type, time or content. Nothing was stored.
	ErrConflict = errors.New("outhook: event ID already used with other content")

	// ErrFull is returned by Send when a bounded store has no room for a
	// subscriber's delivery. Nothing was stored.
	ErrFull = errors.New("outhook: store is full")

	// ErrNotFound is returned by Get when the store has no such delivery.
	ErrNotFound = errors.New("outhook: delivery not found")

	// ErrRunning is returned by Run and Drain while the same Dispatcher is
	// already running or draining.
	ErrRunning = errors.New("outhook: dispatcher is already running")

	// ErrBlocked is returned by the guard, and so by the default transport,
	// for a URL or address that may not be called. Attempts record it with
	// this text alone, so that a tenant cannot tell which rule refused it;
	// Observation.Detail tells the operator.
	ErrBlocked = errors.New("outhook: target is not allowed")

	// ErrUnknownSubscriber is to be returned by a [Directory] that has no
	// subscriber with an ID.
	ErrUnknownSubscriber = errors.New("outhook: unknown subscriber")

	// ErrPlaintextKeys is returned when a store marshals a [Snapshot] that
	// holds signing keys, and of Options.Sealer, Directory and
	// StoreKeysInPlaintext none is set.
	ErrPlaintextKeys = errors.New("outhook: signing keys would be stored in plaintext, see Options.Sealer, Directory and StoreKeysInPlaintext")
)

// A FieldError names one faulty field of an event, a subscriber or the options.
// Send and New report all faults of a call at once, joined with [errors.Join].
// It matches [ErrInvalid].
type FieldError struct {
	Subscriber string // ID of the subscriber at fault, empty for an event or option, or if it has none
	Field      string // Go name of the field, as in "URL", "Keys[1]", "Event.Type", "Options.Poll" or "subscribers[2].ID"
	Reason     string // what is wrong with its value

	cause error // nil, or what Reason is the text of
}

// Unwrap returns the cause, such as [ErrBlocked] for a URL. It may be nil.
func (e *FieldError) Unwrap() error { return e.cause }

func (e *FieldError) Error() string {
	if e.Subscriber != "" {
		return fmt.Sprintf("outhook: subscriber %q: %s: %s", e.Subscriber, e.Field, e.Reason)
	}
	return fmt.Sprintf("outhook: %s: %s", e.Field, e.Reason)
}

// Is reports whether target is [ErrInvalid].
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

// faults collects the faults of one call.
type faults []error

func (f *faults) add(subscriber, field, format string, args ...any) {
	*f = append(*f, &FieldError{Subscriber: subscriber, Field: field, Reason: fmt.Sprintf(format, args...)})
}

func (f faults) err() error { return errors.Join(f...) }
