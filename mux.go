package outhook

import (
	"context"
	"fmt"
	"net/http"
)

// A Mux hands received events on by their type: to what was registered with [On] for
// the type itself, else for the longest pattern that matches. Its Handle is made for
// [Verifier.Handler]. The zero Mux has nothing registered. Register everything
// before the first event.
type Mux struct {
	// Other handles the events that nothing is registered for, and those that
	// have no type, for their body is no envelope. Nil: they are accepted and dropped.
	Other func(ctx context.Context, event Event) error

	handlers map[string]func(context.Context, Event) error // by pattern
}

// On registers a func for the event types that match a pattern, as those of
// Subscriber.Events: "invoice.paid", "invoice.*" or "*". The data of the event's
// envelope is decoded to T, as [Decode] does; what is no T is answered 422.
// On panics if the pattern is none, or was registered before.
func On[T any](m *Mux, pattern string, handle func(ctx context.Context, event Event, data T) error) {
	if !validPattern(pattern) {
		panic(fmt.Sprintf("outhook: on %q: no event type, none followed by \".*\", and not \"*\"", pattern))
	}
	if m.handlers[pattern] != nil {
		panic(fmt.Sprintf("outhook: on %q: registered twice", pattern))
	}
	if m.handlers == nil {
		m.handlers = make(map[string]func(context.Context, Event) error)
	}
	m.handlers[pattern] = func(ctx context.Context, event Event) error {
		data, err := Decode[T](event)
		if err != nil {
			return &StatusError{Status: http.StatusUnprocessableEntity, Err: err}
		}
		return handle(ctx, event, data)
	}
}

// Handle hands an event on.
func (m *Mux) Handle(ctx context.Context, event Event) error {
	handle, longest := m.handlers[event.Type], 0
	if handle == nil && event.Type != "" {
		for pattern, h := range m.handlers {
			if len(pattern) > longest && matchType(pattern, event.Type) {
				handle, longest = h, len(pattern)
			}
		}
	}
	switch {
	case handle != nil:
		return handle(ctx, event)
	case m.Other != nil:
		return m.Other(ctx, event)
	}
	return nil
}
