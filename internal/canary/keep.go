package canary

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/outhook/outhook"
)

// strange are header values and bodies that a column of text may not take.
var strange = map[string]struct{ value, body string }{
	"nul":      {"a\x00b", "a\x00b\x00"},
	"escapes":  {"a\x1b[2J\x7f", "\x1b[2J\x1b]0;title\x07\x7f\b\r\n\u2028\u202e"},
	"utf8":     {"\xff\xfe caf\xe9", "\xc3\x28\xa0\xa1\xed\xa0\x80\xff\x00"},
	"quotes":   {`"'\ {} $1 ?`, `"'\u0000\\x00{"base64":"AA=="}`},
	"too-long": {strings.Repeat("h", 4000), strings.Repeat("\x00\xff", 5000)},
	"empty":    {"", ""},
}

// refused reports whether net/http takes a header value for a fault.
func refused(value string) bool { return strings.ContainsAny(value, "\x00\x1b") }

// kept is how much of a body Keep keeps.
const kept = 100

// Keep lets receivers answer what a column of text may not take, and checks that the
// store has kept it byte for byte, and no more of the bodies than was asked for. Of the
// headers, net/http lets some pass, and a transport of the host's may let pass all.
func Keep(ctx context.Context, store Store) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var serving sync.WaitGroup
	serving.Go(func() { serve(l) })
	defer serving.Wait()
	defer func() { _ = l.Close() }()
	real := keeping{store: store, event: "real", url: "http://" + l.Addr().String() + "/"}
	own := keeping{store: store, event: "own", url: "http://127.0.0.1/", transport: roundTripper{}}
	return errors.Join(real.fly(ctx), own.fly(ctx))
}

// keeping is one event that is answered with all that is strange.
type keeping struct {
	store      Store
	event, url string
	transport  outhook.Transport // nil: the default one
}

func (k keeping) fly(ctx context.Context) error {
	d, err := outhook.New(k.store, &outhook.Options{
		Guard: outhook.DevelopmentGuard(), Retry: outhook.Schedule(0), StoreKeysInPlaintext: true, KeepResponse: kept, Transport: k.transport,
	})
	if err != nil {
		return err
	}
	var subscribers []outhook.Subscriber
	for name := range strange {
		subscribers = append(subscribers, outhook.Subscriber{ID: name, URL: k.url + name, Unsigned: true})
	}
	if _, err = d.Send(ctx, outhook.Event{ID: k.event, Type: "canary.kept"}, subscribers); err != nil {
		return err
	}
	if _, err = d.Drain(ctx); err != nil {
		return err
	}
	for name := range strange {
		r, err := d.Get(ctx, outhook.DeliveryID{Event: k.event, Subscriber: name})
		if err == nil && (r.State != outhook.Dead || len(r.Attempts) != 2) {
			err = fmt.Errorf("it is %s with %d attempts, want dead with 2", r.State, len(r.Attempts))
		}
		for i := 0; err == nil && i < len(r.Attempts); i++ {
			err = k.check(name, &r.Attempts[i])
		}
		if err != nil {
			return fmt.Errorf("canary: %s, %s: %w", k.event, name, err)
		}
	}
	return nil
}

// check compares an attempt with what was answered.
func (k keeping) check(name string, a *outhook.Attempt) error {
	sent := strange[name]
	status, text := http.StatusInternalServerError, "status 500"
	header := http.Header{"X-Strange": {sent.value}}
	body := []byte(sent.body[:min(len(sent.body), kept)])
	switch {
	case k.transport != nil:
	case refused(sent.value):
		status, text, header, body = 0, "the response is malformed", nil, nil
	default:
		header.Set("Content-Length", strconv.Itoa(len(sent.body)))
	}
	switch {
	case a.Status != status || a.Error != text:
		return fmt.Errorf("status %d, error %q", a.Status, a.Error)
	case !reflect.DeepEqual(a.Header, header):
		return fmt.Errorf("header %q, want %q", a.Header, header)
	case !bytes.Equal(a.Body, body) || (a.Body == nil) != (body == nil):
		return fmt.Errorf("body %q, want %q", a.Body, body)
	}
	return nil
}

// roundTripper is a transport of the host's, which judges nothing.
type roundTripper struct{}

func (roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	sent := strange[strings.Trim(r.URL.Path, "/")]
	return &http.Response{
		StatusCode: http.StatusInternalServerError, Status: "500 \x1b[2J\xff\x00",
		Header: http.Header{"X-Strange": {sent.value}}, Body: io.NopCloser(strings.NewReader(sent.body)),
	}, nil
}

// serve answers as strange says, until the listener is closed.
func serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				panic(err)
			}
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err == nil {
			sent := strange[strings.Trim(r.URL.Path, "/")]
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 500 \x1b[2J\xff\r\nX-Strange: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
				sent.value, len(sent.body), sent.body)
		}
		_ = conn.Close()
	}
}
