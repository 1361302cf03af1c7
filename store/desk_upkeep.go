package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"carte/lab"
	"carte/lab/chunk"
)

// Collect frees what no version, and no boot that is not over, refers to.
func (d *Desk) Collect(ctx context.Context, dry bool) (lab.Collected, error) {
	got, err := d.State.Chunks.Collect(ctx, func() (map[chunk.ID]bool, error) { return d.referenced(ctx) }, dry)
	if !dry && got.Bytes > 0 {
		d.Lab.Log(lab.Line{Source: "store", Text: fmt.Sprintf("gc: %d manifests and %d chunks removed, %s freed", got.Manifests, got.Chunks, lab.Bytes(got.Bytes))})
	}
	if err == nil && !dry {
		err = errors.Join(d.dropOuts(ctx), d.State.keepReserve())
	}
	s, watchErr := d.Lab.Watch(ctx, 0)
	for _, b := range s.Outs() {
		got.Results += b.OutBytes()
	}
	return got, errors.Join(err, watchErr)
}

// referenced are the roots that must stay.
func (d *Desk) referenced(ctx context.Context) (map[chunk.ID]bool, error) {
	s, err := d.Lab.Watch(ctx, 0)
	if err != nil {
		return nil, err
	}
	roots := map[chunk.ID]bool{}
	for _, v := range s.Versions {
		roots[v.Root] = true
	}
	for _, b := range s.Boots {
		if b.State.Final() {
			continue
		}
		for _, l := range b.Plan.Layers {
			roots[l.Root] = true
		}
	}
	return roots, nil
}

// Fsck hashes every chunk in the store again.
func (d *Desk) Fsck(ctx context.Context, progress func(done, of int64)) (lab.Fscked, error) {
	var s lab.Snapshot
	got, err := d.State.Chunks.Fsck(ctx, func() (all []lab.Version, err error) {
		s, err = d.Lab.Watch(ctx, 0)
		return slices.SortedFunc(maps.Values(s.Versions), func(a, b lab.Version) int {
			return cmp.Or(cmp.Compare(a.Image, b.Image), cmp.Compare(a.Number, b.Number))
		}), err
	}, progress)
	if err != nil {
		return got, err
	}
	var lost []chunk.ID
	for _, b := range got.Broken {
		if b.What == "chunk" && len(b.Versions) > 0 {
			lost = append(lost, b.ID)
		}
	}
	d.Lab.Want(lost)
	switch {
	case len(lost) == 0:
	case d.Still:
		got.Notes = append(got.Notes, "machines may still have what is lost; run carte fsck beside a lab that runs (carte serve) and they are asked for it")
	case len(s.Machines) > 0:
		got.Asked = len(lost)
	}
	return got, nil
}

// Mend stores what machines give of what is lost. Each chunk is hashed before it counts; one that is not what its name promises is passed over.
func (d *Desk) Mend(next func() (chunk.ID, []byte, error)) error {
	mended, err := d.State.Chunks.Mend(next)
	if len(mended) > 0 {
		d.Lab.Unwant(mended)
		d.Lab.Log(lab.Line{Source: "store", Text: fmt.Sprintf("%d chunks that were damaged or missing came back from a machine", len(mended))})
	}
	return err
}
