package webhooktest

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// An Answer is what a Receiver does about a request. The zero Answer is 204.
type Answer struct {
	Status int         // 200 to 999. Zero: 204, or 200 with a Body
	Header http.Header // nil: none
	Body   string      // not for 204 and 304

	Delay time.Duration // before anything is answered
	Pause time.Duration // before each byte of Body, after the header was sent

	fault string // instead of an answer
}

// What is done instead of an answer, as the record shows it.
const (
	faultHang  = "hangs"
	faultReset = "reset"
	faultClose = "closed"
	faultGone  = "none, the sender gave up" // before the Delay was over
)

// Status answers with a status and no body.
func Status(code int) Answer { return Answer{Status: code} }

// RetryAfter answers 429 and asks for a pause, which is rounded up to whole
// seconds. For what is sent to a server, which real time passes for,
// Options.MaxRetryAfter can cut it short.
func RetryAfter(pause time.Duration) Answer {
	seconds := (pause + time.Second - 1) / time.Second
	return Answer{
		Status: http.StatusTooManyRequests,
		Header: http.Header{"Retry-After": {strconv.FormatInt(int64(seconds), 10)}},
	}
}

// Hang answers nothing until the sender gives up or the test ends.
func Hang() Answer { return Answer{fault: faultHang} }

// Reset resets the connection (RST) when the request has been read.
func Reset() Answer { return Answer{fault: faultReset} }

// Close closes the connection (FIN) when the request has been read.
func Close() Answer { return Answer{fault: faultClose} }

func (a *Answer) status() int {
	switch {
	case a.Status != 0:
		return a.Status
	case a.Body != "":
		return http.StatusOK
	}
	return http.StatusNoContent
}

// check reports what a server could not send.
func (a *Answer) check() error {
	status := a.status()
	switch {
	case status < 200 || status > 999:
		return fmt.Errorf("the status %d is not in 200 to 999", status)
	case a.Body != "" && (status == http.StatusNoContent || status == http.StatusNotModified):
		return fmt.Errorf("the status %d has no body", status)
	case a.Delay < 0 || a.Pause < 0:
		return fmt.Errorf("a delay of %v or a pause of %v is negative", a.Delay, a.Pause)
	}
	return nil
}
