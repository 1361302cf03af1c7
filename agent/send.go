package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"carte/agent/wire"
	"carte/lab"
	"carte/lab/chunk"
)

// uplink is a Keeper over the wire: the server makes what it is sent the version that the agent's boot is for. Chunks go in
// batches that are durable when they are answered. When one is cut off, the server is asked what of it is still lacking.
type uplink struct {
	*client
	again *atomic.Int64               // is added to for what is sent once more, in bytes
	last  func(context.Context) error // is called before the manifest, which ends the boot
}

const (
	senders   = 2       // batches at a time: one is on the wire while another is filled
	sendBytes = 8 << 20 // in a batch, as stored
)

// Lacks implements Keeper.
func (u *uplink) Lacks(ctx context.Context, ids []chunk.ID) (lacking []chunk.ID, err error) {
	for part := range slices.Chunk(ids, lab.MaxIDsSent) {
		err := u.patiently(ctx, "ask what is lacking", tries, func(ctx context.Context) error {
			some, err := u.lacks(ctx, part)
			if err == nil {
				lacking = append(lacking, some...)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("ask what is lacking: %w", err)
		}
	}
	return lacking, nil
}

// lacks asks once, for at most lab.MaxIDsSent.
func (u *uplink) lacks(ctx context.Context, ids []chunk.ID) (lacking []chunk.ID, err error) {
	const size = len(chunk.ID{})
	asked := make([]byte, 0, len(ids)*size)
	for _, id := range ids {
		asked = append(asked, id[:]...)
	}
	err = u.once(ctx, http.MethodPost, lab.PathLacks, asked, func(r io.Reader) error {
		b, err := io.ReadAll(io.LimitReader(r, int64(len(asked))+1))
		if err != nil {
			return wire.Away(err)
		}
		if len(b) > len(asked) || len(b)%size != 0 {
			return wire.Away(fmt.Errorf("its answer has %d bytes", len(b)))
		}
		for rest := asked; len(b) > 0; b = b[size:] { // in the order in which they were asked for, and no others
			for len(rest) > 0 && !bytes.Equal(rest[:size], b[:size]) {
				rest = rest[size:]
			}
			if len(rest) == 0 {
				return wire.Away(errors.New("its answer names what was not asked for"))
			}
			lacking = append(lacking, chunk.ID(b[:size]))
		}
		return nil
	})
	return lacking, err
}

// Keep implements Keeper. The version's name, kind, base and words are the boot's, which the server knows.
func (u *uplink) Keep(ctx context.Context, _ lab.Capture, m chunk.Manifest, next func() (chunk.ID, []byte, error)) (got lab.Imported, err error) {
	var turn sync.Mutex
	over := false
	fill := func(b *batched) (err error) {
		turn.Lock()
		defer turn.Unlock()
		b.reset()
		for !over && b.body.Len() < sendBytes {
			id, stored, err := next()
			if over = errors.Is(err, io.EOF); over {
				return nil
			}
			if err == nil {
				err = b.add(id, stored)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	err = together(senders, func(ctx context.Context) error {
		var b batched
		for {
			if err := fill(&b); err != nil || len(b.ids) == 0 {
				return err
			}
			if err := u.send(ctx, &b); err != nil {
				return fmt.Errorf("send: %w", err)
			}
		}
	}).Run(ctx)
	if err == nil {
		err = u.last(ctx)
	}
	if err != nil {
		return got, err
	}
	kept, err := u.keep(ctx, m)
	got.Version = lab.Version{Image: kept.Ref.Name, Number: kept.Ref.Version, Root: m.Root(), Bytes: m.Size}
	got.Same = kept.Same
	return got, err
}

// send sends a batch until the server has all of it.
func (u *uplink) send(ctx context.Context, b *batched) error {
	first := true
	return u.patiently(ctx, "send", tries, func(ctx context.Context) error {
		if !first {
			lacking, err := u.lacks(ctx, b.ids)
			if err != nil {
				return err
			}
			if b.only(lacking); len(lacking) == 0 {
				return nil
			}
			u.again.Add(int64(b.body.Len()))
		}
		first = false
		return u.once(ctx, http.MethodPost, lab.PathTake, b.body.Bytes(), func(io.Reader) error { return nil })
	})
}

// keep sends the manifest, which makes the version and ends the boot.
func (u *uplink) keep(ctx context.Context, m chunk.Manifest) (kept lab.Kept, err error) {
	text := m.Encode()
	err = u.patiently(ctx, "manifest", tries, func(ctx context.Context) error {
		return u.once(ctx, http.MethodPost, lab.PathKeep, text, func(r io.Reader) error { return wire.Reply(r, &kept) })
	})
	if errors.Is(err, lab.ErrNotFound) {
		return kept, fmt.Errorf("%w: %w", errMissing, err)
	}
	return kept, err
}

// batched is chunks on their way, as frames one after another.
type batched struct {
	ids  []chunk.ID
	ends []int // of the frames
	body bytes.Buffer
}

func (b *batched) reset() {
	b.ids, b.ends = b.ids[:0], b.ends[:0]
	b.body.Reset()
}

func (b *batched) add(id chunk.ID, stored []byte) error {
	if err := chunk.WriteFrame(&b.body, id, stored); err != nil {
		return err
	}
	b.ids, b.ends = append(b.ids, id), append(b.ends, b.body.Len())
	return nil
}

// only drops all but those chunks, which come in the order of the batch.
func (b *batched) only(ids []chunk.ID) {
	text, from := b.body.Bytes(), 0
	kept, to := 0, 0
	for i, id := range b.ids {
		frame := text[from:b.ends[i]]
		from = b.ends[i]
		if kept < len(ids) && ids[kept] == id {
			to += copy(text[to:], frame)
			b.ids[kept], b.ends[kept] = id, to
			kept++
		}
	}
	b.ids, b.ends = b.ids[:kept], b.ends[:kept]
	b.body.Truncate(to)
}
