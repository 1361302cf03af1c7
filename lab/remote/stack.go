package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"carte/lab"
)

// maxStack is the most bytes that a stack's JSON may have: its files are in it.
const maxStack = 8 << 20

// Judge checks a stack.
func (c *Client) Judge(ctx context.Context, st lab.Stack) (got lab.Judged, err error) {
	text, err := json.Marshal(st)
	if err != nil {
		return got, err
	}
	err = c.ask(ctx, http.MethodPost, "/stack/judge", nil, bytes.NewReader(text), &got)
	return got, err
}

// Results writes what a boot left, as a tar archive. It is an error unless the lab says at the end that this was all.
func (c *Client) Results(ctx context.Context, boot int64, w io.Writer) error {
	_, err := c.download(ctx, fmt.Sprintf("results of boot %d", boot), "/boot/results", url.Values{"boot": {strconv.FormatInt(boot, 10)}}, w, nil)
	return err
}

// ExportStack writes a stack as a bundle or a disk. It is an error unless the lab says at the end that this was all.
func (c *Client) ExportStack(ctx context.Context, name, as string, w io.Writer, progress func(done, of int64)) (notes []string, err error) {
	return c.download(ctx, "export stack "+name, "/stack/export", url.Values{"name": {name}, "as": {as}}, w, progress)
}

// ImportStack sends a bundle. An error in the middle, at either end, leaves no stack.
func (c *Client) ImportStack(ctx context.Context, r io.Reader, as lab.TakeAs, progress func(done int64)) (lab.Taken, error) {
	text, err := json.Marshal(as)
	if err != nil {
		return lab.Taken{}, err
	}
	last, err := c.deliver(ctx, "/stack/import", url.Values{"as": {string(text)}}, r, progress)
	return whole(ctx, c, last.Taken, err)
}

// download writes the body of an answer to w, all of it, and returns what the lab says of it. What is it, for errors.
func (c *Client) download(ctx context.Context, what, path string, q url.Values, w io.Writer, progress func(done, of int64)) (notes []string, err error) {
	res, err := c.send(ctx, http.MethodGet, path, q, nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var done, of int64
	end := "" // as errors name it
	if text := res.Header.Get(headerBytes); text != "" {
		if of, err = strconv.ParseInt(text, 10, 64); err != nil {
			return nil, fmt.Errorf("%s: the lab says that it sends %q bytes: %w", what, text, lab.ErrDamaged)
		}
		end = fmt.Sprintf(" of %d", of)
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := res.Body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return nil, fmt.Errorf("%s at %d: %w", what, done, err)
			}
			if done += int64(n); progress != nil {
				progress(done, of)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, c.lost(ctx, err)
		}
	}
	err = told(res.Trailer.Get(trailerResult), true)
	switch {
	case errors.Is(err, errCut):
		return nil, fmt.Errorf("%s ended at byte %d%s: %w", what, done, end, err)
	case err == nil && end != "" && done != of:
		return nil, fmt.Errorf("%s: %d%s bytes came: %w", what, done, end, lab.ErrDamaged)
	}
	if text := res.Trailer.Get(trailerNotes); err == nil && text != "" {
		err = json.Unmarshal([]byte(text), &notes)
	}
	return notes, err
}

func (s *Server) judge(w http.ResponseWriter, r *http.Request) (any, error) {
	var st lab.Stack
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxStack))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&st); err != nil {
		return nil, fmt.Errorf("stack: %v: %w", err, lab.ErrInvalid)
	}
	return s.Desk.Judge(r.Context(), st)
}

func (s *Server) results(w http.ResponseWriter, r *http.Request) {
	boot, err := number(r, "boot")
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.upload(w, func(body *flow) (_ []string, err error) { return nil, s.Desk.Results(r.Context(), boot, body) })
}

func (s *Server) exportStack(w http.ResponseWriter, r *http.Request) {
	s.upload(w, func(body *flow) ([]string, error) {
		return s.Desk.ExportStack(r.Context(), r.FormValue("name"), r.FormValue("as"), body, body.expect)
	})
}

// upload sends what send writes. An error before the first byte is an answer of its own, a later one is in the trailer, as are the notes.
func (s *Server) upload(w http.ResponseWriter, send func(*flow) (notes []string, err error)) {
	body := &flow{w: w}
	notes, err := send(body)
	if err != nil && !body.begun {
		for _, h := range []string{headerBytes, "Content-Type"} {
			w.Header().Del(h)
		}
		s.refuse(w, err)
		return
	}
	body.begin()
	w.Header().Set(trailerResult, s.result(err))
	if len(notes) > 0 {
		text, _ := json.Marshal(notes) // strings can be told
		w.Header().Set(trailerNotes, string(text))
	}
}

// A flow is the body of an answer, whose headers are sent with its first byte.
type flow struct {
	w     http.ResponseWriter
	begun bool
}

func (f *flow) begin() {
	if !f.begun {
		f.begun = true
		f.w.Header().Set("Content-Type", "application/octet-stream")
		f.w.Header().Set("Trailer", trailerResult+", "+trailerNotes)
		f.w.WriteHeader(http.StatusOK)
	}
}

func (f *flow) Write(p []byte) (int, error) {
	f.begin()
	return f.w.Write(p)
}

// expect tells the client how much will come, if that is known before the first byte.
func (f *flow) expect(_, of int64) {
	if !f.begun && of > 0 {
		f.w.Header().Set(headerBytes, strconv.FormatInt(of, 10))
	}
}

func (s *Server) importStack(w http.ResponseWriter, r *http.Request) {
	var as lab.TakeAs
	dec := json.NewDecoder(strings.NewReader(r.URL.Query().Get("as")))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&as); err != nil {
		s.refuse(w, fmt.Errorf("import a stack: as: %v: %w", err, lab.ErrInvalid))
		return
	}
	// The answer begins before the bundle has arrived.
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
		s.refuse(w, fmt.Errorf("import a stack: %w", err))
		return
	}
	s.long(w, func(out *steps) (step, error) {
		got, err := s.Desk.ImportStack(r.Context(), r.Body, as, out.done)
		return step{Taken: &got}, err
	})
}
