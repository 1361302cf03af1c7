package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// crowd is a desk at which many work at once, on images that share chunks.
type crowd struct {
	*testing.T
	*Desk
	parts [][]byte
	turn  sync.RWMutex // a collection begins when nothing is being written, and writing goes on as soon as it has
	over  atomic.Bool
}

// Imports, captures, removals, flashes, collections and checks at once: a version that is there can be read to its last byte, no check finds anything,
// and what only a waiting boot needs stays.
func TestEverythingAtOnce(t *testing.T) {
	d := hold(t, t.TempDir())
	defer d.State.Close()
	c := &crowd{T: t, Desk: d}
	for i := range 8 {
		c.parts = append(c.parts, disk(uint64(80+i), chunk.Size))
	}
	waiting := noise(3*chunk.Size, 90)
	mustAdd(t, d, "waiting", waiting)
	for _, v := range []lab.Verb{
		lab.PutStack{Stack: lab.Stack{Name: "s", Layers: []lab.Ref{{Name: "waiting"}}}}, lab.AddMachine{Name: "vm-1", Virtual: &lab.Virtual{}},
		lab.Queue{Stack: "s", Machine: "vm-1"}, lab.RemoveStack{Name: "s"},
	} {
		if _, err := d.Say(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	var writers, others sync.WaitGroup
	var collected, checked, flashed atomic.Int64
	for n := range 3 {
		writers.Go(func() { c.write(n, rounds, n == 2) })
	}
	others.Go(func() { collected.Store(c.repeat(c.collect)) })
	others.Go(func() { checked.Store(c.repeat(c.check)) })
	for range 2 {
		others.Go(func() { flashed.Add(c.repeat(c.flash)) })
	}
	writers.Wait()
	c.over.Store(true)
	others.Wait()
	if _, err := d.Collect(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	s, err := d.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range s.Versions {
		if err := d.Verify(t.Context(), v.Ref(), nil); err != nil {
			t.Error(err)
		}
	}
	wantBytes(t, d, "waiting", waiting)
	t.Logf("%d versions; %d collections, %d checks, %d flashes beside %d imports and captures", len(s.Versions), collected.Load(), checked.Load(), flashed.Load(), 3*rounds)
	if collected.Load() < 3 || checked.Load() < 3 || flashed.Load() < 3 {
		t.Error("they were not at work together")
	}
}

// repeat does something until the writers are done, and returns how often it was done.
func (c *crowd) repeat(do func(r *rand.Rand) bool) (n int64) {
	for r := rand.New(rand.NewPCG(1, 2)); !c.over.Load() && !c.Failed(); {
		if do(r) {
			n++
		}
	}
	return n
}

// write imports or captures one version after the other, and removes older ones.
func (c *crowd) write(n, rounds int, captures bool) {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	i := lab.Import{Name: fmt.Sprint("image-", n), Kind: "system", Form: lab.FormDisk}
	for round := range rounds {
		var b []byte
		for range 1 + r.IntN(5) {
			b = append(b, c.parts[r.IntN(len(c.parts))]...)
		}
		b = append(b, noise(chunk.Size/8, uint64(round*10+n))...)
		do := func() error { _, err := c.Import(c.Context(), bytes.NewReader(b), i, nil); return err }
		if captures {
			do = c.capture(i, b)
		}
		c.turn.RLock()
		err := do()
		c.turn.RUnlock()
		if err != nil {
			c.Error(err)
			return
		}
		s, err := c.Watch(c.Context(), 0)
		if err != nil {
			c.Error(err)
			return
		}
		if all := s.VersionsOf(i.Name); len(all) > 3 {
			old := all[r.IntN(len(all)-1)].Ref()
			if _, err := c.Say(c.Context(), lab.RemoveImage{Ref: old, Confirm: old.String()}); err != nil {
				c.Error(err)
			}
		}
	}
}

// capture asks what the store lacks and returns what sends that. Collections may come between the two.
func (c *crowd) capture(i lab.Import, b []byte) func() error {
	m, next := framesOf(b)
	lacking, err := c.Lacks(c.Context(), m.IDs)
	if err != nil {
		return func() error { return err }
	}
	return func() error {
		_, err := c.Keep(c.Context(), lab.Capture{Import: i}, m, func() (id chunk.ID, stored []byte, err error) {
			for {
				if id, stored, err = next(); err != nil || slices.Contains(lacking, id) {
					return id, stored, err
				}
			}
		})
		return err
	}
}

func (c *crowd) collect(*rand.Rand) bool {
	c.turn.Lock()
	done := sync.OnceFunc(c.turn.Unlock)
	defer done()
	_, err := c.State.Chunks.Collect(c.Context(), func() (map[chunk.ID]bool, error) {
		done()
		return c.referenced(c.Context())
	}, false)
	if err != nil && !errors.Is(err, lab.ErrBusy) {
		c.Error(err)
	}
	return err == nil
}

func (c *crowd) check(*rand.Rand) bool {
	got, err := c.Fsck(c.Context(), nil)
	if err != nil && !errors.Is(err, lab.ErrBusy) || len(got.Broken) > 0 {
		c.Errorf("fsck: %+v, %v", got, err)
	}
	return err == nil
}

// flash reads a version as one does who lays it somewhere. Only one that was removed meanwhile may not be had.
func (c *crowd) flash(r *rand.Rand) bool {
	ctx := c.Context()
	s, err := c.Watch(ctx, 0)
	if err != nil || len(s.Versions) == 0 {
		return false
	}
	var all []lab.Version
	for _, v := range s.Versions {
		all = append(all, v)
	}
	v := all[r.IntN(len(all))]
	if err = c.read(ctx, v); err == nil {
		return true
	}
	if now, watchErr := c.Watch(ctx, 0); watchErr != nil || now.Versions[v.Ref().String()].Root == v.Root {
		c.Errorf("%s is there and cannot be read: %v", v.Ref(), errors.Join(err, watchErr))
	}
	return false
}

func (c *crowd) read(ctx context.Context, v lab.Version) error {
	m, err := c.Manifest(ctx, v.Root, v.Bytes)
	if err != nil {
		return err
	}
	raw := make([]byte, chunk.Size)
	ids := slices.DeleteFunc(slices.Clone(m.IDs), chunk.ID.Implied)
	got, err := c.Chunks(ctx, ids, func(id chunk.ID, stored []byte) error {
		_, err := chunk.UnpackAny(raw, stored, id)
		return err
	})
	if err == nil && got != len(ids) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
