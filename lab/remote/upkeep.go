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
	last, err := c.long(ctx, "/fsck", nil, nil, func(done, of int64) {
		if progress != nil {
			progress(done, of)
		}
	})
	switch {
	case err != nil:
		return lab.Fscked{}, err
	case last.Fscked == nil:
		return lab.Fscked{}, c.lost(ctx, errCut)
	}
	return *last.Fscked, nil
}

func (s *Server) collect(w http.ResponseWriter, r *http.Request) {
	dry, err := strconv.ParseBool(r.FormValue("dry"))
	if err != nil { // nothing goes because of a word that was not understood
		s.refuse(w, fmt.Errorf("gc: dry=%q is neither true nor false: %w", r.FormValue("dry"), lab.ErrInvalid))
		return
	}
	got, err := s.Desk.Collect(r.Context(), dry)
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.answer(w, got)
}

func (s *Server) fsck(w http.ResponseWriter, r *http.Request) {
	out := newSteps(w)
	got, err := s.Desk.Fsck(r.Context(), out.progress)
	if err != nil {
		out.end(step{Error: ErrorOf(s.explain(err))})
		return
	}
	out.end(step{Fscked: &got, Done: got.Bytes})
}
