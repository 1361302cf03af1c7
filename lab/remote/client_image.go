package remote

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"carte/lab"
)

// Import sends an image. An error in the middle, at either end, leaves nothing visible.
func (c *Client) Import(ctx context.Context, r io.Reader, i lab.Import, progress func(done int64)) (lab.Imported, error) {
	q := url.Values{"name": {i.Name}, "kind": {i.Kind}, "form": {string(i.Form)}, "message": {i.Message}, "author": {i.Author}, "file": {i.File}}
	if i.Whole {
		q.Set("whole", "")
	}
	if i.Size != 0 {
		q.Set("size", strconv.FormatInt(i.Size, 10))
	}
	if i.Place != "" {
		q.Set("place", i.Place)
	}
	if i.Owner != "" {
		q.Set("owner", i.Owner)
	}
	if !i.Dies.IsZero() {
		q.Set("dies", i.Dies.UTC().Format(time.RFC3339Nano))
	}
	if i.Offers != nil {
		text, err := json.Marshal(i.Offers)
		if err != nil {
			return lab.Imported{}, err
		}
		q.Set("offers", string(text))
	}
	last, err := c.deliver(ctx, "/image/import", q, r, progress)
	return whole(ctx, c, last.Imported, err)
}

// whole is the part of the last line that says how it went. Without one the answer was cut off.
func whole[T any](ctx context.Context, c *Client, part *T, err error) (got T, _ error) {
	switch {
	case err != nil:
		return got, err
	case part == nil:
		return got, c.lost(ctx, errCut)
	}
	return *part, nil
}

// deliver sends body, and returns the last line of the answer.
func (c *Client) deliver(ctx context.Context, path string, q url.Values, body io.Reader, progress func(done int64)) (step, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the sending too when the lab refuses the rest
	defer cancel()
	src := &source{r: body}
	last, err := c.long(ctx, path, q, src, func(done, _ int64) {
		if progress != nil {
			progress(done)
		}
	})
	if own := src.failed(); own != nil {
		err = own
	}
	return last, err
}

// source remembers why the image could not be read; the transport would hide it.
type source struct {
	r   io.Reader
	mu  sync.Mutex
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	return n, err
}

func (s *source) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Verify hashes a version again.
func (c *Client) Verify(ctx context.Context, ref lab.Ref, progress func(done, of int64)) error {
	last, err := c.long(ctx, "/image/verify", url.Values{"ref": {ref.String()}}, nil, progress)
	if err == nil && !last.OK {
		return c.lost(ctx, errCut)
	}
	return err
}

// long asks for something that answers with lines of JSON, and returns the last one.
func (c *Client) long(ctx context.Context, path string, q url.Values, body io.Reader, progress func(done, of int64)) (last step, err error) {
	res, err := c.send(ctx, http.MethodPost, path, q, body)
	if err != nil {
		return step{}, err
	}
	defer res.Body.Close()
	dec := json.NewDecoder(res.Body)
	for {
		var x step
		switch err := dec.Decode(&x); {
		case err == io.EOF:
			return last, nil
		case err != nil:
			return step{}, c.lost(ctx, err)
		case x.Error != nil:
			return step{}, x.Error
		}
		last = x
		if progress != nil && x.Imported == nil && x.Fscked == nil && x.Taken == nil && !x.OK {
			progress(x.Done, x.Of)
		}
	}
}

// Export writes a version's bytes to w. It is an error unless the lab says at the end that these were all.
func (c *Client) Export(ctx context.Context, ref lab.Ref, w io.Writer, progress func(done, of int64)) error {
	_, err := c.download(ctx, "export "+ref.String(), "/image/export", url.Values{"ref": {ref.String()}}, w, progress)
	return err
}

var errCut = errors.New("the answer was cut off")
