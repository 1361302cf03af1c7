package store

import (
	"context"
	"errors"
	"fmt"

	"carte/lab"
	"carte/lab/chunk"
)

// names gives what the head has told of the names that it gets here, and refuses, before gigabytes have come, what could not be taken.
func (u *unbundle) names() error {
	take := lab.TakeStack{Versions: u.versions, Kinds: u.head.Kinds, Stack: lab.Stack{Name: u.head.Stack}}
	s, err := u.d.Lab.Watch(u.ctx, 0)
	if err != nil {
		return err
	}
	if u.renamed, err = s.Names(take, u.as); err != nil {
		return err
	}
	take = take.Under(u.renamed)
	u.versions, u.kinds = take.Versions, take.Kinds
	return u.d.Lab.Check(take.Head())
}

// take makes what came count: chunks, manifests, then versions and stack in one step.
func (u *unbundle) take() (lab.Taken, error) {
	if len(u.manifests) == 0 {
		return lab.Taken{}, fmt.Errorf("the bundle has no manifests: %w", lab.ErrDamaged)
	}
	var all []chunk.Manifest
	for _, m := range u.manifests {
		all = append(all, m)
	}
	chunks := u.d.State.Chunks
	if u.w == nil { // versions of nothing but zeros
		var err error
		if u.w, err = chunks.Writer(); err != nil {
			return lab.Taken{}, err
		}
	}
	if err := u.w.CommitManifests(all); err != nil {
		if errors.Is(err, lab.ErrInvalid) {
			err = fmt.Errorf("the bundle lacks chunks: %w: %w", err, lab.ErrDamaged)
		}
		return lab.Taken{}, err
	}
	defer func() {
		for root := range u.manifests {
			chunks.Settle(root)
		}
	}()
	u.d.step("bundle stored")
	taken, err := u.d.takeStack(u.ctx, lab.TakeStack{Versions: u.versions, Kinds: u.kinds, Stack: u.stack})
	if err != nil {
		return lab.Taken{}, err
	}
	taken.Renamed = u.renamed
	if s, err := u.d.Lab.Watch(u.ctx, 0); err == nil {
		if now, err := s.FingerprintOf(u.stack); err == nil && now != u.head.Fingerprint {
			u.d.Lab.Log(lab.Line{Source: "store", Text: fmt.Sprintf("stack %s came as %s and is %s here: kinds of this lab have other clauses", u.stack.Name, lab.Clean(u.head.Fingerprint), now)})
		}
	}
	return taken, nil
}

// takeStack says the one verb, and makes kinds that are new here lasting. They are on the disk before it, apart, and in the lab's own file after it; Open
// settles what a stop between leaves.
func (d *Desk) takeStack(ctx context.Context, v lab.TakeStack) (lab.Taken, error) {
	d.State.kinds.Lock()
	defer d.State.kinds.Unlock()
	s, err := d.Lab.Watch(ctx, 0)
	if err != nil {
		return lab.Taken{}, err
	}
	var fresh []lab.Kind
	for _, k := range v.Kinds {
		if _, err := s.KindOf(k.Name); err != nil {
			fresh = append(fresh, k)
		}
	}
	if len(fresh) > 0 {
		if s.KindsAt.Trouble != "" {
			return lab.Taken{}, fmt.Errorf("it brings kinds, and %s is to be mended first: %s: %w", s.KindsAt.File, s.KindsAt.Trouble, lab.ErrRefused)
		}
		if err := d.State.prepareKinds(fresh); err != nil {
			return lab.Taken{}, err
		}
	}
	d.step("kinds prepared")
	changed, err := d.Lab.Say(ctx, v)
	if err != nil {
		return lab.Taken{}, errors.Join(err, d.State.forgetKinds())
	}
	d.step("bundle taken")
	if len(fresh) > 0 {
		if err := d.State.placeKinds(fresh); err != nil { // the next Open does it
			d.Lab.Log(lab.Line{Source: "store", Text: fmt.Sprintf("%s could not be written (%v); it gets the new kinds at the next start", KindsName, err)})
		}
	}
	return lab.Taken{Changed: changed, Kinds: fresh}, nil
}
