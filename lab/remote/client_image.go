package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	return c.upload(ctx, "/image/import", q, r, progress)
}

// upload sends what becomes a version.
func (c *Client) upload(ctx context.Context, path string, q url.Values, body io.Reader, progress func(done int64)) (lab.Imported, error) {
	last, err := c.deliver(ctx, path, q, body, progress)
	switch {
	case err != nil:
		return lab.Imported{}, err
	case last.Imported == nil:
		return lab.Imported{}, c.lost(ctx, errCut)
	}
	return *last.Imported, nil
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
	last, err := c.long(ctx, "/image/verify", url.Values{"ref": {ref.String()}}, nil, func(done, of int64) {
		if progress != nil {
			progress(done, of)
		}
	})
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
		if x.Imported == nil && x.Fscked == nil && x.Changed == nil && !x.OK {
			progress(x.Done, x.Of)
		}
	}
}

// Export writes a version's bytes to w. It is an error unless the lab says at the end that these were all.
func (c *Client) Export(ctx context.Context, ref lab.Ref, w io.Writer, progress func(done, of int64)) error {
	res, err := c.send(ctx, http.MethodGet, "/image/export", url.Values{"ref": {ref.String()}}, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	of, err := strconv.ParseInt(res.Header.Get(headerBytes), 10, 64)
	if err != nil {
		return fmt.Errorf("export %s: the lab did not say how much it sends: %w", ref, lab.ErrDamaged)
	}
	var done int64
	buf := make([]byte, 256<<10)
	for {
		n, err := res.Body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return fmt.Errorf("export %s at %d: %w", ref, done, err)
			}
			if done += int64(n); progress != nil {
				progress(done, of)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return c.lost(ctx, err)
		}
	}
	return exported(ref, res.Trailer.Get(trailerResult), done, of)
}

// exported judges the end of an export.
func exported(ref lab.Ref, result string, done, of int64) error {
	var f failed
	switch {
	case result == resultOK && done == of:
		return nil
	case result == resultOK:
		return fmt.Errorf("export %s: %d of %d bytes came: %w", ref, done, of, lab.ErrDamaged)
	case json.Unmarshal([]byte(result), &f) == nil && f.Error != nil:
		return f.Error
	}
	return fmt.Errorf("export %s ended at byte %d of %d: %w: %w", ref, done, of, errCut, lab.ErrUnreachable)
}

var errCut = errors.New("the answer was cut off")
