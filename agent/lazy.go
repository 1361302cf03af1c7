package agent

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"carte/lab/chunk"
)

// A lazy layer is an image on the disk of which some chunks have not arrived when the user's system starts.
//
//	read      what is present is read from the disk; what is not is fetched first, by whoever needs it first
//	settle    takes one chunk from unsure or absent to present: hashed in the buffer that is written and answered
//	load      settles the rest in the background, whenever nobody has read for a while, and proves all of it in the end
//
// A read is never wrong and never fails for want of a server: it waits. Nothing is written down about what is present:
// every chunk begins unsure, and whoever needs it first reads and hashes what the disk has. So a crash at any point costs
// nothing but that. Memory: two bytes for each chunk, and at most lazySlots buffers of 256 KiB.
type lazy struct {
	disk   Disk
	part   part // where on the disk it lies, and its manifest; its states are not used
	source Source
	say    func(format string, args ...any)
	pause  time.Duration // the first between two tries; it grows to 40 of them

	slots chan struct{} // one for each chunk that may be settled at a time
	bufs  sync.Pool     // of *[]byte, aligned
	whole atomic.Bool   // all is present: the table need not be looked at
	lull  *lull         // when nobody reads; several layers may have one together
	told  atomic.Int64  // when trouble was last told of, in Unix nanoseconds
	count lazyCount

	mu    sync.Mutex
	state []presence
	wait  map[int]chan struct{} // of chunks that are being settled: closed when they are not any more
	left  int                   // chunks that are not present
}

// presence is what is known of one chunk on the disk.
type presence byte

const (
	unsure   presence = iota // not looked at
	absent                   // the disk has something else
	underway                 // somebody looks, or fetches
	written                  // it came over the wire, and is not read back
	present                  // it was read from the disk, and hashed
)

// lazyCount is what a lazy layer has moved so far.
type lazyCount struct {
	reads, waits   atomic.Int64 // reads, and those that had to wait for the wire
	fetched        atomic.Int64 // bytes over the wire
	found, arrived atomic.Int64 // bytes of chunks that the disk had, and that it was given
}

const (
	lazySlots   = 12                     // chunks that are settled at a time
	loaders     = 2                      // of them, those that nobody asked for: on a slow wire a reader waits for them
	lazyPause   = 125 * time.Millisecond // see lazy.pause
	lazyTelling = 30 * time.Second       // between two words about the same trouble
)

// openLazy makes a lazy layer of what lies at p's place of the disk, whatever that is. The caller closes the disk when
// nobody reads any more.
func openLazy(d Disk, p part, source Source, say func(format string, args ...any)) *lazy {
	l := &lazy{
		disk: d, part: p, source: source, say: say, pause: lazyPause, lull: newLull(),
		slots: make(chan struct{}, lazySlots), state: make([]presence, len(p.IDs)), wait: map[int]chan struct{}{},
	}
	l.bufs.New = func() any { b := aligned(chunk.Size); return &b }
	for i, id := range p.IDs {
		if id == chunk.Free { // whatever the disk has there is right
			l.state[i] = present
		} else {
			l.left++
		}
	}
	l.whole.Store(l.left == 0)
	return l
}

// zeroed takes what is to be zero for present: the flash before the start has made it so, and has proven it.
func (l *lazy) zeroed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, id := range l.part.IDs {
		if l.state[i] == unsure && id.IsZero() {
			l.state[i] = present
			l.left--
		}
	}
	l.whole.Store(l.left == 0)
}

// size is the image's, in bytes.
func (l *lazy) size() int64 { return l.part.Size }

// read fills b from the image at off and returns how much of it the image has. It fetches what has not arrived, for as
// long as that takes; only ctx's end ends it.
func (l *lazy) read(ctx context.Context, b []byte, off int64) (int, error) {
	if off < 0 || off >= l.size() {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), l.size()-off)]
	l.count.reads.Add(1)
	if l.whole.Load() {
		if _, err := l.disk.ReadAt(b, l.part.Offset+off); err == nil {
			return len(b), nil
		} // a place that cannot be read is fetched
		l.doubt(off, len(b))
	}
	l.lull.read()
	defer l.lull.read()
	for n := 0; n < len(b); {
		at := off + int64(n)
		i, from := int(at/chunk.Size), int(at%chunk.Size)
		run := b[n:min(len(b), n+l.part.Len(i)-from)]
		if err := l.readChunk(ctx, run, i, from); err != nil {
			return n, err
		}
		n += len(run)
	}
	return len(b), nil
}

// readChunk fills b from chunk i, beginning with its byte from.
func (l *lazy) readChunk(ctx context.Context, b []byte, i, from int) error {
	answered := false
	err := l.settle(ctx, i, true, func(raw []byte) {
		copy(b, raw[from:])
		answered = true
	})
	if err != nil || answered {
		return err
	}
	off, _ := l.part.at(i)
	if _, err := l.disk.ReadAt(b, off+int64(from)); err == nil {
		return nil
	}
	l.doubt(int64(i)*chunk.Size, 1)
	return l.settle(ctx, i, true, func(raw []byte) { copy(b, raw[from:]) })
}

// doubt takes back that what is there is present: the disk did not give it.
func (l *lazy) doubt(off int64, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whole.Store(false)
	for i := int(off / chunk.Size); i < len(l.state) && int64(i)*chunk.Size < off+int64(n); i++ {
		if l.state[i] >= written && l.part.IDs[i] != chunk.Free {
			l.state[i] = absent
			l.left++
		}
	}
}

// settle makes chunk i present. When it had to be looked at or fetched by this very call, use is handed its bytes, proven,
// which are valid until it returns.
func (l *lazy) settle(ctx context.Context, i int, needed bool, use func(raw []byte)) error {
	was, done, err := l.take(ctx, i)
	if err != nil || was >= written {
		return err
	}
	became := was
	defer func() { l.leave(i, became, done) }()
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-l.slots }()
	buf := l.bufs.Get().(*[]byte)
	defer l.bufs.Put(buf)

	off, n := l.part.at(i)
	raw := (*buf)[:n]
	if was == unsure {
		if _, err := l.disk.ReadAt(raw, off); err == nil && chunk.Sum(raw) == l.part.IDs[i] {
			l.count.found.Add(int64(n))
			became = present
			use(raw)
			return nil
		}
	}
	became = absent
	if needed {
		l.lull.miss()
		l.count.waits.Add(1)
	}
	if err := l.fetch(ctx, i, raw); err != nil {
		return err
	}
	if _, err := l.disk.WriteAt(raw, off); err != nil { // it is answered all the same, and fetched again next time
		l.complain("write %s at byte %d: %v; what is read there comes from the server each time", l.part.Ref, off, err)
	} else {
		became = written
		l.count.arrived.Add(int64(n))
	}
	use(raw)
	return nil
}

// take waits until nobody settles chunk i, and then is the one who does, unless it is present.
func (l *lazy) take(ctx context.Context, i int) (was presence, done chan struct{}, err error) {
	for {
		l.mu.Lock()
		was = l.state[i]
		if was >= written {
			l.mu.Unlock()
			return was, nil, nil
		}
		if was != underway {
			done = make(chan struct{})
			l.state[i], l.wait[i] = underway, done
			l.mu.Unlock()
			return was, done, nil
		}
		other := l.wait[i]
		l.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return was, nil, context.Cause(ctx)
		}
	}
}

// leave says what became of a chunk, and lets those go on who wait for it.
func (l *lazy) leave(i int, became presence, done chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state[i] = became
	delete(l.wait, i)
	if became >= written {
		l.left--
	}
	close(done)
}

// fetch fills raw with chunk i, proven. It tries until it has it: whatever the server answers today, it may be mended
// tomorrow, and a user's system that waits is better than one that is told something wrong.
func (l *lazy) fetch(ctx context.Context, i int, raw []byte) error {
	id := l.part.IDs[i]
	if id.IsZero() {
		clear(raw)
		return nil
	}
	for pause := l.pause; ; pause = min(2*pause, 40*l.pause) {
		got, err := l.source.Chunks(ctx, []chunk.ID{id}, func(_ chunk.ID, stored []byte) error {
			l.count.fetched.Add(int64(len(stored)))
			got, err := chunk.Unpack(raw, stored, id, len(raw))
			copy(raw, got) // onto itself, as a rule
			return err
		})
		if err == nil && got == 1 {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			err = fmt.Errorf("the server sent nothing")
		}
		l.complain("%s waits for chunk %v: %v; it is tried again until it works", l.part.Ref, id, err)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// complain tells of trouble, now and then.
func (l *lazy) complain(format string, args ...any) {
	now, was := time.Now().UnixNano(), l.told.Load()
	if now-was > int64(lazyTelling) && l.told.CompareAndSwap(was, now) {
		l.say(format, args...)
	}
}
