package lab

import (
	"context"
	"errors"
	"net/http"

	"carte/lab/chunk"
)

// The kinds of error that callers switch on. Everything else is a failure of the machine that carte runs on.
var (
	ErrNotFound    = errors.New("no such thing")
	ErrBusy        = errors.New("busy")
	ErrInvalid     = errors.New("not valid")
	ErrRefused     = errors.New("refused")            // by a contract or a guard
	ErrConfirm     = errors.New("needs confirmation") // by typing the name of what is destroyed
	ErrDamaged     = chunk.ErrDamaged
	ErrDenied      = errors.New("not allowed") // a token or key that does not fit
	ErrUnreachable = errors.New("not reachable")
)

// A Failing is how an error kind is told to machines, scripts and people.
type Failing struct {
	Kind error
	Code string // stable, for scripts
	HTTP int
	Exit int // of the command line
}

// Failings is the one table of error kinds. The first row that fits counts; the last fits all.
var Failings = []Failing{
	{ErrNotFound, "E-NOT-FOUND", http.StatusNotFound, 3},
	{ErrConfirm, "E-CONFIRM", http.StatusPreconditionRequired, 9},
	{ErrBusy, "E-BUSY", http.StatusConflict, 5},
	{ErrInvalid, "E-INVALID", http.StatusBadRequest, 2},
	{ErrRefused, "E-REFUSED", http.StatusForbidden, 4},
	{ErrDenied, "E-DENIED", http.StatusUnauthorized, 4},
	{ErrDamaged, "E-DAMAGED", http.StatusUnprocessableEntity, 1},
	{ErrUnreachable, "E-UNREACHABLE", http.StatusServiceUnavailable, 8},
	{context.DeadlineExceeded, "E-TIMEOUT", http.StatusGatewayTimeout, 6},
	{context.Canceled, "E-INTERRUPTED", 499, 130},
	{nil, "E-FAILED", http.StatusInternalServerError, 1},
}

// FailingOf returns the row of err's kind.
func FailingOf(err error) Failing {
	for _, f := range Failings {
		if f.Kind == nil || errors.Is(err, f.Kind) {
			return f
		}
	}
	panic("BUG: the table of failings has no last row")
}

// FailingByCode returns the row with that code, so that an error that came over the wire can be switched on again.
func FailingByCode(code string) Failing {
	for _, f := range Failings {
		if f.Code == code {
			return f
		}
	}
	return Failings[len(Failings)-1]
}

// Words is an error as a person reads it: without the name of its kind at the end.
func Words(err error) string { return reason(err) }
