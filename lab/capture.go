package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"carte/lab/chunk"
)

// A capture is a boot that makes what lies on its machine's disk the next version of an image. The agent only reads, so no
// disk need be armed. It is done when the version is there, in one decision; until then nobody sees anything of it, and
// what went wrong is tried again as with any boot.

// A PlanCapture says what a boot makes a version of.
type PlanCapture struct {
	Image   string `json:"image"`
	Kind    string `json:"kind"`
	Disk    DiskID `json:"disk,omitzero"`  // that was asked for; none: the one that carte wrote last, or the only one
	Base    int    `json:"base,omitempty"` // version that was asked for; 0: what the disk holds, if that is one of the image
	Message string `json:"message,omitempty"`
	Author  string `json:"author,omitempty"`
}

// QueueCapture puts a capture at the end of a machine's queue. Kind and Form are for a new image; empty they are those of
// what the disk holds.
type QueueCapture struct {
	Machine string `json:"machine"`
	Image   string `json:"image"`
	Disk    string `json:"disk,omitempty"` // serial number, WWN, or the path that the inventory shows
	Base    int    `json:"base,omitempty"`
	Kind    string `json:"kind,omitempty"`
	Form    Form   `json:"form,omitempty"`
	Message string `json:"message,omitempty"`
	Author  string `json:"author,omitempty"`
}

func (v QueueCapture) decide(d *draft) error {
	m, err := d.adopted(v.Machine)
	if err != nil {
		return err
	}
	p, err := d.planCapture(m, v)
	if err != nil {
		return err
	}
	d.enqueue(m, p)
	return nil
}

// planCapture refuses what could not become a version, and what can be known now of a disk that cannot be read.
func (s Snapshot) planCapture(m Machine, v QueueCapture) (p Plan, err error) {
	c := PlanCapture{Image: v.Image, Base: v.Base, Message: Clean(v.Message), Author: Clean(v.Author)}
	if err := checkName("image", v.Image); err != nil {
		return p, err
	}
	if v.Disk != "" {
		if c.Disk, err = m.diskCalled(v.Disk); err != nil {
			return p, err
		}
	}
	ref, writes := s.expected(m, c)
	if !writes && m.Inventory != nil {
		if _, err := m.source(m.Inventory.Disks, c); err != nil {
			return p, err
		}
	}
	im, have := s.Images[v.Image]
	like := im
	if !have {
		like = s.Images[ref.Name]
	}
	c.Kind, p.Form = or(v.Kind, or(like.Kind, "system")), or(v.Form, or(like.Form, FormDisk))
	if err := (AddVersion{Version: Version{Image: c.Image, Root: chunk.Free, Bytes: 1, Parent: v.Base}, Kind: c.Kind, Form: p.Form}).decide(&draft{Snapshot: s}); err != nil {
		return p, err
	}
	if p.Form != FormDisk && p.Form != FormTree {
		return p, fmt.Errorf("image %s has the form %s; a machine's disk is captured as a disk or a tree: %w", c.Image, p.Form, ErrRefused)
	}
	p.Stack, p.Start, p.Until, p.Capture = "capture "+c.Image, StartCapture, RungFetch, &c
	text, err := json.Marshal(p)
	if err != nil {
		return p, err
	}
	p.Digest = chunk.Sum(text)
	return p, nil
}

// diskCalled finds a disk by a name that a person gave.
func (m Machine) diskCalled(name string) (DiskID, error) {
	if m.Virtual != nil && name == m.Virtual.Serial {
		return DiskID{Serial: m.Virtual.Serial, Bytes: m.Virtual.DiskBytes}, nil
	}
	if m.Inventory == nil {
		return DiskID{}, fmt.Errorf("nobody has seen the disks of %s yet; turn it on once, the agent looks and writes nothing: %w", m.Label(), ErrRefused)
	}
	var found []Disk
	for _, x := range m.Inventory.Disks {
		if name != "" && slices.Contains([]string{x.Serial, x.WWN, x.Path}, name) {
			found = append(found, x)
		}
	}
	switch {
	case len(found) == 0:
		return DiskID{}, fmt.Errorf("disk %q of %s: %w%s", name, m.Label(), ErrNotFound, diskHint(m.Inventory))
	case len(found) > 1:
		return DiskID{}, fmt.Errorf("%d disks of %s are called %s (%s and %s); none can be told from the other: %w", len(found), m.Label(), name, found[0].Path, found[1].Path, ErrRefused)
	case !found[0].Named():
		return DiskID{}, fmt.Errorf("%s of %s has neither serial number nor WWN, it could not be told from another disk: %w", found[0].Path, m.Label(), ErrRefused)
	}
	return found[0].DiskID, nil
}

// expected is the version that the disk will hold when a capture that is queued now begins, as far as carte can know. writes
// says that a boot which is not over yet will lay it there.
func (s Snapshot) expected(m Machine, c PlanCapture) (ref Ref, writes bool) {
	q := s.QueueOf(m.ID)
	if b, ok := s.Active(m.ID); ok {
		q = append([]Boot{b}, q...)
	}
	for _, b := range slices.Backward(q) {
		if len(b.Plan.Layers) > 0 {
			return b.Plan.Layers[0].Ref, true
		}
	}
	if h, ok := m.lastHeld(nil, c); ok {
		return h.Ref, false
	}
	return Ref{}, false
}

// lastHeld is what carte wrote last to the disk that a capture is of; to one of disks, where there are any.
func (m Machine) lastHeld(disks []Disk, c PlanCapture) (last Holding, ok bool) {
	for _, h := range m.Holds {
		there := len(disks) == 0 || slices.ContainsFunc(disks, func(d Disk) bool { return d.Is(h.DiskID) })
		if there && (!c.Disk.Named() || h.Is(c.Disk)) && (!ok || h.At.After(last.At)) {
			last, ok = h, true
		}
	}
	return last, ok
}

// source chooses the one disk that a capture reads. Every refusal is a sentence that says what there is.
func (m Machine) source(disks []Disk, c PlanCapture) (Disk, error) {
	refuse := func(format string, args ...any) (Disk, error) {
		return Disk{}, fmt.Errorf("%s: %s; no version was made: %w", m.Label(), fmt.Sprintf(format, args...), ErrRefused)
	}
	want := c.Disk
	held, isHeld := m.lastHeld(disks, c)
	if !isHeld { // what was written is gone: whatever else is there is not it
		held, isHeld = m.lastHeld(nil, c)
	}
	if !want.Named() && isHeld {
		want = held.DiskID
	}
	var found []Disk
	for _, d := range disks {
		if want.Named() && d.Is(want) || !want.Named() && !d.Removable {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 0 && want.Named():
		return refuse("disk %s is not there%s", want, diskHint(&Inventory{Disks: disks}))
	case len(found) == 0:
		return refuse("it has no disk that is not removable")
	case len(found) > 1 && want.Named():
		return refuse("%s and %s are both %s", found[0].Path, found[1].Path, want)
	case len(found) > 1:
		return refuse("it has %d disks and carte wrote to none of them; carte capture %s --machine %s --disk SERIAL names one%s", len(found), c.Image, m.Label(), diskHint(&Inventory{Disks: found}))
	case !found[0].Named():
		return refuse("%s has neither serial number nor WWN, it could not be told from another disk", found[0].Path)
	case isHeld && held.Dirty && held.Is(found[0].DiskID):
		return refuse("%s was being written to disk %s and was never proven there, so the disk holds a mixture; boot %s first", held.Ref, held.DiskID, held.Ref)
	}
	return found[0], nil
}

// baseOf is the version that a capture is compared with, and laid out as: the one that was asked for, else what carte
// wrote to the disk; none when neither is there any more. own says that it is a version of the same image.
func (s Snapshot) baseOf(m Machine, b Boot) (v Version, own, ok bool) {
	c := b.Plan.Capture
	if c.Base != 0 {
		v, ok = s.Versions[Ref{c.Image, c.Base}.String()]
		return v, true, ok
	}
	if h, held := m.lastHeld(nil, PlanCapture{Disk: b.Disk}); held && b.Disk.Named() {
		if v, ok = s.Versions[h.Ref.String()]; ok && v.Root == h.Root {
			return v, v.Image == c.Image, true
		}
	}
	return Version{}, false, false
}

// captureOrders fills in the orders of a capture.
func (s Snapshot) captureOrders(m Machine, b Boot, o Orders) Orders {
	o.Do, o.Boot, o.Stack, o.Disk, o.Form, o.Start = DoCapture, b.ID, b.Plan.Stack, b.Disk, b.Plan.Form, b.Plan.Start
	o.Base.Offset = b.Plan.Form.offset()
	if v, _, ok := s.baseOf(m, b); ok {
		o.Base = Write{Ref: v.Ref(), Root: v.Root, Offset: o.Base.Offset, Bytes: v.Bytes}
	}
	if _, ok := m.lastHeld(nil, PlanCapture{Disk: b.Disk}); ok {
		o.Tail = s.TailOn(m, b.Disk)
	}
	return o
}

// Capturing returns the boot for which an agent's key gives the right to send chunks: a capture that it works on, or one
// that it has just ended.
func (l *Lab) Capturing(ctx context.Context, key string) (Boot, error) {
	s, m, err := l.keyed(ctx, key)
	if err != nil {
		return Boot{}, err
	}
	b, ok := s.Boots[m.Ticket.Boot]
	if !ok || b.Plan.Capture == nil || b.State != Working && b.State != Done {
		return Boot{}, fmt.Errorf("%s has no capture that it works on: %w", m.Label(), ErrDenied)
	}
	return b, nil
}

// Captured makes what an agent has sent, and what is already in the store, a version, and ends its boot: both or neither.
// Of AddVersion, Root, Bytes, Content, Stored and what was found inside are the caller's; the rest is the boot's. When the
// disk is as its base or the newest version is, no version is made, and the boot names that one. A boot that has ended so
// stays as it is.
type Captured struct {
	AddVersion
	Boot int64
}

func (v Captured) decide(d *draft) error {
	b, err := d.boot(v.Boot)
	switch {
	case err != nil:
		return err
	case b.State == Done && b.Captured.Version != 0:
		return nil
	case b.Plan.Capture == nil || b.State != Working:
		return fmt.Errorf("boot %d is %s and captures nothing: %w", b.ID, b.State, ErrDenied)
	}
	m, c, add := d.Machines[b.Machine], b.Plan.Capture, v.AddVersion
	base, own, ok := d.baseOf(m, b)
	add.Image, add.Kind, add.Form, add.Message, add.Author, add.Parent = c.Image, c.Kind, b.Plan.Form, c.Message, c.Author, 0
	if ok && own {
		add.Parent = base.Number
	}
	if b.Same = ok && own && base.Root == add.Root; b.Same {
		b.Captured = base.Ref()
	} else {
		was := d.Images[c.Image].Latest
		if err := add.decide(d); err != nil {
			return err
		}
		newest, err := d.Snapshot.Version(Ref{Name: c.Image})
		if err != nil {
			return err
		}
		b.Captured, b.Same = newest.Ref(), d.Images[c.Image].Latest == was
	}
	live := d.live(m.ID)
	b.Moved.Total = add.Bytes
	b.Moved.Sent, b.Moved.Read = max(b.Moved.Sent, live.Moved.Sent), max(b.Moved.Read, live.Moved.Read)
	live.Progress = Progress{}
	d.put(live)
	if b.Same {
		d.move(b, Done, fmt.Sprintf("%s has these bytes already", b.Captured))
	} else {
		grown := ""
		if ok && add.Bytes > base.Bytes {
			grown = fmt.Sprintf("; it has %s, its base %s has %s: it needs a disk as large", Bytes(add.Bytes), base.Ref(), Bytes(base.Bytes))
		}
		d.move(b, Done, fmt.Sprintf("made %s of %s: %s%s", b.Captured, m.Label(), cmp.Or(Clean(v.Found), Bytes(add.Bytes)), grown))
	}
	return nil
}

// isOver says that a ticket's boot is done and started nothing, so that its agent is idle: after a capture its machine goes on, and
// after a disk was laid the agent waits for what comes next.
func (s Snapshot) isOver(t Ticket) bool {
	b := s.Boots[t.Boot]
	return b.State == Done && (b.Plan.Capture != nil || b.Plan.Start == StartLay)
}
