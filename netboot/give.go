package netboot

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"carte/lab"
	"carte/lab/chunk"
)

// give takes chunks that the store has lost from an agent that still has them. Only what the lab asks for is taken, and it
// is hashed before it counts.
func (s *Server) give(w http.ResponseWriter, r *http.Request) {
	key, err := bearer(r)
	if err == nil {
		_, err = s.cfg.Lab.Gives(r.Context(), key)
	}
	if err == nil && s.cfg.Mend == nil {
		err = fmt.Errorf("this server takes no chunks: %w", lab.ErrRefused)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	most := int64(lab.MaxWanted * (chunk.FrameHeader + chunk.MaxStored))
	body := &slow{http.MaxBytesReader(w, r.Body, most), http.NewResponseController(w)}
	var buf []byte
	err = s.cfg.Mend(func() (chunk.ID, []byte, error) {
		for {
			id, stored, err := chunk.ReadFrame(body, buf)
			switch {
			case err == io.EOF, errors.Is(err, lab.ErrDamaged):
				return id, nil, err
			case err != nil:
				return id, nil, badBody(err)
			}
			buf = stored[:0]
			if s.cfg.Lab.Wanted(id) { // another machine may have been faster
				return id, stored, nil
			}
		}
	})
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.sendBytes(w, nil)
}
