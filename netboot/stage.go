package netboot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"carte/lab"
)

// maxStages is how many second stages are kept at once: one for each machine that is about to restart.
const maxStages = 64

// stages are the second stages that agents have sent: what iPXE loads with the stack's own kernel. Each is a file that is
// named by its boot and outlives a restart of the server, because the machine does.
type stages struct {
	dir string // empty: none are kept

	mu   sync.Mutex
	have map[int64]bool // by boot; false: it is being sent
}

// open finds those that an earlier server has kept, and removes what it had half of.
func (s *stages) open(dir string) error {
	s.dir, s.have = dir, map[int64]bool{}
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("second stages: %w", err)
	}
	all, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("second stages: %w", err)
	}
	for _, f := range all {
		if boot, err := strconv.ParseInt(f.Name(), 10, 64); err == nil && f.Type().IsRegular() {
			s.have[boot] = true
		} else if filepath.Ext(f.Name()) == ".part" {
			err = os.Remove(filepath.Join(dir, f.Name()))
			if err != nil {
				return fmt.Errorf("second stages: %w", err)
			}
		}
	}
	return nil
}

func (s *stages) name(boot int64) string { return filepath.Join(s.dir, strconv.FormatInt(boot, 10)) }

// take keeps what r has as the second stage of a boot, in the place of one that it had.
func (s *stages) take(boot int64, r io.Reader) (size int64, err error) {
	if s.dir == "" {
		return 0, fmt.Errorf("this server keeps no second stages: %w", lab.ErrRefused)
	}
	if err := s.book(boot); err != nil {
		return 0, err
	}
	kept := false
	defer func() { s.settle(boot, kept) }()
	f, err := os.CreateTemp(s.dir, "*.part")
	if err != nil {
		return 0, fmt.Errorf("keep a second stage: %w", err)
	}
	defer func() {
		if !kept {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	size, err = io.Copy(f, r)
	if err == nil && size == 0 {
		err = fmt.Errorf("the second stage is empty: %w", lab.ErrInvalid)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), s.name(boot))
	}
	kept = err == nil
	return size, err
}

// book makes room for one.
func (s *stages) book(boot int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	whole, ok := s.have[boot]
	switch {
	case ok && !whole:
		return fmt.Errorf("the second stage of boot %d is being sent already: %w", boot, lab.ErrBusy)
	case !ok && len(s.have) >= maxStages:
		return fmt.Errorf("the server keeps %d second stages, which is the most; this boot is tried again later: %w", maxStages, lab.ErrBusy)
	}
	s.have[boot] = false
	return nil
}

func (s *stages) settle(boot int64, kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have[boot] = kept; !kept {
		delete(s.have, boot)
		_ = os.Remove(s.name(boot)) // an earlier one is not for this start; most often there is none
	}
}

// find opens the second stage of a boot; lab.ErrNotFound when there is none. Close it.
func (s *stages) find(boot int64) (*os.File, int64, error) {
	s.mu.Lock()
	whole := s.have[boot]
	s.mu.Unlock()
	if !whole {
		return nil, 0, fmt.Errorf("the second stage of boot %d: %w", boot, lab.ErrNotFound)
	}
	f, err := os.Open(s.name(boot))
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("the second stage of boot %d: %w", boot, lab.ErrNotFound)
	}
	if err != nil {
		return nil, 0, err
	}
	at, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, at.Size(), nil
}

// drop removes those whose boots need them no more.
func (s *stages) drop(needed func(boot int64) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all error
	for boot, whole := range s.have {
		if !whole || needed(boot) {
			continue
		}
		delete(s.have, boot)
		if err := os.Remove(s.name(boot)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// stage takes an agent's second stage.
func (s *Server) stage(w http.ResponseWriter, r *http.Request) {
	key, err := bearer(r)
	var boot lab.Boot
	if err == nil {
		boot, err = s.cfg.Lab.Staging(r.Context(), key)
	}
	var size int64
	if err == nil {
		body := &slow{http.MaxBytesReader(w, r.Body, lab.MaxStage), http.NewResponseController(w)}
		size, err = s.stages.take(boot.ID, marked{body})
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.cfg.Lab.Log(lab.Line{Machine: boot.Machine, Source: "http", Text: fmt.Sprintf("second stage of boot %d: %s", boot.ID, lab.Bytes(size))})
	s.sendBytes(w, nil)
}
