package remote

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"carte/lab"
)

// stepEvery is how often something long says how far it is.
const stepEvery = 100 * time.Millisecond

// steps writes lines of JSON while something long goes on. Its methods may be called from any goroutine.
type steps struct {
	mu   sync.Mutex
	w    http.ResponseWriter
	rc   *http.ResponseController
	last time.Time
}

func newSteps(w http.ResponseWriter) *steps {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &steps{w: w, rc: http.NewResponseController(w)}
}

// done tells how far it is where nobody knows how much there is.
func (s *steps) done(done int64) { s.progress(done, 0) }

// progress tells how far it is, not too often.
func (s *steps) progress(done, of int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.last) >= stepEvery {
		s.last = now
		s.write(step{Done: done, Of: of})
	}
}

func (s *steps) end(last step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(last)
}

// long answers with lines of JSON while work goes on, and with its last one or its error.
func (s *Server) long(w http.ResponseWriter, work func(*steps) (last step, err error)) {
	out := newSteps(w)
	last, err := work(out)
	if err != nil {
		last = step{Error: ErrorOf(s.explain(err))}
	}
	out.end(last)
}

// write does not report errors: a client that is gone ends the request's context, and with it the work.
func (s *steps) write(x step) {
	if json.NewEncoder(s.w).Encode(x) == nil {
		s.rc.Flush()
	}
}

// importParams are the parameters of an import.
var importParams = []string{"name", "kind", "form", "message", "author", "file", "whole", "size", "offers", "place", "dies", "owner"}

// readImport reads the parameters of an import.
func readImport(q url.Values) (i lab.Import, err error) {
	for name := range q {
		if !slices.Contains(importParams, name) {
			return i, fmt.Errorf("import: parameter %q: %w", name, lab.ErrInvalid)
		}
	}
	i = lab.Import{
		Name: q.Get("name"), Kind: q.Get("kind"), Form: lab.Form(q.Get("form")), Message: q.Get("message"), Author: q.Get("author"),
		File: q.Get("file"), Whole: q.Has("whole"), Place: q.Get("place"), Owner: q.Get("owner"),
	}
	if size := q.Get("size"); size != "" {
		if i.Size, err = strconv.ParseInt(size, 10, 64); err != nil || i.Size < 1 {
			return i, fmt.Errorf("import %s: a size of %q bytes: %w", i.Name, size, lab.ErrInvalid)
		}
	}
	if dies := q.Get("dies"); dies != "" {
		if i.Dies, err = time.Parse(time.RFC3339Nano, dies); err != nil {
			return i, fmt.Errorf("import %s: it dies at %q, which is no time: %w", i.Name, dies, lab.ErrInvalid)
		}
	}
	if offers := q.Get("offers"); offers != "" {
		if err := json.Unmarshal([]byte(offers), &i.Offers); err != nil {
			return i, fmt.Errorf("import %s: offers: %v: %w", i.Name, err, lab.ErrInvalid)
		}
	}
	return i, nil
}

func (s *Server) importImage(w http.ResponseWriter, r *http.Request) {
	i, err := readImport(r.URL.Query())
	if err != nil {
		s.refuse(w, err)
		return
	}
	// The answer begins before the image has arrived.
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
		s.refuse(w, fmt.Errorf("import %s: %w", i.Name, err))
		return
	}
	s.long(w, func(out *steps) (step, error) {
		got, err := s.Desk.Import(r.Context(), r.Body, i, out.done)
		return step{Imported: &got, Done: got.Version.Bytes}, err
	})
}

func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	s.upload(w, func(body *flow) ([]string, error) {
		ref, err := lab.ParseRef(r.FormValue("ref"))
		if err != nil {
			return nil, err
		}
		snap, err := s.Desk.Watch(r.Context(), 0)
		if err != nil {
			return nil, err
		}
		v, err := snap.Version(ref)
		if err != nil {
			return nil, err
		}
		body.expect(0, v.Bytes)
		return nil, s.Desk.Export(r.Context(), v.Ref(), body, nil)
	})
}

// result is how a stream ended, for its trailer.
func (s *Server) result(err error) string {
	if err == nil {
		return resultOK
	}
	text, encErr := json.Marshal(failed{ErrorOf(s.explain(err))})
	if encErr != nil {
		panic(http.ErrAbortHandler) // the client sees a cut stream
	}
	return string(text)
}

func (s *Server) verify(w http.ResponseWriter, r *http.Request) {
	ref, err := lab.ParseRef(r.FormValue("ref"))
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.long(w, func(out *steps) (step, error) { return step{OK: true}, s.Desk.Verify(r.Context(), ref, out.progress) })
}
