package store

import (
	"context"
	"fmt"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/ext4"
)

// Judge checks a stack, by itself and for every adopted machine. What lies in its layers is listed once, and remembered.
func (d *Desk) Judge(ctx context.Context, st lab.Stack) (lab.Judged, error) {
	s, err := d.Lab.Watch(ctx, 0)
	if err != nil {
		return lab.Judged{}, err
	}
	j := s.JudgeBy(st, lab.Look{
		Paths: func(l lab.PlanLayer) ([]string, error) { return d.paths(ctx, l) },
		Lacks: d.lacks(),
	})
	return j, ctx.Err()
}

// lacks compares versions by their manifests. Machines that hold the same are compared once.
func (d *Desk) lacks() func(root chunk.ID, others []chunk.ID) (int64, bool) {
	type answer struct {
		bytes int64
		ok    bool
	}
	known := map[string]answer{}
	return func(root chunk.ID, others []chunk.ID) (int64, bool) {
		key := fmt.Sprint(root, others)
		a, done := known[key]
		if !done {
			a.bytes, a.ok = d.lacking(root, others)
			known[key] = a
		}
		return a.bytes, a.ok
	}
}

func (d *Desk) lacking(root chunk.ID, others []chunk.ID) (n int64, ok bool) {
	m, err := d.State.Chunks.Manifest(root)
	if err != nil {
		return 0, false
	}
	have := map[chunk.ID]bool{}
	for _, o := range others {
		other, err := d.State.Chunks.Manifest(o)
		if err != nil {
			continue // a version that was removed: what is left of it on a disk is not looked for
		}
		for _, id := range other.IDs {
			have[id] = true
		}
	}
	for i, id := range m.IDs {
		if !id.Implied() && !have[id] {
			n, have[id] = n+int64(m.Len(i)), true
		}
	}
	return n, true
}

// listings is how many layers' files are remembered: some MB each.
const listings = 24

// listed remembers what files lie in a version, by its root.
type listed struct {
	once  sync.Once
	roots *lru.Cache[chunk.ID, []string]
}

func (l *listed) cache() *lru.Cache[chunk.ID, []string] {
	l.once.Do(func() {
		var err error
		if l.roots, err = lru.New[chunk.ID, []string](listings); err != nil {
			panic(fmt.Sprintf("BUG: %v", err))
		}
	})
	return l.roots
}

// mostListed is how many files of a layer are looked at.
const mostListed = 2_000_000

// paths lists the files of a layer, directories left out, as absolute paths.
func (d *Desk) paths(ctx context.Context, l lab.PlanLayer) (all []string, err error) {
	if all, ok := d.listed.cache().Get(l.Root); ok {
		return all, nil
	}
	r, err := d.State.Chunks.Reader(l.Root)
	if err != nil {
		return nil, err
	}
	fs, err := ext4.Open(r, l.Bytes)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", l.Ref, err)
	}
	err = fs.Walk(func(path string, mode uint32, _ int64) error {
		const kind, folder = 0o170000, 0o040000
		if mode&kind != folder {
			all = append(all, path)
		}
		if len(all) > mostListed {
			return fmt.Errorf("it has more than %d files: %w", mostListed, lab.ErrRefused)
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", l.Ref, err)
	}
	d.listed.cache().Add(l.Root, all)
	return all, nil
}
