package netboot

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"carte/lab"
)

// A HomeSink is where what a boot's system left goes. Its methods may be called from any number of goroutines; the tar
// ends where the connection breaks with an error that is not io.EOF, and nothing of it counts then.
type HomeSink interface {
	// Out keeps the files of a tar as the results of a boot, in the place of those of an earlier try.
	Out(ctx context.Context, boot lab.Boot, tar io.Reader) error
	// Back makes what a boot changed in an image, a tar with deletions as in an OCI layer, its next version. A refusal names
	// the clause.
	Back(ctx context.Context, boot lab.Boot, image string, tar io.Reader) (lab.Kept, error)
}

// maxHome is the most bytes that one tar may have.
const maxHome = 1 << 40

// out takes home what lies in /carte/out.
func (s *Server) out(w http.ResponseWriter, r *http.Request) {
	boot, err := s.running(r)
	if err == nil {
		err = s.cfg.Home.Out(r.Context(), boot, s.tar(w, r))
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.sendBytes(w, nil)
}

// back takes what was changed in an image.
func (s *Server) back(w http.ResponseWriter, r *http.Request) {
	boot, err := s.running(r)
	var kept lab.Kept
	if err == nil {
		kept, err = s.cfg.Home.Back(r.Context(), boot, r.PathValue("image"), s.tar(w, r))
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.sendJSON(w, kept)
}

// tar is the request's body. It may take long, as long as something comes.
func (s *Server) tar(w http.ResponseWriter, r *http.Request) io.Reader {
	return marked{&slow{http.MaxBytesReader(w, r.Body, maxHome), http.NewResponseController(w)}}
}

// marked makes the errors of a body the client's.
type marked struct{ io.Reader }

func (m marked) Read(b []byte) (int, error) {
	n, err := m.Reader.Read(b)
	if err != nil && err != io.EOF {
		err = badBody(err)
	}
	return n, err
}

// running returns the boot whose system the request's key speaks for.
func (s *Server) running(r *http.Request) (lab.Boot, error) {
	key, err := bearer(r)
	if err != nil {
		return lab.Boot{}, err
	}
	if s.cfg.Home == nil {
		return lab.Boot{}, fmt.Errorf("this server takes nothing home: %w", lab.ErrRefused)
	}
	return s.cfg.Lab.Running(r.Context(), key)
}
