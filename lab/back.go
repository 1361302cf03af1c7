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
