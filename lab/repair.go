package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"carte/lab/chunk"
)

// A repair is a boot in which no user's system starts: the agent opens a shell on the machine's consoles, or writes the base
// layer again. Its plan is what carte laid there last, so that the agent may have those bytes and knows their places; nothing is
// written unless somebody asks for it, and then the base alone. It ends when the person at the console says so.

// A PlanRepair says what a repair does by itself.
type PlanRepair struct {
	Base bool `json:"reflash_base,omitempty"` // write the base layer again, and ask nobody
}

// QueueRepair puts a repair at the end of a machine's queue.
type QueueRepair struct {
	Machine string `json:"machine"`
	Base    bool   `json:"reflash_base,omitempty"`
}

// A Typist is a desk that reaches the keyboards of machines: the serial lines of those that run under QEMU.
type Typist interface {
	// Type writes keys to a machine's serial console. lab.ErrUnreachable: it is off, or no virtual machine.
	Type(ctx context.Context, machine string, keys []byte) error
}

func (v QueueRepair) decide(d *draft) error {
	m, err := d.adopted(v.Machine)
	if err != nil {
		return err
	}
	p, err := d.planRepair(m, v)
	if err != nil {
		return err
	}
	d.enqueue(m, p)
	return nil
}

// planRepair makes the plan of what lies on the machine's disk one that starts nothing.
func (s Snapshot) planRepair(m Machine, v QueueRepair) (p Plan, err error) {
	p, laid := s.laid(m)
	if v.Base {
		switch {
		case !laid:
			return p, fmt.Errorf("carte knows of no tree on a disk of %s, so there is no base to write again; carte boot STACK --on %s lays one: %w", m.Label(), m.Label(), ErrRefused)
		default:
			err = armedFor(m, p)
		}
		if err != nil {
			return p, err
		}
	}
	p.Stack, p.Start, p.Auto, p.Until, p.Agreed, p.Repair = "repair", StartRepair, false, RungHandover, nil, &PlanRepair{v.Base}
	p.Digest = chunk.ID{}
	text, err := json.Marshal(p)
	if err != nil {
		return p, err
	}
	p.Digest = chunk.Sum(text)
	return p, nil
}

// laid finds the plan of the tree that lies on a disk of the machine, of which every version is still there; without one, a
// plan of nothing.
func (s Snapshot) laid(m Machine) (Plan, bool) {
	h, ok := m.lastHeld(nil, PlanCapture{})
	for _, b := range slices.Backward(s.SortedBoots()) {
		p := b.Plan
		if !ok || b.Machine != m.ID || p.Form != FormTree || p.Capture != nil || len(p.Layers) == 0 || p.Layers[0].Root != h.Root {
			continue
		}
		if !slices.ContainsFunc(p.Layers, func(l PlanLayer) bool { return s.Versions[l.Ref.String()].Root != l.Root }) {
			return p, true
		}
	}
	return Plan{Form: FormDisk}, false
}

// repairDisk is the disk that a repair may write, if it is asked to; none where the guard refuses, unless writing is all that the
// repair is for.
func (s Snapshot) repairDisk(m Machine, p Plan) (Disk, error) {
	disk, err := guard(m, m.Inventory.Disks, p)
	if err != nil && !p.Repair.Base {
		return Disk{}, nil
	}
	return disk, err
}

// repairOrders fills in the orders of a repair.
func (s Snapshot) repairOrders(m Machine, b Boot, o Orders) Orders {
	o.Do, o.Boot, o.Stack, o.Disk, o.Form, o.Start = DoRepair, b.ID, b.Plan.Stack, b.Disk, b.Plan.Form, b.Plan.Start
	o.Reflash = b.Plan.Repair.Base
	if !b.Disk.Named() {
		return o
	}
	if o.Writes = b.Plan.writes(); len(o.Writes) == 0 {
		o.Tail = s.TailOn(m, b.Disk)
		return o
	}
	o.Tail, _ = TailFor(b.Disk.Bytes, m.tail(), b.Plan.need()) // as when it was laid
	o.Reset, o.Compose.Scratch = ResetAlways, b.Plan.scratch(b.Disk.Bytes, o.Tail)
	return o
}

// repaired is what a disk holds whose base a repair writes: what lies over it is where it was.
func (m Machine) repaired(h Holding) Holding {
	h.Over = nil
	if i := slices.IndexFunc(m.Holds, func(x Holding) bool { return x.Is(h.DiskID) }); i >= 0 && m.Holds[i].Root == h.Root {
		h.Over, h.Absent = m.Holds[i].Over, m.Holds[i].Absent
	}
	return h
}
