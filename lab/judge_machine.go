package lab

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"carte/lab/chunk"
)

// judgeOn says what is to be said of a stack on one machine, whose boots so far are past, oldest first.
func (s Snapshot) judgeOn(st Stack, m Machine, past []Boot, look Look) JudgedMachine {
	j := &judging{Snapshot: s, st: st}
	out := JudgedMachine{Machine: m.Label()}
	p, err := s.Plan(st, m, nil)
	if err == nil {
		if err = s.writers(m, p); err != nil {
			j.stop("E-SHARED", "carte boot stop, or wait for it", "%s", reason(err))
		}
		out.Start, out.Needs = p.Start, p.Bytes()
		j.joined(m, p)
		j.hardware(m, p)
		out.Disk = j.disk(m, p)
		out.Moves = s.moves(m, p, out.Disk, look)
		out.Ready, out.ReadyFrom = ready(p, past, out.Moves)
		j.good("I-MOVES", "%s", movesWords(p, out))
	} else {
		code := "E-PLAN"
		if strings.Contains(err.Error(), fmt.Sprintf("clause %q", ClauseJoins)) {
			code = "E-JOINS"
		}
		j.stop(code, j.edit("mend what is named"), "%s", reason(err))
	}
	if m.Parked != "" {
		j.warn("W-PARKED", fmt.Sprintf("carte machine set %s parked=no", m.Label()), "%s is parked: %s", m.Label(), m.Parked)
	}
	out.OK, out.Remarks = j.ok(), j.remarks()
	return out
}

// joined tells what the machine adds by itself.
func (j *judging) joined(m Machine, p Plan) {
	if own := j.ownedBy(m); len(own) > 0 && p.Form != FormTree {
		j.good("I-JOINS", "%s stays out: it can only lie over a tree", own[0].Name)
	}
	for _, l := range p.Layers[len(j.st.Layers):] {
		j.good("I-JOINS", "%s joins by itself: it is the machine's own", l.Ref)
	}
}

// hardware holds the stack against the machine's processor and firmware, and what is known of its way to start kernels.
func (j *judging) hardware(m Machine, p Plan) {
	for _, l := range p.Layers {
		in := j.Versions[l.Ref.String()].Inside
		if in.Arch != "" && in.Arch != m.Arch() {
			j.stop("E-ARCH", "boot it on another machine", "%s is for %s, and %s is %s", l.Ref, in.Arch, m.Label(), m.Arch())
		}
		if fw := m.Firmware(); fw != "" && len(in.Firmware) > 0 && !slices.Contains(in.Firmware, fw) && (l.Form == FormDisk || p.Start == StartMemory) {
			j.stop("E-FIRMWARE", "boot it on another machine, or switch the firmware's mode", "%s starts by %v, and %s has %s", l.Ref, in.Firmware[0], m.Label(), fw)
		}
	}
	if _, own := p.Kernel(); own && p.Form == FormTree {
		switch {
		case m.Kexec.Failed != "" && p.Start == StartKexec:
			j.warn("W-KEXEC", j.edit("leave start out: the server then loads the kernel"), "%s could not replace its kernel before: %s", m.Label(), m.Kexec.Failed)
			j.mend(func(st *Stack) { st.Start = "" })
		case m.Kexec.Failed != "":
			j.good("I-KEXEC", "the server loads its kernel: %s could not replace its own: %s", m.Label(), m.Kexec.Failed)
		case p.Start == StartKexec && !m.Kexec.Proven.IsZero():
			j.good("I-KEXEC", "starts by kexec, which %s has been seen to do", m.Label())
		case p.Start == StartKexec:
			j.good("I-KEXEC", "kexec is tried first; %s has not been seen to do it yet", m.Label())
		}
	}
	if d, need := m.memory(), j.inMemory(p); d > 0 && need > d/2 {
		j.warn("W-MEMORY", "boot it on a machine with more memory", "%s has %s of memory, and %s are loaded into it", m.Label(), Bytes(d), Bytes(need))
	}
}

// memory is how much the machine has, in bytes; 0: not known.
func (m Machine) memory() int64 {
	switch {
	case m.Inventory != nil && m.Inventory.MemoryBytes > 0:
		return m.Inventory.MemoryBytes
	case m.Virtual != nil:
		return m.Virtual.MemoryBytes
	}
	return 0
}

// inMemory is what iPXE would load of a plan that runs in memory.
func (j *judging) inMemory(p Plan) int64 {
	if p.Start != StartMemory {
		return 0
	}
	return j.Versions[p.Layers[0].Ref.String()].Content
}

// disk finds the armed disk that the stack would be laid on, as the guard will, and says what it has no room for.
func (j *judging) disk(m Machine, p Plan) DiskID {
	if p.Start == StartMemory {
		return DiskID{}
	}
	if err := armedFor(m, p); err != nil {
		switch small := p; {
		case len(m.Arms) == 0:
			j.stop("E-DISK", fmt.Sprintf("carte machine arm %s --disk SERIAL", m.Label()), "%s", reason(err))
		case p.Upper == UpperDisk:
			small.Upper = UpperMemory
			if armedFor(m, small) != nil {
				j.stop("E-ROOM", fmt.Sprintf("carte machine set %s tail=none, or a larger disk", m.Label()), "%s", reason(err))
				break
			}
			j.stop("E-ROOM", j.edit(`upper = "memory"`), "%s", reason(err))
			j.mend(func(st *Stack) { st.Upper = UpperMemory })
		default:
			j.stop("E-ROOM", fmt.Sprintf("carte machine set %s tail=none, or a larger disk", m.Label()), "%s", reason(err))
		}
		return DiskID{}
	}
	for _, a := range m.Arms {
		there := m.Inventory == nil || slices.ContainsFunc(m.Inventory.Disks, func(d Disk) bool { return d.Is(a.DiskID) })
		if !there || m.roomFor(p, a.DiskID) != nil {
			continue
		}
		tail, _ := TailFor(a.Bytes, m.tail(), p.need())
		j.good("I-DISK", "disk %s is armed; the stack takes %s of it, and carte keeps %s at its end", a.DiskID, Bytes(p.Bytes()), Bytes(tail.Bytes))
		if sc := p.scratch(a.Bytes, tail); sc.Bytes > 0 {
			j.good("I-SCRATCH", "its changes have %s on that disk", Bytes(sc.Bytes))
		}
		return a.DiskID
	}
	j.warn("W-DISK", fmt.Sprintf("carte machine show %s", m.Label()), "the disk that is armed was not there when the agent last looked%s", diskHint(m.Inventory))
	return DiskID{}
}

// moves is how much has to be moved at the most for a disk to be equal to a plan, in bytes before packing: of every layer
// that was not proven to lie there, what is in no version that was; all of its content, where nobody can tell.
func (s Snapshot) moves(m Machine, p Plan, disk DiskID, look Look) (n int64) {
	at, _ := p.Places()
	var held Holding
	var roots []chunk.ID
	for _, h := range m.Holds {
		if h.Is(disk) && !h.Dirty {
			held, roots = h, []chunk.ID{h.Root}
			for _, o := range h.Over {
				roots = append(roots, o.Root)
			}
		}
	}
	for i, l := range p.Layers {
		there := i == 0 && held.Root == l.Root || slices.ContainsFunc(held.Over, func(h Held) bool { return h.Root == l.Root && h.Offset == at[i] })
		if there && p.Start != StartMemory {
			continue
		}
		v := s.Versions[l.Ref.String()]
		if look.Lacks != nil && p.Start != StartMemory && len(roots) > 0 {
			if lacks, ok := look.Lacks(l.Root, roots); ok {
				n += lacks
				continue
			}
		}
		n += cmp.Or(v.Content, v.Bytes)
	}
	if held.Root == p.Layers[0].Root { // lazy layers that were still to come
		n += held.Absent
	}
	return n
}

func movesWords(p Plan, out JudgedMachine) string {
	text := "nothing to move: all of it lies there"
	switch {
	case p.Start == StartMemory:
		text = Bytes(out.Moves) + " are loaded at every boot"
	case out.Moves > 0:
		text = "at most " + Bytes(out.Moves) + " to move"
	}
	if out.Ready == 0 {
		return text + "; how long it takes is not known yet"
	}
	return fmt.Sprintf("%s; ready after about %s (%s)", text, roughly(out.Ready), out.ReadyFrom)
}

// roughly is a time that nobody knows to the last digit.
func roughly(seconds float64) time.Duration {
	d := time.Duration(seconds * float64(time.Second))
	if d >= 10*time.Second {
		return d.Round(time.Second)
	}
	return d.Round(100 * time.Millisecond)
}

// rateFrom is how many bytes a boot must have written for its speed to be one: of fewer, the waiting is most of the time.
const rateFrom = 16 << 20

// ready says how long the machine will take until the stack's system runs, in seconds, and what that is taken from: the
// median of the same stack's boots here that wrote about as much; else what boots take here without their writing, and
// what is to be moved at the speed of those that wrote enough to have one. Nothing is known before the first, nor how long
// much takes where only little was ever written.
func ready(p Plan, past []Boot, moves int64) (seconds float64, from string) {
	var same, other []float64 // seconds
	var rates []float64       // bytes a second
	for _, b := range past {
		total, writing, ok := b.took()
		if !ok || b.Plan.Form != p.Form {
			continue
		}
		if b.Plan.Stack == p.Stack && alike(b.Moved.Written, moves) {
			same = append(same, total)
		}
		other = append(other, total-writing)
		if b.Moved.Written >= rateFrom && writing > 0 {
			rates = append(rates, float64(b.Moved.Written)/writing)
		}
	}
	switch {
	case len(same) > 0:
		return median(same), fmt.Sprintf("as its %s here took", boots(len(same)))
	case len(other) > 0 && moves == 0:
		return median(other), fmt.Sprintf("as %s here took, without what they wrote", boots(len(other)))
	case len(other) > 0 && len(rates) > 0:
		rate := median(rates)
		return median(other) + float64(moves)/rate, fmt.Sprintf("as %s here took, and the bytes at %s/s, which %s had", boots(len(other)), Bytes(int64(rate)), boots(len(rates)))
	case len(other) > 0 && moves < rateFrom:
		return median(other), fmt.Sprintf("as %s here took, and so little adds next to nothing", boots(len(other)))
	}
	return 0, ""
}

// alike says that a boot which wrote so many bytes tells how long one takes that has so many to move: both next to nothing,
// or neither twice the other.
func alike(wrote, moves int64) bool {
	if moves == 0 || wrote == 0 {
		return wrote == moves
	}
	return max(wrote, moves) < rateFrom || max(wrote, moves) <= 2*min(wrote, moves)
}

func boots(n int) string {
	if n == 1 {
		return "one boot"
	}
	return fmt.Sprintf("%d boots", n)
}

// took is how long the boot's last attempt took until its system ran, and how much of that went into fetching, writing and
// reading back, in seconds. Of a boot from before there was the rung prepare, reading back is not told from what followed it,
// and is not counted.
func (b Boot) took() (total, writing float64, ok bool) {
	at := map[Rung]time.Time{}
	for _, c := range b.Climbed() {
		if !c.Inferred {
			at[c.Rung] = c.At
		}
	}
	run := at[RungRun]
	if run.IsZero() && b.Plan.Until == RungHandover && b.State == Done {
		run = at[RungHandover]
	}
	if run.IsZero() || b.Begun.IsZero() {
		return 0, 0, false
	}
	first := func(all ...Rung) time.Time {
		for _, r := range all {
			if !at[r].IsZero() {
				return at[r]
			}
		}
		return time.Time{}
	}
	from, to := first(RungFetch, RungWrite), first(RungPrepare, RungVerify, RungHandover)
	if !from.IsZero() && !to.IsZero() {
		writing = to.Sub(from).Seconds()
	}
	return run.Sub(b.Begun).Seconds(), writing, true
}

func median(all []float64) float64 {
	slices.Sort(all)
	if n := len(all); n%2 == 0 {
		return (all[n/2-1] + all[n/2]) / 2
	}
	return all[len(all)/2]
}
