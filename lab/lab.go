// Package lab is the model of a small lab and its rules: machines, images, stacks, boots and what came of them.
// People and machines say verbs; a verb decides on an immutable snapshot what changes; the changes are saved in one
// transaction, applied to memory, and whoever watches is woken. The package opens no file and no socket, knows no SQL
// and reads no clock: all of that is handed to Open.
//
//	machine  something that boots, metal or virtual; one row however many network cards it has
//	image    a named thing with a kind (its contract) and numbered, immutable versions, written name@3
//	form     what an image's bytes are: disk, tree, kernel or files
//	stack    an ordered list of images that a machine runs together
//	plan     a stack resolved for one machine: exact versions, exact bytes; same digest, same bytes
//	boot     one use of one machine with one plan, from the queue to done, failed or revoked
//	rung     a step of the ladder that every boot climbs, from power to run; its time is kept
//	ticket   the right of one booted agent to speak for its machine; claimed once
package lab

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Book is where the lab is written down. Save is all or nothing, and what it acknowledged survives a power cut.
type Book interface {
	Load(ctx context.Context) (Snapshot, error)
	Save(ctx context.Context, changes []Change) error
}

// Config is what a lab is opened with.
type Config struct {
	Book   Book
	Now    func() time.Time // the wall clock
	Secret []byte           // at least 16 random bytes that survive restarts; boot tokens are derived from it
	// Still opens the lab for a verb or a look while nobody serves it: no time passes, nothing starts and nothing ends by
	// itself, so that looking writes nothing.
	Still   bool
	Kinds   []Kind     // that this lab has beside the table of Kinds
	KindsAt string     // the file that Kinds are from
	Keep    func(Line) // where log lines go besides memory, one call at a time, in order; nil: nowhere
}

// Lab is the one door to the lab's state. Its methods may be called from any goroutine.
type Lab struct {
	book   Book
	now    func() time.Time
	secret []byte
	still  bool
	logs   logs

	mu      sync.Mutex
	state   Snapshot
	changed chan struct{} // closed, and replaced, at every change
	wants   wants
}

// Open loads the lab and settles what a stop in the middle left: the boots of virtual machines, which died with the
// server, go back to the head of their queues without a strike.
func Open(ctx context.Context, c Config) (*Lab, error) {
	if len(c.Secret) < 16 {
		return nil, fmt.Errorf("the lab's secret has %d bytes, it needs at least 16: %w", len(c.Secret), ErrInvalid)
	}
	if err := CheckKinds(c.Kinds); err != nil {
		return nil, fmt.Errorf("the lab's own kinds: %w", err)
	}
	s, err := c.Book.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the lab: %w", err)
	}
	s.fill()
	s.OwnKinds, s.KindsAt.File = c.Kinds, c.KindsAt
	s.KindsAt.Trouble = s.orphans(c.Kinds)
	s.Rev = uint64(c.Now().UnixMilli()) // newer than any that a watcher had from an earlier run
	l := &Lab{book: c.Book, now: c.Now, secret: c.Secret, still: c.Still, state: s, changed: make(chan struct{})}
	l.logs.init()
	l.logs.keep = c.Keep
	if c.Still {
		l.state.Still = true
		return l, nil
	}
	if _, err := l.do(ctx, restarted); err != nil {
		return nil, fmt.Errorf("settle the boots of the last run: %w", err)
	}
	return l, nil
}

// do is the only way the lab changes: decide, settle, save, apply, wake. It returns what changed.
func (l *Lab) do(ctx context.Context, decide func(*draft) error) ([]Change, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := &draft{Snapshot: l.state, at: l.now().UTC().Truncate(time.Millisecond)}
	if err := decide(d); err != nil {
		return nil, err
	}
	if !l.still {
		settle(d)
	}
	if len(d.changes) == 0 {
		return nil, nil
	}
	if lasting := lasting(d.changes); len(lasting) > 0 {
		if err := l.book.Save(ctx, lasting); err != nil {
			return nil, fmt.Errorf("nothing was changed, the lab could not be written down: %w", err)
		}
	}
	l.state = d.Snapshot
	l.state.Rev++
	close(l.changed)
	l.changed = make(chan struct{})
	return d.changes, nil
}

// Say carries out one verb and returns the rows that it changed. On an error nothing has changed.
func (l *Lab) Say(ctx context.Context, v Verb) (Changed, error) {
	changes, err := l.do(ctx, v.decide)
	return changedBy(changes), err
}

// Check says whether a verb would be refused just now. Nothing follows from it.
func (l *Lab) Check(v Verb) error {
	l.mu.Lock()
	d := &draft{Snapshot: l.state, at: l.now().UTC().Truncate(time.Millisecond)}
	l.mu.Unlock()
	return v.decide(d)
}

// Watch returns the lab as soon as it is newer than revision after, or the context's error. Snapshots are shared and
// must not be written to.
func (l *Lab) Watch(ctx context.Context, after uint64) (Snapshot, error) {
	for {
		l.mu.Lock()
		s, changed := l.state, l.changed
		l.mu.Unlock()
		if s.Rev > after {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Snapshot{}, ctx.Err()
		}
	}
}

// Run lets time pass: once a second it settles what is due, such as a boot that has stopped on a rung. It returns the
// context's error when the context ends.
func (l *Lab) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, err := l.do(ctx, nothing); err != nil && ctx.Err() == nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func nothing(*draft) error { return nil }
