package agent

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"carte/lab/chunk"
)

// load makes the whole layer present, and returns nil when all of it is on the disk and was read back from there. Readers
// come first: it goes on only while nobody reads.
func (l *lazy) load(ctx context.Context) error {
	l.lull.read() // the system that starts is the first to be served
	l.lull.miss()
	for pause := l.pause; ; pause = min(2*pause, 480*l.pause) {
		if err := l.fill(ctx); err != nil {
			return err
		}
		again, err := l.prove(ctx)
		if err != nil {
			return err
		}
		if !again {
			return nil
		}
		if err := sleep(ctx, pause); err != nil { // the disk does not keep what it is given: no hurry
			return err
		}
	}
}

// fill settles every chunk once, in their order.
func (l *lazy) fill(ctx context.Context) error {
	var next atomic.Int64
	return together(loaders, func(ctx context.Context) error {
		for i := int(next.Add(1)) - 1; i < len(l.part.IDs); i = int(next.Add(1)) - 1 {
			if l.has(i) {
				continue
			}
			if err := l.lull.wait(ctx); err != nil {
				return err
			}
			if err := l.settle(ctx, i, false, func([]byte) {}); err != nil {
				return err
			}
		}
		return nil
	}).Run(ctx)
}

// has says whether chunk i is present.
func (l *lazy) has(i int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state[i] >= written
}

// prove brings all to the medium and reads back what came over the wire. again says that something is missing still.
func (l *lazy) prove(ctx context.Context) (again bool, err error) {
	if err := l.disk.Sync(); err != nil {
		l.complain("%s did not get to the disk: %v; it is written again", l.part.Ref, err)
		l.doubt(0, int(l.size()))
		return true, nil
	}
	if err := l.disk.Forget(); err != nil {
		return false, fmt.Errorf("read back %s: %w", l.part.Ref, err)
	}
	buf := aligned(chunk.Size)
	for i := range l.part.IDs {
		if !l.is(i, written) {
			continue
		}
		if err := l.lull.wait(ctx); err != nil {
			return false, err
		}
		off, n := l.part.at(i)
		if _, err := l.disk.ReadAt(buf[:n], off); err != nil || chunk.Sum(buf[:n]) != l.part.IDs[i] {
			l.complain("%s at byte %d does not give back what was written there; it is written again", l.part.Ref, off)
			l.doubt(int64(i)*chunk.Size, 1)
			continue
		}
		l.mu.Lock()
		if l.state[i] == written {
			l.state[i] = present
		}
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whole.Store(l.left == 0)
	return l.left > 0, nil
}

// is says whether that is known of chunk i.
func (l *lazy) is(i int, p presence) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state[i] == p
}

// missing is how many bytes have not arrived, or have not been looked at.
func (l *lazy) missing() (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, s := range l.state {
		if s < written {
			n += int64(l.part.Len(i))
		}
	}
	return n
}

// A lull is when nobody reads. Those who load what nobody has asked for wait for one.
type lull struct {
	idle    time.Duration // how long nobody may have read
	patient time.Duration // how long reads that miss nothing count, after the last one that did
	wanted  atomic.Int64  // when somebody last read, in Unix nanoseconds
	missed  atomic.Int64  // when somebody last read what was not present
}

func newLull() *lull { return &lull{idle: 100 * time.Millisecond, patient: 10 * time.Second} }

func (u *lull) read() { u.wanted.Store(time.Now().UnixNano()) }
func (u *lull) miss() { u.missed.Store(time.Now().UnixNano()) }

// wait returns when nobody has read for a while, or nobody has missed anything for long.
func (u *lull) wait(ctx context.Context) error {
	for {
		now := time.Now().UnixNano()
		rest := min(u.wanted.Load()+int64(u.idle), u.missed.Load()+int64(u.patient)) - now
		if rest <= 0 {
			return ctx.Err()
		}
		if err := sleep(ctx, time.Duration(rest)); err != nil {
			return err
		}
	}
}
