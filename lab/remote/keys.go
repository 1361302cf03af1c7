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

func (s *Server) typeKeys(w http.ResponseWriter, r *http.Request) (any, error) {
	t, ok := s.Desk.(lab.Typist)
	if !ok {
		return nil, fmt.Errorf("this lab reaches no keyboards: %w", lab.ErrUnreachable)
	}
	keys, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxKeys))
	if err != nil {
		return nil, fmt.Errorf("keys: %v: %w", err, lab.ErrInvalid)
	}
	return struct{}{}, t.Type(r.Context(), r.URL.Query().Get("machine"), keys)
}
