package lab

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Queue puts a boot at the end of a machine's queue.
type Queue struct {
	Machine string            `json:"machine"`
	Stack   string            `json:"stack"`
	Set     map[string]string `json:"set,omitempty"` // values for the stack's parameters
	Lay     bool              `json:"lay,omitempty"` // make the disk equal to the stack, prove it, and start nothing
}

func (v Queue) decide(d *draft) error {
	m, err := d.adopted(v.Machine)
	if err != nil {
		return err
	}
	p, err := d.ResolveOn(v.Stack, m, v.Set)
	if err != nil {
		return err
	}
	if v.Lay {
		if p.Form == FormKernel {
			return fmt.Errorf("stack %s runs in memory, it lays nothing on a disk: %w", v.Stack, ErrRefused)
		}
		p.Start, p.Auto = StartLay, false
	}
	if err := errors.Join(armedFor(m, p), d.writers(m, p), d.alive(p)); err != nil {
		return err
	}
	d.enqueue(m, p)
	return nil
}

// adopted finds a machine that may be given work.
func (s Snapshot) adopted(ref string) (Machine, error) {
	m, err := s.Find(ref)
	if err == nil && m.Standing != Adopted {
		err = fmt.Errorf("%s is %s; carte machine adopt %s --name NAME comes first: %w", m.Label(), m.Standing, m.Label(), ErrRefused)
	}
	return m, err
}

// enqueue puts a boot with that plan at the end of the machine's queue.
func (d *draft) enqueue(m Machine, p Plan) {
	order := int64(0)
	for _, b := range d.Boots {
		order = max(order, b.Order)
	}
	b := Boot{ID: d.LastBoot + 1, Machine: m.ID, Plan: p, State: Queued, Order: order + 1, Climbs: []Climb{}, Metrics: map[string]Metric{}, Queued: d.at, Since: d.at}
	if p.Repair == nil {
		b.Moved.Total = p.Bytes()
	}
	d.put(b)
	d.fact(m.ID, b.ID, "boot %d: %s on %s queued", b.ID, p.Stack, m.Label())
}

// alive refuses a plan with an image whose date has come. Its bytes are there until a lab that runs removes them.
func (d *draft) alive(p Plan) error {
	if why := d.died(p); why != "" {
		return fmt.Errorf("%s: %w", why, ErrRefused)
	}
	return nil
}

// died says which image of a plan is past its date; empty: none.
func (d *draft) died(p Plan) string {
	for _, l := range p.Layers {
		im := d.Images[l.Ref.Name]
		if !im.Dies.IsZero() && !im.Dies.After(d.at) {
			return fmt.Sprintf("image %s died at %s (clause %q of kind %s)", im.Name, im.Dies.Format(time.RFC3339), ClauseLifetime, im.Kind)
		}
	}
	return ""
}

// writers refuses a second machine for an image that only one may have at a time.
func (s Snapshot) writers(m Machine, p Plan) error {
	for _, l := range p.Layers {
		k, err := s.KindOf(l.Kind)
		if err != nil {
			return err
		}
		if k.Shared {
			continue
		}
		var has Boot // the oldest, so that the same is always said
		for _, o := range s.Boots {
			if o.Machine != m.ID && !o.State.Final() && (has.ID == 0 || o.ID < has.ID) &&
				slices.ContainsFunc(o.Plan.Layers, func(x PlanLayer) bool { return x.Ref.Name == l.Ref.Name }) {
				has = o
			}
		}
		if has.ID != 0 {
			return k.broken(ClauseShared, "image %s has one machine at a time, and boot %d on %s has it", l.Ref.Name, has.ID, s.Machines[has.Machine].Label())
		}
	}
	return nil
}

// MoveBoot moves a waiting boot within its machine's queue, before another or, with Before 0, to the end; or to another
// machine's queue.
type MoveBoot struct {
	Boot    int64  `json:"boot"`
	Before  int64  `json:"before,omitempty"`
	Machine string `json:"machine,omitempty"`
}

func (v MoveBoot) decide(d *draft) error {
	b, err := d.boot(v.Boot)
	if err != nil {
		return err
	}
	if b.State != Queued {
		return fmt.Errorf("boot %d is %s, only a waiting boot moves: %w", b.ID, b.State, ErrBusy)
	}
	if v.Machine != "" {
		m, err := d.Find(v.Machine)
		if err != nil {
			return err
		}
		if m.Standing != Adopted {
			return fmt.Errorf("%s is %s: %w", m.Label(), m.Standing, ErrRefused)
		}
		if b.Plan.Capture == nil {
			err = errors.Join(armedFor(m, b.Plan), d.madeFor(b.Plan, m, d.Machines[b.Machine]), d.writers(m, b.Plan))
		} else if m.ID != b.Machine {
			err = fmt.Errorf("boot %d captures a disk of %s, which no other machine has: %w", b.ID, d.Machines[b.Machine].Label(), ErrRefused)
		}
		if err != nil {
			return err
		}
		b.Machine = m.ID
	}
	q := slices.DeleteFunc(d.QueueOf(b.Machine), func(x Boot) bool { return x.ID == b.ID })
	at := len(q)
	if v.Before != 0 {
		if at = slices.IndexFunc(q, func(x Boot) bool { return x.ID == v.Before }); at < 0 {
			return fmt.Errorf("boot %d does not wait for %s: %w", v.Before, d.Machines[b.Machine].Label(), ErrNotFound)
		}
	}
	q = slices.Insert(q, at, b)
	for i, x := range q {
		x.Order = int64(i + 1)
		d.put(x)
	}
	d.fact(b.Machine, b.ID, "boot %d moved to place %d", b.ID, at+1)
	return nil
}
