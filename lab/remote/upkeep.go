package remote

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"carte/lab"
)

// Collect frees what nobody refers to.
func (c *Client) Collect(ctx context.Context, dry bool) (got lab.Collected, err error) {
	err = c.ask(ctx, http.MethodPost, "/gc", url.Values{"dry": {strconv.FormatBool(dry)}}, nil, &got)
	return got, err
}

// Fsck hashes everything in the store again.
func (c *Client) Fsck(ctx context.Context, progress func(done, of int64)) (lab.Fscked, error) {
	last, err := c.long(ctx, "/fsck", nil, nil, progress)
	return whole(ctx, c, last.Fscked, err)
}

func (s *Server) collect(_ http.ResponseWriter, r *http.Request) (any, error) {
	dry, err := strconv.ParseBool(r.FormValue("dry"))
	if err != nil { // nothing goes because of a word that was not understood
		return nil, fmt.Errorf("gc: dry=%q is neither true nor false: %w", r.FormValue("dry"), lab.ErrInvalid)
	}
	return s.Desk.Collect(r.Context(), dry)
}

func (s *Server) fsck(w http.ResponseWriter, r *http.Request) {
	s.long(w, func(out *steps) (step, error) {
		got, err := s.Desk.Fsck(r.Context(), out.progress)
		return step{Fscked: &got, Done: got.Bytes}, err
	})
}
