package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"carte/lab"
)

// syncDoc is how a machine stands to a stack.
type syncDoc struct {
	Machine string    `json:"machine"`
	Proven  bool      `json:"proven"`
	Boot    int64     `json:"boot,omitempty"` // that lays what it lacks
	Why     string    `json:"why,omitempty"`  // it is not proven
	Roots   []rootDoc `json:"roots"`          // what its disk has, where carte has proven that
}

type rootDoc struct {
	Ref  lab.Ref `json:"ref"`
	Root string  `json:"root"`
	Has  bool    `json:"has"`
}

// syncStack makes the disks of machines equal to a stack.
func (c *call) syncStack(ctx context.Context, name string, machines []string, all bool, wait waiting) error {
	switch {
	case all == (len(machines) > 0):
		return fmt.Errorf("which machines are to have stack %s? either their names or --all: %w", name, lab.ErrInvalid)
	case wait.goal != "" && wait.goal != string(lab.Done):
		return fmt.Errorf("--wait %q: a sync ends when its boots are done, there is nothing else to wait for: %w", wait.goal, lab.ErrInvalid)
	}
	if err := wait.check(); err != nil {
		return err
	}
	do := seeing(ctx, func(d desk, s lab.Snapshot) error { return c.sync(ctx, d, s, name, machines, wait) })
	if wait.goal != "" { // before anything is queued: without a lab it would wait for ever
		return c.live(do)
	}
	return c.with(ctx, do)
}

func (c *call) sync(ctx context.Context, d desk, s lab.Snapshot, name string, machines []string, wait waiting) error {
	if p, err := s.Resolve(name); err != nil {
		return err
	} else if p.Form == lab.FormKernel {
		return fmt.Errorf("stack %s runs in memory, and lays nothing on a disk: %w", name, lab.ErrRefused)
	}
	who, err := toSync(s, machines)
	if err != nil {
		return err
	}
	docs, late := []syncDoc{}, 0
	for _, m := range who {
		docs = append(docs, c.syncOne(ctx, d, s, m, name))
	}
	if wait.goal != "" {
		ctx, cancel := within(ctx, wait.most)
		defer cancel()
		if late, err = c.awaitLaid(ctx, d, docs, name); err != nil {
			return err
		}
	}
	if err := c.show(syncList(docs)); err != nil {
		return err
	}
	if late > 0 {
		return fmt.Errorf("stack %s: %s not over after %s; what was queued goes on: %w", name, isAre(late, "boot"), wait.most, context.DeadlineExceeded)
	}
	var bad []string
	for _, x := range docs {
		if !x.Proven && (x.Boot == 0 || wait.goal != "") {
			bad = append(bad, x.Machine)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("stack %s is not proven on %s: %w", name, strings.Join(bad, ", "), lab.ErrRefused)
	}
	return nil
}

// toSync are the machines that are named, or every adopted one.
func toSync(s lab.Snapshot, names []string) (all []lab.Machine, err error) {
	for _, n := range names {
		m, err := s.Find(n)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(all, func(x lab.Machine) bool { return x.ID == m.ID }) {
			all = append(all, m)
		}
	}
	for _, m := range s.SortedMachines() {
		if len(names) == 0 && m.Standing == lab.Adopted {
			all = append(all, m)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no machine is adopted yet; carte machine add or carte machine adopt comes first: %w", lab.ErrNotFound)
	}
	return all, nil
}

// syncOne queues a boot that lays, where a machine lacks something, and none of the same plan waits or goes on.
func (c *call) syncOne(ctx context.Context, d desk, s lab.Snapshot, m lab.Machine, name string) syncDoc {
	x := standing(s, m, name)
	if x.Proven || x.Why != "" {
		return x
	}
	p, err := s.ResolveOn(name, m, nil)
	if err != nil {
		x.Why = words(err)
		return x
	}
	for _, b := range s.SortedBoots() {
		if b.Machine == m.ID && !b.State.Final() && b.Plan.Start == lab.StartLay && sameLayers(b.Plan, p) {
			x.Boot, x.Why = b.ID, "boot "+fmt.Sprint(b.ID)+" lays it"
			return x
		}
	}
	b, _, err := queueBoot(ctx, d, lab.Queue{Machine: m.Label(), Stack: name, Lay: true})
	if err != nil {
		x.Why = words(err)
		return x
	}
	x.Boot, x.Why = b.ID, "boot "+fmt.Sprint(b.ID)+" lays it"
	return x
}

func sameLayers(a, b lab.Plan) bool {
	return slices.EqualFunc(a.Layers, b.Layers, func(x, y lab.PlanLayer) bool { return x.Root == y.Root })
}

// standing says which roots of a stack a machine's disk has, as carte has proven them.
func standing(s lab.Snapshot, m lab.Machine, name string) syncDoc {
	x := syncDoc{Machine: m.Label(), Roots: []rootDoc{}}
	p, err := s.ResolveOn(name, m, nil)
	if err != nil {
		x.Why = words(err)
		return x
	}
	best := -1
	places, _ := p.Places()
	for _, h := range m.Holds {
		if roots, n := rootsOn(h, p, places); !h.Dirty && n > best {
			best, x.Roots = n, roots
		}
	}
	if best < 0 {
		x.Roots, _ = rootsOn(lab.Holding{}, p, places)
	}
	x.Proven = best == len(p.Layers)
	return x
}

// rootsOn compares what a disk holds with a plan, and counts what is there.
func rootsOn(h lab.Holding, p lab.Plan, places []int64) (all []rootDoc, n int) {
	for i, l := range p.Layers {
		has := i == 0 && h.Root == l.Root || i > 0 && slices.ContainsFunc(h.Over, func(o lab.Held) bool { return o.Root == l.Root && o.Offset == places[i] })
		all = append(all, rootDoc{l.Ref, l.Root.String(), has})
		n += btoi(has)
	}
	return all, n
}

// tellAgain is how often somebody who waits is told how it stands although nothing has changed.
const tellAgain = 15 * time.Second

// awaitLaid waits until the boots are over, and looks again at each machine. It tells how each stands, and returns how many were
// not over when the time was.
func (c *call) awaitLaid(ctx context.Context, d desk, docs []syncDoc, name string) (late int, err error) {
	told := map[int64]string{}
	over := map[int]bool{}
	var s lab.Snapshot
	for {
		look, stop := context.WithTimeout(ctx, tellAgain)
		next, err := c.watch(look, d, s.Rev)
		stop()
		switch {
		case err == nil:
			s = next
		case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			clear(told) // and all is told once more
		case errors.Is(err, context.DeadlineExceeded):
			return c.lateOnes(docs, over, s), nil
		default:
			return 0, &kept{err, "what was queued goes on"}
		}
		open := 0
		for i, x := range docs {
			b := s.Boots[x.Boot]
			switch {
			case over[i]:
			case x.Boot == 0 || b.State.Final():
				over[i] = true
				if x.Boot != 0 {
					docs[i] = laid(s, b, name)
					c.tell(told, x, or(docs[i].Why, "proven"), 0)
				}
			default:
				open++
				c.tell(told, x, "boot "+fmt.Sprint(b.ID)+" is "+howItStands(s, b), c.term.Now().Sub(b.Since))
			}
		}
		if open == 0 {
			return 0, nil
		}
	}
}

// tell says how a machine stands, where that is new.
func (c *call) tell(told map[int64]string, x syncDoc, words string, since time.Duration) {
	if !c.term.Progress || told[x.Boot] == words {
		return
	}
	told[x.Boot] = words
	if since >= time.Second {
		words += ", for " + took(since.Seconds())
	}
	c.note("%s  %s", x.Machine, words)
}

// lateOnes notes in docs how the boots stand that are not over.
func (c *call) lateOnes(docs []syncDoc, over map[int]bool, s lab.Snapshot) (late int) {
	for i, x := range docs {
		if b, ok := s.Boots[x.Boot]; ok && !over[i] {
			late++
			docs[i].Why = fmt.Sprintf("boot %d is %s, for %s", b.ID, howItStands(s, b), took(c.term.Now().Sub(b.Since).Seconds()))
		}
	}
	return late
}

// howItStands is where a boot is that is not over, and what it waits for.
func howItStands(s lab.Snapshot, b lab.Boot) string {
	why := s.Why(b)
	if m := s.Machines[b.Machine]; b.State == lab.Starting && b.Rung() == "" {
		if why = s.Live[b.Machine].Note; why == "" && m.Virtual == nil && (m.Power.Driver == "" || m.Power.Driver == "manual") {
			why = "turn " + m.Label() + " on, or restart it"
		}
	}
	return whereIs(b) + optional("; ", why)
}

// laid is how a machine stands after the boot that was to lay a stack.
func laid(s lab.Snapshot, b lab.Boot, name string) syncDoc {
	x := standing(s, s.Machines[b.Machine], name)
	x.Boot = b.ID
	switch {
	case b.State == lab.Failed:
		e := &ended{b: b}
		e.cause, e.fix = b.Cause(s.Machines[b.Machine])
		x.Why = e.Error()
	case b.State != lab.Done:
		x.Why = (&ended{b: b}).Error()
	case !x.Proven:
		x.Why = fmt.Sprintf("boot %d is done, and the disk is not known to be equal", b.ID)
	}
	return x
}

func isAre(n int, what string) string {
	if n == 1 {
		return "1 " + what + " is"
	}
	return fmt.Sprintf("%d %ss are", n, what)
}

func syncList(docs []syncDoc) list {
	l := list{head: []string{"MACHINE", "STATE", "ROOTS"}, doc: struct {
		Machines []syncDoc `json:"machines"`
	}{docs}}
	for _, x := range docs {
		l.names = append(l.names, x.Machine)
		var roots []string
		for _, r := range x.Roots {
			word := r.Ref.String() + " " + r.Root[:12]
			if !r.Has {
				word = r.Ref.String() + " lacking"
			}
			roots = append(roots, word)
		}
		state := "proven"
		if !x.Proven {
			state = or(x.Why, "lacks something")
		}
		l.rows = append(l.rows, []string{x.Machine, strings.ReplaceAll(state, "\n", "; "), strings.Join(roots, ", ")})
	}
	return l
}
