package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"carte/lab"
	"carte/lab/chunk"
)

// What agents send of a disk comes in many requests, and the manifest last. Chunks are durable when their request has been
// answered, in packs that Collect leaves alone for an hour, and belong to nobody: a capture that is cut off leaves bytes that
// the next one need not send again, and no version.

// taken counts what agents have sent for each boot. After a restart it begins anew.
type taken struct {
	mu    sync.Mutex
	bytes map[int64]int64
}

func (t *taken) add(boot, n int64) (sum int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bytes == nil {
		t.bytes = map[int64]int64{}
	}
	t.bytes[boot] += n
	return t.bytes[boot]
}

func (t *taken) forget(boot int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.bytes, boot)
}

// Take stores chunks that an agent sends for its capture. Each is hashed before it counts. All that came whole are on the disk
// when it returns, also when next fails.
func (d *Desk) Take(ctx context.Context, b lab.Boot, next func() (chunk.ID, []byte, error)) error {
	w, err := d.State.Chunks.Writer()
	if err != nil {
		return err
	}
	defer w.Abort()
	grown := int64(0)
	for err == nil {
		var id chunk.ID
		var stored []byte
		if id, stored, err = next(); err != nil {
			break
		}
		var fresh bool
		if fresh, err = w.Put(id, stored); fresh && err == nil {
			grown += int64(len(stored) + chunk.FrameHeader)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if e := w.Commit(); e != nil {
		return errors.Join(err, e)
	}
	if w.mended > 0 {
		d.Lab.Log(lab.Line{Machine: b.Machine, Source: "store", Text: fmt.Sprintf("boot %d brought %d chunks that were damaged", b.ID, w.mended)})
	}
	d.taken.add(b.ID, grown)
	return err
}

// Finish makes m the version that a boot captures, and ends the boot. Said again, it says the same. lab.ErrNotFound: a chunk
// that m lists is not here; send it, and say it again.
func (d *Desk) Finish(ctx context.Context, b lab.Boot, m chunk.Manifest) (lab.Kept, error) {
	if b.State == lab.Done {
		return lab.Kept{Ref: b.Captured, Same: b.Same}, nil
	}
	root, err := d.State.Chunks.PutManifest(m)
	if errors.Is(err, lab.ErrInvalid) {
		return lab.Kept{}, fmt.Errorf("boot %d: %v: %w", b.ID, err, lab.ErrNotFound)
	}
	if err != nil {
		return lab.Kept{}, err
	}
	defer d.State.Chunks.Settle(root)
	v := lab.AddVersion{Version: lab.Version{
		Image: b.Plan.Capture.Image, Root: root, Bytes: m.Size, Content: m.Content(), Stored: d.taken.add(b.ID, 0),
	}, Kind: b.Plan.Capture.Kind, Form: b.Plan.Form}
	facts, err := d.sniff(v)
	if err != nil {
		return lab.Kept{}, unadded("capture", v.Image, err)
	}
	found, err := d.look(ctx, v)
	if err != nil {
		return lab.Kept{}, unadded("capture", v.Image, err)
	}
	said, err := d.inspect(ctx, &v, facts)
	if err != nil {
		return lab.Kept{}, unadded("capture", v.Image, err)
	}
	v.Found, v.FileSystems = lab.Clean(facts.String()), fileSystems(*found)
	if _, err := d.Lab.Say(ctx, lab.Captured{AddVersion: v, Boot: b.ID}); err != nil {
		return lab.Kept{}, err
	}
	d.taken.forget(b.ID)
	s, err := d.Lab.Watch(ctx, 0)
	if err != nil {
		return lab.Kept{}, err
	}
	b = s.Boots[b.ID]
	for _, what := range append(warnings(v), said...) {
		d.Lab.Log(lab.Line{Machine: b.Machine, Source: "store", Text: what})
	}
	return lab.Kept{Ref: b.Captured, Same: b.Same}, nil
}
