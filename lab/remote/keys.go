package remote

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"carte/lab"
)

// maxKeys is the most bytes that are typed at once: a paste.
const maxKeys = 64 << 10

var _ lab.Typist = (*Client)(nil)

// Type writes keys to a machine's serial console.
func (c *Client) Type(ctx context.Context, machine string, keys []byte) error {
	var nothing struct{}
	return c.ask(ctx, http.MethodPost, "/machine/type", url.Values{"machine": {machine}}, bytes.NewReader(keys), &nothing)
}

func (s *Server) typeKeys(w http.ResponseWriter, r *http.Request) {
	t, ok := s.Desk.(lab.Typist)
	if !ok {
		s.refuse(w, fmt.Errorf("this lab reaches no keyboards: %w", lab.ErrUnreachable))
		return
	}
	keys, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxKeys))
	if err != nil {
		s.refuse(w, fmt.Errorf("keys: %v: %w", err, lab.ErrInvalid))
		return
	}
	if err := t.Type(r.Context(), r.URL.Query().Get("machine"), keys); err != nil {
		s.refuse(w, err)
		return
	}
	s.answer(w, struct{}{})
}
