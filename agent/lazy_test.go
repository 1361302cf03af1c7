package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carte/agent/wire"
	"carte/lab"
	"carte/lab/chunk"
)

// fickle is a shelf whose server is at times away, lies, or is held up.
type fickle struct {
	*shelf
	mu    sync.Mutex
	asked map[chunk.ID]int
	gate  chan struct{}         // when not nil, an answer waits until something comes out of it, or it is closed
	err   func(nth int) error   // of the nth request, from 1; may be nil
	lie   func(b []byte) []byte // what is sent in place of a stored chunk; may be nil
	nth   atomic.Int64
}

func (s *fickle) Chunks(ctx context.Context, ids []chunk.ID, each func(chunk.ID, []byte) error) (int, error) {
	s.mu.Lock()
	for _, id := range ids {
		s.asked[id]++
	}
	s.mu.Unlock()
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	nth := int(s.nth.Add(1))
	if s.err != nil {
		if err := s.err(nth); err != nil {
			return 0, err
		}
	}
	return s.shelf.Chunks(ctx, ids, func(id chunk.ID, stored []byte) error {
		if s.lie != nil {
			stored = s.lie(stored)
		}
		return each(id, stored)
	})
}

func (s *fickle) most() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.asked {
		n = max(n, k)
	}
	return n
}

// newLazy makes a lazy layer of image at byte 4096 of a file that holds disk, and does not hurry.
func newLazy(t testing.TB, image, disk []byte) (*lazy, *fickle, string) {
	t.Helper()
	s := &fickle{shelf: newShelf(), asked: map[chunk.ID]int{}}
	v := s.add(t, 1, image)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, joined(make([]byte, lazyAt), disk, noise(77, 8192)), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	l := openLazy(d, newPart(lab.Write{Ref: v.Ref(), Root: v.Root, Bytes: v.Bytes, Offset: lazyAt}, s.m[v.Root]), s, t.Logf)
	l.pause, l.lull.idle = time.Millisecond, time.Millisecond
	return l, s, path
}

const lazyAt = 4096

// onDisk is what the disk has where the layer lies.
func onDisk(t testing.TB, path string, n int) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b[lazyAt+n:], noise(77, 8192)) || !chunk.IsZero(b[:lazyAt]) {
		t.Error("what lies beside the layer was changed")
	}
	return b[lazyAt : lazyAt+n]
}

// Whatever the disk has, whoever reads gets the image; so does the disk, in the end, and then nobody asks the server.
func TestLazyReadsNeverWrong(t *testing.T) {
	image := joined(noise(1, 3*c), make([]byte, 2*c), noise(2, 2*c+4096), make([]byte, c-4096), noise(3, c+12345))
	half := joined(image[:4*c], noise(5, len(image)-4*c))
	for name, disk := range map[string][]byte{"blank": make([]byte, len(image)), "something else": noise(4, len(image)), "half": half, "whole": image} {
		t.Run(name, func(t *testing.T) {
			l, s, path := newLazy(t, image, bytes.Clone(disk))
			r := rand.New(rand.NewPCG(1, 2))
			err := group{l.load, func(ctx context.Context) error {
				for range 400 {
					off, b := r.IntN(len(image)), make([]byte, 1+r.IntN(3*c))
					n, err := l.read(ctx, b, int64(off))
					if err != nil {
						return err
					}
					if want := image[off:min(len(image), off+len(b))]; !bytes.Equal(b[:n], want) {
						t.Errorf("%d bytes at %d are wrong", len(want), off)
					}
				}
				return nil
			}}.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(onDisk(t, path, len(image)), image) {
				t.Error("the disk is not the image")
			}
			if s.most() > 1 {
				t.Errorf("a chunk was fetched %d times", s.most())
			}
			if want := int64(len(image)); l.count.found.Load()+l.count.arrived.Load() != want {
				t.Errorf("found %d and fetched %d of %d bytes", l.count.found.Load(), l.count.arrived.Load(), want)
			}
			if name == "whole" && len(s.asked) > 0 {
				t.Errorf("asked for %d chunks that were there", len(s.asked))
			}
			if n, err := l.read(t.Context(), make([]byte, 10), l.size()); n != 0 || err != io.EOF {
				t.Errorf("behind the end: %d, %v", n, err)
			}
		})
	}
}

// Twenty who read one chunk at once make one request; those who read another are not held up.
func TestLazyFetchesOnce(t *testing.T) {
	image := noise(1, 4*c)
	l, s, _ := newLazy(t, image, joined(make([]byte, 3*c), image[3*c:]))
	s.gate = make(chan struct{})
	arrived := make(chan struct{}, 20)
	g := together(20, func(ctx context.Context) error {
		arrived <- struct{}{}
		b := make([]byte, 100)
		if _, err := l.read(ctx, b, c+50); err != nil {
			return err
		}
		if !bytes.Equal(b, image[c+50:c+150]) {
			t.Error("read something wrong")
		}
		return nil
	})
	err := append(g, func(ctx context.Context) error {
		for range 20 {
			<-arrived
		}
		b := make([]byte, 100)
		if _, err := l.read(ctx, b, 3*c); err != nil || !bytes.Equal(b, image[3*c:3*c+100]) {
			t.Errorf("what is there was not read: %v", err)
		}
		close(s.gate)
		return nil
	}).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.most() != 1 || len(s.asked) != 1 {
		t.Errorf("chunks were asked for %v", s.asked)
	}
}

// A server that is away, that refuses, that lies: whoever reads waits, and gets what is right.
func TestLazyWaits(t *testing.T) {
	image := noise(1, 3*c)
	for name, spoil := range map[string]func(*fickle){
		"away":    func(s *fickle) { s.err = func(n int) error { return map[bool]error{true: wire.ErrAway}[n < 30] } },
		"refuses": func(s *fickle) { s.err = func(n int) error { return map[bool]error{true: lab.ErrDenied}[n < 30] } },
		"lies": func(s *fickle) {
			s.lie = func(b []byte) []byte {
				if s.nth.Load() < 30 {
					b = bytes.Clone(b)
					b[len(b)/2] ^= 1
				}
				return b
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, s, path := newLazy(t, image, make([]byte, len(image)))
			spoil(s)
			b := make([]byte, len(image))
			if _, err := l.read(t.Context(), b, 0); err != nil || !bytes.Equal(b, image) {
				t.Fatalf("read: %v, right: %v", err, bytes.Equal(b, image))
			}
			if !bytes.Equal(onDisk(t, path, len(image)), image) {
				t.Error("the disk is not the image")
			}
			if s.nth.Load() < 30 {
				t.Errorf("%d requests", s.nth.Load())
			}
		})
	}
}

// A disk that takes nothing, and one that gives back something else, cost the wire and no reader.
func TestLazyBrokenDisk(t *testing.T) {
	image := noise(1, 3*c)
	l, s, _ := newLazy(t, image, make([]byte, len(image)))
	l.disk = deaf{l.disk}
	for range 2 {
		b := make([]byte, len(image))
		if _, err := l.read(t.Context(), b, 0); err != nil || !bytes.Equal(b, image) {
			t.Fatalf("read: %v, right: %v", err, bytes.Equal(b, image))
		}
	}
	if s.most() != 2 || l.missing() != l.size() {
		t.Errorf("asked %d times, %d bytes missing", s.most(), l.missing())
	}
}

// deaf is a disk that takes nothing.
type deaf struct{ Disk }

func (deaf) WriteAt([]byte, int64) (int, error) { return 0, errors.New("it takes nothing") }

// A chunk that the medium does not give back is fetched again before the layer counts as whole.
func TestLazyProves(t *testing.T) {
	image := noise(1, 6*c)
	l, s, path := newLazy(t, image, make([]byte, len(image)))
	forgets := &forgetful{Disk: l.disk, at: lazyAt + 2*c}
	l.disk = forgets
	if err := l.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(onDisk(t, path, len(image)), image) || !l.whole.Load() {
		t.Error("the disk is not the image")
	}
	if s.most() != 2 {
		t.Errorf("a chunk was asked for %d times, want 2", s.most())
	}
}

// forgetful is a disk that loses one write.
type forgetful struct {
	Disk
	at   int64
	lost atomic.Bool
}

func (f *forgetful) WriteAt(b []byte, off int64) (int, error) {
	if off == f.at && !f.lost.Swap(true) {
		return len(b), nil
	}
	return f.Disk.WriteAt(b, off)
}

// What nobody asked for waits while somebody reads.
func TestLazyReadersFirst(t *testing.T) {
	image := noise(1, 40*c)
	l, s, _ := newLazy(t, image, make([]byte, len(image)))
	l.lull.idle = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	err := group{l.load, func(ctx context.Context) error {
		b := make([]byte, 10)
		for i := range 5 {
			if _, err := l.read(ctx, b, int64(i)*7*c); err != nil {
				return err
			}
		}
		cancel()
		return nil
	}}.Run(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if len(s.asked) != 5 {
		t.Errorf("%d chunks were fetched, 5 were read", len(s.asked))
	}
}

// What the flash has made zero is not looked at again.
func TestLazyTrustsZeros(t *testing.T) {
	image := joined(make([]byte, 3*c), noise(1, c), make([]byte, 2*c))
	l, s, path := newLazy(t, image, make([]byte, len(image)))
	l.zeroed()
	if l.missing() != c {
		t.Errorf("%d bytes are missing, want %d", l.missing(), c)
	}
	b := make([]byte, len(image))
	if _, err := l.read(t.Context(), b, 0); err != nil || !bytes.Equal(b, image) || l.count.found.Load() != 0 {
		t.Errorf("read: %v, right: %v, looked at %d bytes", err, bytes.Equal(b, image), l.count.found.Load())
	}
	if err := l.load(t.Context()); err != nil || !l.whole.Load() || s.most() != 1 {
		t.Errorf("loaded: %v, whole: %v", err, l.whole.Load())
	}
	if !bytes.Equal(onDisk(t, path, len(image)), image) {
		t.Error("the disk is not the image")
	}
}
