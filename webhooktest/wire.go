package webhooktest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// RoundTrip answers a request in memory, as [http.RoundTripper] demands. What
// waits ends with the request's context, and no goroutine is started.
func (r *Receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(req.Body)
		_ = req.Body.Close()
		if err != nil {
			return nil, err
		}
	}
	if err := context.Cause(req.Context()); err != nil {
		return nil, err
	}
	x, err := r.begin(req, req.URL.String(), body)
	if err != nil {
		return nil, err
	}
	a := &x.answer
	if err := x.sleep(a.Delay); err != nil {
		x.answered(0, faultGone)
		x.end()
		return nil, err
	}
	if a.fault != "" {
		defer x.end()
		x.answered(0, a.fault)
		switch a.fault {
		case faultReset:
			return nil, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
		case faultClose:
			return nil, io.EOF
		}
		<-x.ctx.Done()
		return nil, context.Cause(x.ctx)
	}
	status := a.status()
	response := &http.Response{
		Status:        strings.TrimSpace(fmt.Sprintf("%03d %s", status, http.StatusText(status))),
		StatusCode:    status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        a.header(),
		Body:          http.NoBody,
		ContentLength: int64(len(a.Body)),
		Request:       req,
	}
	x.answered(status, "")
	if a.Body == "" {
		x.end()
	} else {
		response.Body = &memoryBody{x: x, left: a.Body}
	}
	return response, nil
}

// A memoryBody is the body of a response in memory.
type memoryBody struct {
	x    *exchange
	left string
}

func (b *memoryBody) Read(p []byte) (int, error) {
	if err := context.Cause(b.x.ctx); err != nil {
		return 0, err
	}
	if b.left == "" {
		return 0, io.EOF
	}
	if pause := b.x.answer.Pause; pause > 0 && len(p) > 0 {
		if err := b.x.sleep(pause); err != nil {
			return 0, err
		}
		p = p[:1]
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

// Close also ends a Read that waits, as that of a connection does.
func (b *memoryBody) Close() error {
	b.x.end()
	return nil
}

// ServeHTTP answers a request that a server has taken.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the sender has gone
	}
	target := *req.URL
	target.Scheme, target.Host = "http", req.Host
	if req.TLS != nil {
		target.Scheme = "https"
	}
	x, err := r.begin(req, target.String(), body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer x.end()
	a := &x.answer
	if x.sleep(a.Delay) != nil {
		x.answered(0, faultGone)
		panic(http.ErrAbortHandler)
	}
	if a.fault != "" {
		x.answered(0, a.fault)
		switch a.fault {
		case faultReset:
			reset(w)
		case faultHang:
			<-x.ctx.Done()
		}
		panic(http.ErrAbortHandler) // closes the connection
	}
	header := w.Header()
	header["Content-Type"] = nil // net/http would guess one
	maps.Copy(header, a.header())
	if a.Body != "" {
		header.Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	status := a.status()
	x.answered(status, "")
	w.WriteHeader(status)
	if a.Pause == 0 {
		_, _ = io.WriteString(w, a.Body)
		return
	}
	for i := range len(a.Body) {
		_ = http.NewResponseController(w).Flush()
		if x.sleep(a.Pause) != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, a.Body[i:i+1])
	}
}

// reset has the connection end in an RST, as closing one does that does not
// linger. HTTP/2 has no connection to take: there it is its stream that is reset.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	raw := conn
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		raw = secure.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = raw.Close()
}

// sleep waits, unless the exchange ends before: then it returns why.
func (x *exchange) sleep(d time.Duration) error {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-x.ctx.Done():
		}
	}
	return context.Cause(x.ctx)
}

// header returns the answer's header with canonical names.
func (a *Answer) header() http.Header {
	h := make(http.Header, len(a.Header))
	for name, values := range a.Header {
		for _, value := range values {
			h.Add(name, value)
		}
	}
	return h
}
