package tui

import (
	"cmp"
	"slices"
	"time"

	"carte/lab"
)

// An index answers in no time what a frame asks of a snapshot many times. It is made once for a snapshot.
type index struct {
	snap   lab.Snapshot
	active map[int64]lab.Boot   // by machine
	last   map[int64]lab.Boot   // the newest boot of a machine that is not waiting
	queue  map[int64][]lab.Boot // what waits for a machine, next first
	busy   []lab.Boot           // all active boots, oldest first
	waits  []lab.Boot           // all boots that wait, in the order of the queue

	why map[int64]string // why a boot waits, as far as it was asked

	past  map[pair][]int64 // boots that went well, oldest first
	mark  [2]int64         // newest boot and number of boots that are over: past is the same while this is
	usual map[pair]usual
}

type pair struct {
	machine int64
	stack   string
}

// newIndex makes the index of a snapshot, and takes over from the one before what did not change.
func newIndex(s lab.Snapshot, old *index) *index {
	x := &index{snap: s, active: map[int64]lab.Boot{}, last: map[int64]lab.Boot{}, queue: map[int64][]lab.Boot{}, why: map[int64]string{}}
	var over int64
	for id, b := range s.Boots {
		switch {
		case b.State == lab.Queued:
			x.waits = append(x.waits, b)
			continue
		case b.State.Final():
			over++
		default:
			x.active[b.Machine] = b
			x.busy = append(x.busy, b)
		}
		if id >= x.last[b.Machine].ID {
			x.last[b.Machine] = b
		}
	}
	slices.SortFunc(x.busy, func(a, b lab.Boot) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(x.waits, func(a, b lab.Boot) int { return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.ID, b.ID)) })
	for _, b := range x.waits {
		x.queue[b.Machine] = append(x.queue[b.Machine], b)
	}
	x.mark = [2]int64{s.LastBoot, over}
	if old != nil && old.mark == x.mark {
		x.past, x.usual = old.past, old.usual
		return x
	}
	x.past, x.usual = map[pair][]int64{}, map[pair]usual{}
	for id, b := range s.Boots {
		if b.State == lab.Done {
			k := pair{b.Machine, b.Plan.Stack}
			x.past[k] = append(x.past[k], id)
		}
	}
	for _, ids := range x.past {
		slices.Sort(ids)
	}
	return x
}

// usualOf is what boots of that stack on that machine usually take.
func (x *index) usualOf(machine int64, stack string) usual {
	k := pair{machine, stack}
	u, ok := x.usual[k]
	if !ok {
		u = usualOf(x.boots(k, usualBoots))
		x.usual[k] = u
	}
	return u
}

// boots returns the newest boots of a stack on a machine that went well, oldest first.
func (x *index) boots(k pair, most int) (boots []lab.Boot) {
	ids := x.past[k]
	for _, id := range ids[max(0, len(ids)-most):] {
		if b, ok := x.snap.Boots[id]; ok {
			boots = append(boots, b)
		}
	}
	return boots
}

// alertOf says what a machine needs a person for, by the lab's rule.
func (x *index) alertOf(m lab.Machine, now time.Time) (lab.Alert, bool) {
	b := x.last[m.ID]
	return x.snap.AlertOf(m, b, len(x.queue[m.ID]) > 0, x.usualOf(m.ID, b.Plan.Stack).slowest, now)
}

// left guesses when everything that waits and runs will be over. ok is false where there is too little past to say.
func (x *index) left(now time.Time) (longest time.Duration, ok bool) {
	ok = true
	for id := range x.snap.Machines {
		var sum time.Duration
		if b, busy := x.active[id]; busy {
			u := x.usualOf(id, b.Plan.Stack)
			ok = ok && u.n >= fewBoots
			sum += max(0, u.total-now.Sub(began(b)))
		}
		for _, b := range x.queue[id] {
			u := x.usualOf(id, b.Plan.Stack)
			ok = ok && u.n >= fewBoots
			sum += u.total
		}
		longest = max(longest, sum)
	}
	return longest, ok && longest > 0
}

// reason says why a boot waits.
func (x *index) reason(b lab.Boot) string {
	why, ok := x.why[b.ID]
	if !ok {
		why = x.snap.Why(b)
		x.why[b.ID] = why
	}
	return why
}

// newestOf is the machine's active boot, else its newest.
func (x *index) newestOf(machine int64) lab.Boot {
	if b, ok := x.active[machine]; ok {
		return b
	}
	b := x.last[machine]
	if q := x.queue[machine]; len(q) > 0 && q[len(q)-1].ID > b.ID {
		for _, w := range q {
			if w.ID > b.ID {
				b = w
			}
		}
	}
	return b
}

// A slot is when a boot is expected to start and to be over, from now.
type slot struct {
	start, end time.Duration
	known      bool
}

// slots expects when everything that runs or waits will start and be over.
func (x *index) slots(now time.Time) map[int64]slot {
	all := map[int64]slot{}
	for id := range x.snap.Machines {
		at, known := time.Duration(0), true
		line := x.queue[id]
		if b, busy := x.active[id]; busy {
			u := x.usualOf(id, b.Plan.Stack)
			known = u.n >= fewBoots && b.State != lab.Running
			at = max(0, u.total-now.Sub(began(b)))
			all[b.ID] = slot{0, at, known}
		}
		for _, b := range line {
			u := x.usualOf(id, b.Plan.Stack)
			start := slot{at, at + u.total, known}
			at += u.total
			known = known && u.n >= fewBoots
			start.known = known
			all[b.ID] = start
		}
	}
	return all
}
