package agent

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"

	"carte/lab"
	"carte/lab/chunk"
)

// What the server has lost, by a broken disk, a machine may still have: on the disk that it lays, or in its cache. It says
// in its replies what that is; the agent looks before it writes, and again when it has laid the image.

// lost are the chunks that the server asks for.
type lost struct {
	mu  sync.Mutex
	ids map[chunk.ID]bool
}

// lostMost is how many of them are remembered.
const lostMost = 4096

// hear notes what a reply asks for.
func (l *lost) hear(ids []chunk.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ids == nil || len(l.ids) > lostMost {
		l.ids = map[chunk.ID]bool{}
	}
	for _, id := range ids[:min(len(ids), lab.MaxWanted)] {
		l.ids[id] = !id.Implied()
	}
}

// take returns what was asked for since it was last called.
func (l *lost) take() map[chunk.ID]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := l.ids
	l.ids = nil
	return ids
}

// give sends the server what it has lost, as far as it is at hand. It is a favour: what goes wrong is said and ends nothing.
func (w *work) give(ctx context.Context, f *flash) {
	wanted := w.client.lost.take()
	if len(wanted) == 0 || ctx.Err() != nil {
		return
	}
	var body []byte
	given, inBody := 0, 0
	send := func() bool {
		if inBody == 0 {
			return true
		}
		if err := w.client.give(ctx, body); err != nil {
			w.say("the server has lost chunks that are here, and did not take them: %v", err)
			return false
		}
		given, inBody, body = given+inBody, 0, body[:0]
		return true
	}
	buf, packed := aligned(chunk.Size), []byte(nil)
	for id, at := range f.whereabouts(wanted) {
		raw, ok := f.sound(id, at, buf)
		if !ok {
			continue
		}
		packed = chunk.Pack(packed, raw)
		frame := bytes.NewBuffer(body)
		if err := chunk.WriteFrame(frame, id, packed); err != nil {
			panic("BUG: " + err.Error())
		}
		body = frame.Bytes()
		if inBody++; inBody == lab.MaxWanted && !send() {
			return
		}
	}
	if send() && given > 0 {
		w.say("the server had lost %d chunks that are here; it has them again", given)
	}
}

// whereabouts is where on the disk chunks may be, by the orders.
func (f *flash) whereabouts(wanted map[chunk.ID]bool) map[chunk.ID][]place {
	places := make(map[chunk.ID][]place, len(wanted))
	for id, real := range wanted {
		if real {
			places[id] = nil
		}
	}
	for _, parts := range [][]part{f.parts, f.had} {
		for k := range parts {
			for i, id := range parts[k].IDs {
				if at, ok := places[id]; ok && len(at) < 4 {
					places[id] = append(at, place{&parts[k], i})
				}
			}
		}
	}
	return places
}

// sound reads a chunk where it may be, or takes it from near by, and proves it.
func (f *flash) sound(id chunk.ID, at []place, buf []byte) ([]byte, bool) {
	n := chunk.Size
	for _, x := range at {
		off, size := x.p.at(x.i)
		n = size
		if off+int64(size) > f.disk.Size() {
			continue
		}
		if err := f.readAt(buf[:size], off); err == nil && chunk.Sum(buf[:size]) == id {
			return buf[:size], true
		}
	}
	for _, from := range f.nearby {
		if raw, ok := from.chunk(id, n, buf); ok {
			return raw, true
		}
	}
	return nil, false
}

// give sends frames.
func (c *client) give(ctx context.Context, frames []byte) error {
	return c.patiently(ctx, "give", tries, func(ctx context.Context) error {
		return c.once(ctx, http.MethodPost, lab.PathGive, frames, func(io.Reader) error { return nil })
	})
}
