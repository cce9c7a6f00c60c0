package cloudevents

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/textproto"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/binding/format"
	ce "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/outhook/outhook"
)

// An Encoder makes a CloudEvent of an event: its id is the event's ID, its type
// the event's Type, its time the event's Time, and its data the event's Data as
// JSON, or the bytes of its Payload with their content type.
//
// It may be used concurrently, and must not be changed then. What is wrong with an
// event is told in [AttributeError]s, joined, at Send.
type Encoder struct {
	// Source identifies the producer: a URI-reference, at best an absolute
	// URI, such as "https://shop.example". Required.
	Source string

	// TypePrefix stands before the event's Type: a reversed domain name and a
	// full stop, such as "example.shop.". Empty: nothing.
	TypePrefix string

	// Attributes returns the optional attributes of an event. It is called
	// once for each subscriber and must not keep or change the event's data.
	// Nil: none.
	Attributes func(outhook.Event) (Attributes, error)
}

// Attributes are those that a CloudEvent may have.
type Attributes struct {
	// Subject is what the event is about, within Source. Empty: none.
	Subject string

	// DataSchema is the absolute URI of a schema of the data. Empty: none.
	DataSchema string

	// Extensions have names of lower-case letters and digits, and values that
	// are a bool, an integer of 32 bits, a string, a []byte, a time or a URL.
	// Nil: none.
	Extensions map[string]any
}

// An AttributeError names an attribute of a CloudEvent that is missing or
// faulty, or its data. It matches [outhook.ErrInvalid].
type AttributeError struct {
	Attribute string // such as "source", "data", or the name of an extension
	Reason    string // what is wrong with it
}

func (e *AttributeError) Error() string { return "cloudevents: " + e.Attribute + ": " + e.Reason }

// Is reports whether target is [outhook.ErrInvalid].
func (e *AttributeError) Is(target error) bool { return target == outhook.ErrInvalid }

// faults maps attributes to what is wrong with them.
type faults map[string]string

func (f faults) err() error {
	var errs []error
	for _, attribute := range slices.Sorted(maps.Keys(f)) {
		errs = append(errs, &AttributeError{attribute, f[attribute]})
	}
	return errors.Join(errs...)
}

// Structured encodes an event in structured mode: all of it is one JSON document
// of the type application/cloudevents+json (HTTP protocol binding, section 3.2).
//
// Data of the types application/json and text/json stands in it as JSON. All other
// data is given as bytes and becomes base64, also that of a type that ends in
// +json, which the SDK would not take as JSON. A Payload's Header belongs to
// another body, and is left out.
func (e *Encoder) Structured(event outhook.Event) (*outhook.Payload, error) {
	f := faults{}
	c, err := e.make(event, f)
	if err != nil {
		return nil, err
	}
	// The SDK copies data that is JSON as it is: what only begins as JSON
	// could go on with attributes of its own.
	if !c.DataBase64 && (!json.Valid(c.DataEncoded) || !utf8.Valid(c.DataEncoded)) {
		f["data"] = "is not JSON, as its content type says"
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	body, err := writeJSON(c)
	if err != nil {
		return nil, err
	}
	return &outhook.Payload{ContentType: format.JSON.MediaType(), Body: body}, nil
}

// Binary encodes an event in binary mode: the data is the body, with its own
// content type, and the attributes are ce-* headers (HTTP protocol binding,
// section 3.1). The headers of an event's Payload are sent too.
//
// As section 3.1.3.2 demands, spaces, double quotes, percent signs and what is
// not ASCII are percent-encoded in the headers. Some receivers do not decode
// them, the SDK for Go among them
// (https://github.com/cloudevents/sdk-go/issues/1331): prefer Structured for such
// subjects and extensions.
//
// Data of a type that begins with application/cloudevents is refused: it would be
// read as structured mode (section 3). So is a body without a byte, which is no
// notification (web hook specification, section 2.1).
func (e *Encoder) Binary(event outhook.Event) (*outhook.Payload, error) {
	f := faults{}
	c, err := e.make(event, f)
	if err != nil {
		return nil, err
	}
	if format.IsFormat(strings.ToLower(c.DataContentType())) {
		f["datacontenttype"] = "is that of a CloudEvent, which would be read in place of this one"
	}
	if len(c.DataEncoded) == 0 {
		f["data"] = "is empty"
	}
	header := make(http.Header)
	if event.Payload != nil {
		for name, values := range event.Payload.Header {
			name = textproto.CanonicalMIMEHeaderKey(name)
			if strings.HasPrefix(name, attributePrefix) {
				f["data"] = "has headers of its own that begin with ce-"
			}
			header[name] = values
		}
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	contentType, err := writeHeader(c, header)
	if err != nil {
		return nil, err
	}
	return &outhook.Payload{ContentType: contentType, Header: header, Body: c.DataEncoded}, nil
}

// make makes the CloudEvent and gathers its faults. The error is that of the
// host's func or data.
func (e *Encoder) make(event outhook.Event, f faults) (*ce.Event, error) {
	attributes := &ce.EventContextV1{
		ID:   event.ID,
		Type: e.TypePrefix + event.Type,
	}
	if source := types.ParseURIRef(e.Source); source != nil && !strings.Contains(e.Source, " ") {
		attributes.Source = *source
	} else if e.Source != "" {
		f["source"] = "is no URI-reference"
	}
	if event.Time.IsZero() {
		f["time"] = "is zero"
	} else {
		attributes.Time = &types.Timestamp{Time: event.Time.UTC()}
	}
	if e.Attributes != nil {
		optional, err := e.Attributes(event)
		if err != nil {
			return nil, fmt.Errorf("cloudevents: attributes: %w", err)
		}
		optional.set(attributes, f)
	}
	c := &ce.Event{Context: attributes}
	if err := setData(c, event); err != nil {
		return nil, err
	}

	check := func(attribute, value string) {
		if !isString(value) {
			f[attribute] = "holds control characters or is not UTF-8"
		}
	}
	check("type", attributes.Type)
	check("source", e.Source)
	check("datacontenttype", c.DataContentType())
	if !strings.Contains(c.DataMediaType(), "/") { // which the SDK lets pass
		f["datacontenttype"] = "is no media type"
	}
	if attributes.Subject != nil {
		check("subject", *attributes.Subject)
	}
	if fault, ok := errors.AsType[ce.ValidationError](c.Validate()); ok {
		for attribute, cause := range fault {
			if _, known := f[attribute]; !known {
				f[attribute] = cause.Error()
			}
		}
	}
	return c, nil
}

// set puts the attributes into those of a CloudEvent.
func (a *Attributes) set(c *ce.EventContextV1, f faults) {
	if a.Subject != "" {
		c.Subject = &a.Subject
	}
	if a.DataSchema != "" {
		// Validate reports one that is not absolute.
		if c.DataSchema = types.ParseURI(a.DataSchema); c.DataSchema == nil {
			f["dataschema"] = "is no URI"
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Extensions)) {
		value, fault := extension(a.Extensions[name])
		switch {
		case name != strings.ToLower(name):
			fault = "is no name of lower-case letters and digits"
		case name == "data": // the SDK would write it a second time
			fault = "is no name of an extension"
		case fault == "":
			if c.SetExtension(name, value) != nil {
				fault = "is no name of lower-case letters and digits, or that of an attribute"
			}
		}
		if fault != "" {
			f[name] = fault
		}
	}
}

// extension returns the value of an extension as a bool, an int32 or a string: in
// JSON, all other types are their string form (JSON event format, section 2.2).
func extension(value any) (_ any, fault string) {
	v, err := types.Validate(value)
	if err != nil || v == nil {
		return nil, fmt.Sprintf("a %T is no value of an attribute, or out of its range", value)
	}
	if reflect.Indirect(reflect.ValueOf(value)).CanFloat() {
		return nil, "is no integer" // the SDK would cut what is behind the point
	}
	switch v.(type) {
	case bool, int32:
		return v, ""
	}
	s, err := types.Format(v)
	if err != nil || !isString(s) {
		return nil, "holds control characters or is not UTF-8"
	}
	return s, ""
}

// setData sets the data and its content type.
func setData(c *ce.Event, from outhook.Event) error {
	if p := from.Payload; p != nil {
		c.DataEncoded = p.Body
		contentType := p.ContentType
		if contentType == "" {
			contentType = ce.ApplicationJSON // as a Payload has it
		}
		c.SetDataContentType(contentType)
		mediaType, _, _ := mime.ParseMediaType(contentType)
		c.DataBase64 = mediaType != ce.ApplicationJSON && mediaType != ce.TextJSON
		return nil
	}
	data, err := json.Marshal(from.Data)
	if err != nil {
		return fmt.Errorf("cloudevents: data: %w", err)
	}
	c.DataEncoded = data
	c.SetDataContentType(ce.ApplicationJSON)
	return nil
}

// writeJSON encodes the event in the JSON format. Other than its MarshalJSON
// through encoding/json, it leaves the data's bytes as they are.
func writeJSON(c *ce.Event) ([]byte, error) {
	var b bytes.Buffer
	if err := ce.WriteJson(c, &b); err != nil {
		return nil, fmt.Errorf("cloudevents: encode: %w", err)
	}
	return b.Bytes(), nil
}

// attributePrefix begins the headers of attributes, in canonical form.
const attributePrefix = "Ce-"

// writeHeader adds the attributes to a header and returns the content type.
func writeHeader(c *ce.Event, header http.Header) (contentType string, err error) {
	attributes := &http.Request{Header: make(http.Header)}
	ctx := binding.WithForceBinary(context.Background())
	if err := cehttp.WriteRequest(ctx, binding.ToMessage(c), attributes); err != nil {
		return "", fmt.Errorf("cloudevents: encode: %w", err)
	}
	for name, values := range attributes.Header {
		if strings.HasPrefix(name, attributePrefix) {
			header[name] = []string{percentEncode(values[0])}
		}
	}
	return attributes.Header.Get(cehttp.ContentType), nil
}

// percentEncode encodes the value of an attribute for a header (HTTP protocol
// binding, section 3.1.3.2).
func percentEncode(s string) string {
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '%' {
			b = append(b, '%', digits[c>>4], digits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

// isString reports whether s is a String of CloudEvents, which has no control
// characters and no noncharacters of Unicode (section "Type System").
func isString(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool {
		return r < ' ' || 0x7f <= r && r < 0xa0 || 0xfdd0 <= r && r <= 0xfdef || r&0xfffe == 0xfffe
	}) < 0
}
