package remote

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"carte/lab"
	"carte/lab/chunk"
)

var _ lab.Depot = (*Client)(nil)

// Manifest implements lab.Depot, and proves what came.
func (c *Client) Manifest(ctx context.Context, root chunk.ID, size int64) (m chunk.Manifest, err error) {
	b, err := c.bytes(ctx, http.MethodGet, "/chunk/manifest", url.Values{"root": {root.String()}, "size": {strconv.FormatInt(size, 10)}}, nil)
	if err != nil {
		return m, err
	}
	if m, err = chunk.Decode(b); err == nil && (m.Root() != root || m.Size != size) {
		err = fmt.Errorf("manifest %v of %d bytes came for %v of %d: %w", m.Root(), m.Size, root, size, lab.ErrDamaged)
	}
	return m, err
}

// Chunks implements lab.Depot.
func (c *Client) Chunks(ctx context.Context, ids []chunk.ID, each func(id chunk.ID, stored []byte) error) (got int, err error) {
	res, err := c.send(ctx, http.MethodPost, "/chunk/read", nil, bytes.NewReader(joinIDs(ids)))
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	return readFrames(res, res.Body, ids, each, func(err error) error { return c.lost(ctx, err) })
}

// readFrames hands over the chunks of an answer, which are those that were asked for, in that order; then it reads the
// answer's trailer. lost says what a cut answer means.
func readFrames(res *http.Response, body io.Reader, ids []chunk.ID, each func(chunk.ID, []byte) error, lost func(error) error) (got int, err error) {
	var buf []byte
	for {
		id, stored, err := chunk.ReadFrame(body, buf)
		switch {
		case err == io.EOF:
			return got, told(res.Trailer.Get(trailerResult), got == len(ids))
		case errors.Is(err, chunk.ErrDamaged):
			return got, err
		case err != nil:
			return got, lost(err)
		case got == len(ids) || id != ids[got]:
			return got, fmt.Errorf("chunk %v was not asked for: %w", id, lab.ErrDamaged)
		}
		if err := each(id, stored); err != nil {
			return got, err
		}
		got++
		buf = stored[:0]
	}
}

// told reads the trailer of an answer.
func told(result string, all bool) error {
	var f failed
	switch {
	case result == resultOK && all:
		return nil
	case json.Unmarshal([]byte(result), &f) == nil && f.Error != nil:
		return f.Error
	}
	return fmt.Errorf("%w: %w", errCut, lab.ErrUnreachable)
}

// Lacks implements lab.Depot.
func (c *Client) Lacks(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error) {
	b, err := c.bytes(ctx, http.MethodPost, "/chunk/lacks", nil, joinIDs(ids))
	if err != nil {
		return nil, err
	}
	return readIDs(bytes.NewReader(b))
}

// bytes sends b and returns the body of the answer, whole.
func (c *Client) bytes(ctx context.Context, method, path string, q url.Values, b []byte) ([]byte, error) {
	res, err := c.send(ctx, method, path, q, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(io.LimitReader(res.Body, maxManifest))
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	return got, nil
}

// Keep implements lab.Depot.
func (c *Client) Keep(ctx context.Context, p lab.Capture, m chunk.Manifest, next func() (chunk.ID, []byte, error)) (lab.Imported, error) {
	list := m.Encode()
	body := io.MultiReader(bytes.NewReader(binary.LittleEndian.AppendUint64(nil, uint64(len(list)))), bytes.NewReader(list), &frames{next: next})
	q := url.Values{"name": {p.Name}, "kind": {p.Kind}, "form": {string(p.Form)}, "message": {p.Message}, "author": {p.Author}, "file": {p.From}, "base": {strconv.Itoa(p.Base)}}
	last, err := c.deliver(ctx, "/image/capture", q, body, nil)
	return whole(ctx, c, last.Imported, err)
}

// frames is a stream of the frames of the chunks that next hands over, and the mark behind them.
type frames struct {
	next func() (chunk.ID, []byte, error)
	buf  bytes.Buffer
	end  bool
}

func (f *frames) Read(p []byte) (int, error) {
	for f.buf.Len() == 0 {
		if f.end {
			return 0, io.EOF
		}
		f.buf.Reset()
		id, stored, err := f.next()
		switch {
		case err == io.EOF:
			f.end = true
			f.buf.Write(endMark)
		case err != nil:
			return 0, err
		default:
			if err := chunk.WriteFrame(&f.buf, id, stored); err != nil {
				return 0, err
			}
		}
	}
	return f.buf.Read(p)
}
