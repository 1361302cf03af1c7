package remote

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"carte/lab"
	"carte/lab/chunk"
)

// Most bytes of a manifest: that of an image of 16 TiB.
const maxManifest = 64 + 32<<26

// depot is the desk, where it has chunks at hand.
func (s *Server) depot() (lab.Depot, error) {
	if d, ok := s.Desk.(lab.Depot); ok {
		return d, nil
	}
	return nil, fmt.Errorf("this lab hands out no chunks: %w", lab.ErrInvalid)
}

func (s *Server) manifest(w http.ResponseWriter, r *http.Request) {
	d, err := s.depot()
	root, err1 := chunk.ParseID(r.FormValue("root"))
	size, err2 := number(r, "size")
	if err := errors.Join(err, err1, err2); err != nil {
		s.refuse(w, err)
		return
	}
	m, err := d.Manifest(r.Context(), root, size)
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.bytes(w, m.Encode())
}

// bytes answers with b.
func (s *Server) bytes(w http.ResponseWriter, b []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	if _, err := w.Write(b); err != nil {
		s.Log.Debug("answer not delivered", "err", err)
	}
}

// chunks answers with frames. What goes wrong after the first is told in the trailer.
func (s *Server) chunks(w http.ResponseWriter, r *http.Request) {
	d, err := s.depot()
	ids, err1 := readIDs(http.MaxBytesReader(w, r.Body, lab.MaxChunksAsked*int64(len(chunk.ID{}))))
	if err := errors.Join(err, err1); err != nil {
		s.refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", trailerResult)
	out := bufio.NewWriterSize(w, 256<<10)
	_, err = d.Chunks(r.Context(), ids, func(id chunk.ID, stored []byte) error { return chunk.WriteFrame(out, id, stored) })
	if err == nil {
		err = out.Flush()
	} else {
		err = errors.Join(err, out.Flush())
	}
	w.Header().Set(trailerResult, s.result(err))
}

// lacks answers with those of the ids that the store has not.
func (s *Server) lacks(w http.ResponseWriter, r *http.Request) {
	d, err := s.depot()
	ids, err1 := readIDs(http.MaxBytesReader(w, r.Body, maxManifest))
	if err := errors.Join(err, err1); err != nil {
		s.refuse(w, err)
		return
	}
	lacking, err := d.Lacks(r.Context(), ids)
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.bytes(w, joinIDs(lacking))
}

// capture reads a manifest behind its length, then frames up to the end of the body, which an empty frame's head marks.
func (s *Server) capture(w http.ResponseWriter, r *http.Request) {
	d, err := s.depot()
	q := r.URL.Query()
	base, err1 := number(r, "base")
	if err := errors.Join(err, err1); err != nil {
		s.refuse(w, err)
		return
	}
	c := lab.Capture{From: q.Get("file"), Base: int(base), Import: lab.Import{
		Name: q.Get("name"), Kind: q.Get("kind"), Form: lab.Form(q.Get("form")), Message: q.Get("message"), Author: q.Get("author"), File: q.Get("file"),
	}}
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
		s.refuse(w, fmt.Errorf("capture %s: %w", c.Name, err))
		return
	}
	body := bufio.NewReaderSize(r.Body, 256<<10)
	m, err := readManifest(body)
	if err != nil {
		s.refuse(w, fmt.Errorf("capture %s: %w", c.Name, err))
		return
	}
	s.long(w, func(out *steps) (step, error) {
		var buf []byte
		var done int64
		got, err := d.Keep(r.Context(), c, m, func() (chunk.ID, []byte, error) {
			id, stored, err := nextFrame(body, buf)
			if err == nil {
				buf = stored[:0]
				done += int64(len(stored))
				out.done(done)
			}
			return id, stored, err
		})
		return step{Imported: &got, Done: done}, err
	})
}

// endMark follows the last frame, so that a body that was cut off is not taken for a whole one.
var endMark = []byte("carte.end......1")

// nextFrame returns io.EOF at the mark, and an error at any other end.
func nextFrame(r *bufio.Reader, buf []byte) (chunk.ID, []byte, error) {
	if b, err := r.Peek(len(endMark)); err == nil && string(b) == string(endMark) {
		return chunk.ID{}, nil, io.EOF
	}
	id, stored, err := chunk.ReadFrame(r, buf)
	if err == io.EOF {
		err = fmt.Errorf("the capture was cut off: %w", io.ErrUnexpectedEOF)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%v; nothing was kept of it: %w", err, lab.ErrUnreachable)
	}
	return id, stored, err
}

func readManifest(r io.Reader) (chunk.Manifest, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return chunk.Manifest{}, err
	}
	n := binary.LittleEndian.Uint64(head[:])
	if n > maxManifest {
		return chunk.Manifest{}, fmt.Errorf("a manifest of %d bytes: %w", n, lab.ErrInvalid)
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(n))) // grows with what comes, not with what was promised
	if err != nil {
		return chunk.Manifest{}, err
	}
	return chunk.Decode(b)
}

func readIDs(r io.Reader) ([]chunk.ID, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("ids: %v: %w", err, lab.ErrInvalid)
	}
	n := len(chunk.ID{})
	if len(b)%n != 0 {
		return nil, fmt.Errorf("ids: %d bytes are no whole number of them: %w", len(b), lab.ErrInvalid)
	}
	ids := make([]chunk.ID, len(b)/n)
	for i := range ids {
		copy(ids[i][:], b[i*n:])
	}
	return ids, nil
}

func joinIDs(ids []chunk.ID) []byte {
	b := make([]byte, 0, len(ids)*len(chunk.ID{}))
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}
