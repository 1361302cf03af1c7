package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

var _ lab.Depot = (*Desk)(nil)

// Manifest implements lab.Depot.
func (d *Desk) Manifest(_ context.Context, root chunk.ID, size int64) (chunk.Manifest, error) {
	m, err := d.State.Chunks.Manifest(root)
	if err == nil && m.Size != size {
		err = fmt.Errorf("manifest %v is of %d bytes, want %d: %w", root, m.Size, size, lab.ErrDamaged)
	}
	return m, err
}

// Chunks implements lab.Depot. One buffer is used for all of them.
func (d *Desk) Chunks(ctx context.Context, ids []chunk.ID, each func(id chunk.ID, stored []byte) error) (got int, err error) {
	if len(ids) > lab.MaxChunksAsked {
		return 0, fmt.Errorf("%d chunks at a time, %d is the most: %w", len(ids), lab.MaxChunksAsked, lab.ErrInvalid)
	}
	buf := storedBuffers.Get().(*[]byte)
	defer storedBuffers.Put(buf)
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return got, context.Cause(ctx)
		}
		stored, err := d.State.Chunks.readStored(id, *buf)
		if err == nil {
			if err = each(id, stored); errors.Is(err, lab.ErrDamaged) {
				_, _ = d.State.Chunks.Get(id, nil) // it was not hashed so far: if it is so, whoever brings it again mends it
			}
		}
		if err != nil {
			return got, err
		}
		got++
	}
	return got, nil
}

// Lacks implements lab.Depot.
func (d *Desk) Lacks(ctx context.Context, ids []chunk.ID) (lacking []chunk.ID, err error) {
	for _, id := range ids {
		if !d.State.Chunks.Rely(id) {
			lacking = append(lacking, id)
		}
	}
	return lacking, ctx.Err()
}

// Keep implements lab.Depot. Every chunk is hashed before it is stored.
func (d *Desk) Keep(ctx context.Context, c lab.Capture, m chunk.Manifest, next func() (chunk.ID, []byte, error)) (lab.Imported, error) {
	begin := time.Now()
	v := lab.AddVersion{Version: lab.Version{
		Image: c.Name, Message: lab.Clean(c.Message), Author: lab.Clean(c.Author), Parent: c.Base, Root: m.Root(), Bytes: m.Size, Content: m.Content(),
	}, Kind: c.Kind, Form: c.Form}
	if err := d.Lab.Check(v); err != nil { // what can be refused before a byte has arrived is
		return lab.Imported{}, err
	}
	added, mended, err := d.takeIn(ctx, m, next)
	if err != nil {
		return lab.Imported{}, unadded("capture", c.Name, err)
	}
	v.Stored = added
	out, err := d.add(ctx, "capture", v, nil)
	out.Mended, out.Format, out.Seconds = mended, "raw", time.Since(begin).Seconds()
	return out, err
}

// takeIn stores chunks and the manifest that lists them, and returns the bytes that the store grew by, and how many chunks are mended.
func (d *Desk) takeIn(ctx context.Context, m chunk.Manifest, next func() (chunk.ID, []byte, error)) (added int64, mended int, err error) {
	w, err := d.State.Chunks.Writer()
	if err != nil {
		return 0, 0, err
	}
	defer w.Abort()
	for ctx.Err() == nil {
		id, stored, err := next()
		if errors.Is(err, io.EOF) {
			_, err := w.CommitManifest(m)
			if w.stored == 0 {
				added = 0
			}
			return added, w.mended, err
		}
		if err != nil {
			return 0, 0, err
		}
		fresh, err := w.Put(id, stored)
		if err != nil {
			return 0, 0, err
		}
		if fresh {
			added += int64(len(stored) + chunk.FrameHeader)
		}
	}
	return 0, 0, context.Cause(ctx)
}
