package netboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// A ChunkSink is where captures go. Its methods may be called from any number of goroutines.
type ChunkSink interface {
	// Lacks returns those of ids that are not stored, in their order. The others stay for an hour at least.
	Lacks(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error)
	// Take stores what next hands over, in any order, until that returns io.EOF. Each chunk is hashed before it counts, and all
	// are on the disk when it returns; also those that came whole before an error of next, which it returns.
	Take(ctx context.Context, boot lab.Boot, next func() (chunk.ID, []byte, error)) error
	// Finish makes m the version that a boot captures, and ends the boot; of one that has ended so already it says how.
	// lab.ErrNotFound: chunks of m are not stored, and nothing has happened.
	Finish(ctx context.Context, boot lab.Boot, m chunk.Manifest) (lab.Kept, error)
}

// quiet is how long an agent that sends may send nothing.
const quiet = bodyTime

// lacks answers which of some chunks are not stored.
func (s *Server) lacks(w http.ResponseWriter, r *http.Request) {
	_, err := s.capturing(r, lab.Working)
	var ids []chunk.ID
	if err == nil {
		ids, err = readIDs(w, r, lab.MaxIDsSent)
	}
	if err == nil {
		ids, err = s.cfg.Sink.Lacks(r.Context(), ids)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	b := make([]byte, 0, len(ids)*len(chunk.ID{}))
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	s.sendBytes(w, b)
}

// take stores the frames of a body. What came before it was cut off is kept: the agent asks what is still lacking.
func (s *Server) take(w http.ResponseWriter, r *http.Request) {
	boot, err := s.capturing(r, lab.Working)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	body := &slow{http.MaxBytesReader(w, r.Body, lab.MaxTaken), http.NewResponseController(w)}
	var buf []byte
	err = s.cfg.Sink.Take(r.Context(), boot, func() (chunk.ID, []byte, error) {
		id, stored, err := chunk.ReadFrame(body, buf)
		switch {
		case err == io.EOF:
			return id, nil, err
		case errors.Is(err, lab.ErrDamaged):
			return id, nil, err
		case err != nil:
			return id, nil, badBody(err)
		}
		buf = stored[:0]
		return id, stored, nil
	})
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.sendBytes(w, nil)
}

// keep ends a capture.
func (s *Server) keep(w http.ResponseWriter, r *http.Request) {
	boot, err := s.capturing(r, lab.Working, lab.Done)
	var m chunk.Manifest
	if err == nil {
		m, err = readManifest(w, r, boot.Disk.Bytes)
	}
	var kept lab.Kept
	if err == nil {
		kept, err = s.cfg.Sink.Finish(r.Context(), boot, m)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.sendJSON(w, kept)
}

// capturing returns the capture that the request's key may send for, in one of those states.
func (s *Server) capturing(r *http.Request, states ...lab.State) (b lab.Boot, err error) {
	key, err := bearer(r)
	if err != nil {
		return b, err
	}
	if s.cfg.Sink == nil {
		return b, fmt.Errorf("this server takes no captures: %w", lab.ErrRefused)
	}
	if b, err = s.cfg.Lab.Capturing(r.Context(), key); err != nil {
		return b, err
	}
	for _, x := range states {
		if b.State == x {
			return b, nil
		}
	}
	return b, fmt.Errorf("boot %d is %s: %w", b.ID, b.State, lab.ErrDenied)
}

// readManifest reads a manifest of at most as many bytes as the disk has.
func readManifest(w http.ResponseWriter, r *http.Request, disk int64) (m chunk.Manifest, err error) {
	most := min(64+int64(len(chunk.ID{}))*int64(chunk.Count(disk)), lab.MaxManifestSent)
	body := &slow{http.MaxBytesReader(w, r.Body, most), http.NewResponseController(w)}
	b, err := io.ReadAll(body)
	if err != nil {
		return m, badBody(err)
	}
	if m, err = chunk.Decode(b); err != nil {
		return m, fmt.Errorf("%v: %w", err, lab.ErrInvalid)
	}
	if m.Size <= 0 || m.Size > disk {
		return m, fmt.Errorf("manifest of %d bytes for a disk of %d: %w", m.Size, disk, lab.ErrInvalid)
	}
	return m, nil
}

// slow is a body that may take long, as long as something comes.
type slow struct {
	io.Reader
	w *http.ResponseController
}

func (s *slow) Read(b []byte) (int, error) {
	if err := s.w.SetReadDeadline(time.Now().Add(quiet)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return s.Reader.Read(b)
}
