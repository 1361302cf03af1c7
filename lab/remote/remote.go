// Package remote lets people and scripts work with a lab that runs in another process: the same verbs, snapshots and log
// as in that process, over HTTP on a unix socket in the state folder.
//
// It refuses to know what the verbs mean, and it has no network: the kernel says who is at the other end of the socket,
// and only the user whose lab it is, and root, are heard. Machines never speak here.
//
//	POST /verb/NAME            the verb's JSON                 -> lab.Changed
//	GET  /watch?after=REV      as soon as it is newer          -> lab.Snapshot
//	GET  /tail?machine=&after=&max=&wait=                      -> lines, next, lost
//	POST /image/import?name=&kind=&form=&message=&author=&file=&offers=&place=&dies=&owner=   the image's bytes -> lines of JSON: done..., imported or error
//	GET  /image/export?ref=    the bytes, then a trailer that says that they are all
//	POST /image/verify?ref=    lines of JSON: done and of..., ok or error
//	POST /gc?dry=              lab.Collected
//	POST /fsck                 lines of JSON: done and of..., fscked or error
//	POST /image/capture?name=&kind=&form=&message=&author=&file=&base=   length and manifest, frames, an end mark -> as an import
//	GET  /chunk/manifest?root=&size=   the manifest, encoded
//	POST /chunk/read           ids, 32 bytes each -> frames in the same order, then a trailer that says that they are all
//	POST /chunk/lacks          ids -> those that the lab has not
//	POST /stack/judge          the stack's JSON           -> lab.Judged
//	GET  /stack/export?name=&as=   bundle or disk: the bytes, then a trailer as above
//	POST /stack/import?as=     a bundle's bytes; as is a lab.TakeAs -> lines of JSON: done..., taken or error
//	GET  /boot/results?boot=   a tar archive, then a trailer as above
//	GET  /doctor               lab.Finding
//	GET  /version              Version
//
// An error is {"error":{"code","message","fix"}} with the code and the HTTP status of lab.Failings.
package remote

import (
	"encoding/json"
	"errors"
	"net/http"

	"carte/lab"
)

// SocketName is the socket's name in the state folder.
const SocketName = "carte.sock"

// Version says what serves the socket.
type Version struct {
	Version string `json:"version"`
	PID     int    `json:"pid"`
	State   string `json:"state"` // the state folder
}

// An Error is an error of the lab at the other end. errors.Is finds the kind that it had there.
type Error struct {
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Fix     []string `json:"fix,omitempty"` // commands that may help
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the kind of the error, nil for a plain failure.
func (e *Error) Unwrap() error { return lab.FailingByCode(e.Code).Kind }

// ErrorOf makes any error one that can be sent.
func ErrorOf(err error) *Error {
	var e *Error
	if errors.As(err, &e) && e.Message == err.Error() {
		return e
	}
	return &Error{Code: lab.FailingOf(err).Code, Message: err.Error()}
}

// failed is an error as it crosses the wire.
type failed struct {
	Error *Error `json:"error"`
}

// tailed is the answer to a tail.
type tailed struct {
	Lines []lab.Line `json:"lines"`
	Next  int64      `json:"next"`
	Lost  int64      `json:"lost"`
}

// found is the answer of the doctor.
type found struct {
	Findings []lab.Finding `json:"findings"`
}

// step is one line of the answer to something long. The last line has Error, Imported, Fscked, Taken or OK.
type step struct {
	Done     int64         `json:"done_bytes"`
	Of       int64         `json:"of_bytes,omitempty"`
	Error    *Error        `json:"error,omitempty"`
	Imported *lab.Imported `json:"imported,omitempty"`
	Fscked   *lab.Fscked   `json:"fscked,omitempty"`
	Taken    *lab.Taken    `json:"taken,omitempty"`
	OK       bool          `json:"ok,omitempty"`
}

// Headers of what is sent as a stream of bytes.
const (
	headerBytes   = "Carte-Bytes"  // how many there will be, where that is known
	trailerResult = "Carte-Result" // resultOK, or a failed as JSON
	trailerNotes  = "Carte-Notes"  // what there is to say of it, as JSON
	resultOK      = "ok"
)

// readError makes an answer that is not 200 an error again.
func readError(res *http.Response) error {
	var f failed
	if err := json.NewDecoder(http.MaxBytesReader(nil, res.Body, 1<<20)).Decode(&f); err != nil || f.Error == nil {
		return &Error{Code: lab.FailingOf(nil).Code, Message: "the lab answered " + res.Status + " and no reason"}
	}
	return f.Error
}
