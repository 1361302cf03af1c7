package lab

import (
	"context"
	"slices"

	"carte/lab/chunk"
)

// MaxWanted is the most chunks that one reply asks an agent for, and that one request gives.
const MaxWanted = 64

// wants are the chunks of versions that the store has lost, and asks machines for.
type wants struct {
	ids  []chunk.ID
	next int // of ids, for the next reply
}

// Want replaces what machines are asked for. It is remembered until the lab is closed.
func (l *Lab) Want(ids []chunk.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wants = wants{ids: slices.Clone(ids)}
}

// Wanted reports whether machines are asked for a chunk.
func (l *Lab) Wanted(id chunk.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.wants.ids, id)
}

// Unwant takes chunks from the list of what machines are asked for.
func (l *Lab) Unwant(ids []chunk.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wants.ids = slices.DeleteFunc(l.wants.ids, func(id chunk.ID) bool { return slices.Contains(ids, id) })
}

// asks is what the next reply asks for: where there is too much for one, a part after the other.
func (l *Lab) asks() []chunk.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &l.wants
	if w.next >= len(w.ids) {
		w.next = 0
	}
	part := w.ids[w.next:min(len(w.ids), w.next+MaxWanted)]
	w.next += len(part)
	return slices.Clone(part)
}

// Gives returns the machine that an agent's key speaks for. ErrDenied: none.
func (l *Lab) Gives(ctx context.Context, key string) (Machine, error) {
	s, err := l.Watch(ctx, 0)
	if err != nil {
		return Machine{}, err
	}
	return s.byKey(key)
}
