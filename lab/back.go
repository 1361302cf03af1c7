package lab

import (
	"fmt"
	"slices"
)

// WroteBack makes what a running boot changed in an image, and what is already in the store, its next version: both that and
// the boot's record, or neither. Of AddVersion, Image, Root, Bytes, Content, Stored and what was found inside are the
// caller's; the rest is the image's. What the boot wrote back before may be hidden by it, what others wrote may not.
type WroteBack struct {
	AddVersion
	Boot int64
}

func (v WroteBack) decide(d *draft) error {
	b, err := d.boot(v.Boot)
	if err != nil {
		return err
	}
	if b.State != Running {
		return fmt.Errorf("boot %d is %s, and writes nothing back: %w", b.ID, b.State, ErrDenied)
	}
	l, err := d.MayWriteBack(b, v.Image)
	if err != nil {
		return err
	}
	im, add := d.Images[l.Ref.Name], v.AddVersion
	add.Kind, add.Form, add.Owner, add.Back, add.Parent, add.Number = im.Kind, im.Form, im.Owner, true, b.wroteOf(l).Version, 0
	add.Author = d.Machines[b.Machine].Label()
	add.Message = or(add.Message, fmt.Sprintf("written back by boot %d (%s)", b.ID, b.Plan.Stack))
	was := im.Latest
	if err := add.decide(d); err != nil {
		return err
	}
	if now := d.Images[im.Name]; now.Latest != was {
		b.Wrote = append(slices.Clone(b.Wrote), Ref{im.Name, now.Latest})
		d.put(b)
		return d.follow(b, d.Versions[Ref{im.Name, now.Latest}.String()])
	}
	return nil
}

// follow gives the boots that wait behind one on its machine what that has just written back, where their stacks float on
// the image: they would change an older version otherwise, and could not write it back.
func (d *draft) follow(b Boot, v Version) (err error) {
	for _, next := range d.QueueOf(b.Machine) {
		i := slices.IndexFunc(next.Plan.Layers, func(l PlanLayer) bool {
			return l.Ref.Name == v.Image && l.Floats && l.Back && l.Ref.Version < v.Number
		})
		if i < 0 || next.Plan.Repair != nil || next.wroteOf(next.Plan.Layers[i]) != next.Plan.Layers[i].Ref {
			continue
		}
		next.Plan.Layers = slices.Clone(next.Plan.Layers)
		l := &next.Plan.Layers[i]
		was := l.Ref
		l.Ref, l.Root, l.Bytes = v.Ref(), v.Root, v.Bytes
		next.Plan.Agreed = slices.Clone(next.Plan.Agreed)
		for j, a := range next.Plan.Agreed { // the same clauses, of another version
			next.Plan.Agreed[j].By = slices.Clone(a.By)
			if at := slices.Index(a.By, was); at >= 0 {
				next.Plan.Agreed[j].By[at] = l.Ref
			}
		}
		if next.Plan.Digest, err = next.Plan.digest(); err != nil {
			return err
		}
		next.Moved.Total = next.Plan.Bytes()
		d.put(next)
		d.fact(next.Machine, next.ID, "boot %d takes %s, which boot %d wrote back", next.ID, v.Ref(), b.ID)
	}
	return nil
}

// wroteOf is the version of a layer that the boot has now: the one it was given, or what it wrote back of it last.
func (b Boot) wroteOf(l PlanLayer) Ref {
	last := l.Ref
	for _, r := range b.Wrote {
		if r.Name == l.Ref.Name {
			last = r
		}
	}
	return last
}
