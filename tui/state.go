package tui

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"carte/lab"
	"carte/tui/cell"
)

// A condition is what a machine is like, in the order in which machines need a person.
type condition int

const (
	lost condition = iota
	failed
	stuck
	unknown
	writing
	booting
	running
	idle
	ignored
	conditions
)

// short are the words for counts of machines in the first line, and their marks. Idle machines are not counted there.
var short = [conditions]struct {
	word string
	mark cell.Mark
}{
	lost:    {"lost", cell.Warn},
	failed:  {"failed", cell.Failed},
	stuck:   {"stuck", cell.Warn},
	unknown: {"new", cell.Unknown},
	writing: {"write", cell.Writing},
	booting: {"boot", cell.Booting},
	running: {"run", cell.Running},
	idle:    {"idle", cell.Idle},
	ignored: {"ignored", cell.Absent},
}

// A status is a machine in words.
type status struct {
	cond condition
	mark cell.Mark
	word string
	now  string        // what it is busy with
	why  string        // why it failed
	done float64       // of the rung or the boot it is on, 0 to 1; negative: nothing to measure
	left time.Duration // until that is done; negative: nobody knows
	rate float64       // bytes per second onto the disk
	step lab.Step      // what it is stuck on
}

// stateOf says what a machine is like at a moment. It is a pure function of the snapshot.
func stateOf(x *index, m lab.Machine, now time.Time) status {
	live := x.snap.Live[m.ID]
	switch m.Standing {
	case lab.Unknown:
		text := "asked to boot"
		if live.Asked > 1 {
			text = fmt.Sprintf("asked to boot %d times", live.Asked)
		}
		return status{cond: unknown, mark: cell.Unknown, word: "unknown", now: text, done: -1, left: -1}
	case lab.Ignored:
		return status{cond: ignored, mark: cell.Absent, word: "ignored", done: -1, left: -1}
	}
	if b, busy := x.active[m.ID]; busy {
		return busyWith(x, m, b, live, now)
	}
	return atRest(x, m, live)
}

// busyWith is the state of a machine with an active boot.
func busyWith(x *index, m lab.Machine, b lab.Boot, live lab.Live, now time.Time) status {
	st := status{now: fmt.Sprintf("%s boot %d", b.Plan.Stack, b.ID), done: -1, left: -1}
	if b.Attempt > 1 {
		st.now += fmt.Sprintf(", attempt %d", b.Attempt)
	}
	u := x.usualOf(m.ID, b.Plan.Stack)
	switch b.State {
	case lab.Working:
		st.cond, st.mark, st.word = writing, cell.Writing, workWord(b)
		if p := live.Progress; p.Of > 0 {
			st.done, st.rate = float64(p.Done)/float64(p.Of), p.Rate
			if left := p.Left(); left > 0 {
				st.left = left
			}
		}
	case lab.Running:
		st.cond, st.mark, st.word = running, cell.Running, "running"
		if metric, ok := newest(b); ok {
			st.now += "  " + metric
		}
	default:
		st.cond, st.mark, st.word = booting, cell.Booting, bootWord(b)
		st.done = climbed(b)
	}
	if st.done < 0 || st.cond == booting {
		onItsWay(&st, b, u, now)
	}
	if a, _ := x.alertOf(m, now); a.Sort == lab.AlertLost {
		st.cond, st.mark, st.word, st.left, st.rate = lost, cell.Warn, "LOST", -1, 0
	} else if a.Sort == lab.AlertStuck {
		st.cond, st.mark, st.word, st.step, st.left = stuck, cell.Warn, "stuck", a.Step, -1
	}
	if b.Revoke != "" {
		st.word = "stopping"
	}
	return st
}

// onItsWay measures a boot against its own past.
func onItsWay(st *status, b lab.Boot, u usual, now time.Time) {
	if u.n < fewBoots || u.total <= 0 || b.State == lab.Running {
		return
	}
	gone := now.Sub(began(b))
	st.done = min(float64(gone)/float64(u.total), 0.99)
	st.left = max(u.total-gone, 0)
}

// climbed is how much of the ladder a boot has behind it.
func climbed(b lab.Boot) float64 {
	behind, all := 0, -1 // the last rung is reached by what is over
	for _, s := range lab.Ladder {
		if s.Rung == lab.RungPrepare && !b.Plan.Start.Prepared() {
			continue
		}
		if all++; b.Rung() != "" && b.Rung().Reached(s.Rung) {
			behind++
		}
	}
	return float64(behind) / float64(all)
}

func workWord(b lab.Boot) string {
	switch b.Rung() {
	case lab.RungHash:
		return "hashing"
	case lab.RungFetch, lab.RungWrite:
		if b.Plan.Capture != nil {
			return "sending"
		}
		return "writing"
	case lab.RungVerify:
		return "verify"
	case lab.RungPrepare:
		return "prepare"
	}
	return "probing"
}

func bootWord(b lab.Boot) string {
	switch r := b.Rung(); {
	case r == "":
		return "waking"
	case b.State == lab.Starting && !r.Reached(lab.RungInitrd):
		return "pxe"
	}
	return "booting"
}

// newest is the metric that a boot reported last.
func newest(b lab.Boot) (string, bool) {
	var last lab.Metric
	for _, m := range b.Metrics {
		if m.At.After(last.At) || m.At.Equal(last.At) && m.Name > last.Name {
			last = m
		}
	}
	return fmt.Sprintf("%s=%s", last.Name, quantity(last)), last.Name != ""
}

// quantity writes a metric's value with its unit: bytes and seconds as a person reads them, other numbers without a tail
// of zeros and with their thousands apart.
func quantity(x lab.Metric) string {
	v := math.Abs(x.Value)
	switch {
	case (x.Unit == "B" || x.Unit == "B/s") && x.Value >= 0 && v < 1e18:
		return lab.Bytes(int64(x.Value)) + strings.TrimPrefix(x.Unit, "B")
	case x.Unit == "s" && v > 0 && v < 1e-3:
		return fmt.Sprintf("%.3g us", x.Value*1e6)
	case x.Unit == "s" && v > 0 && v < 1:
		return fmt.Sprintf("%.3g ms", x.Value*1e3)
	}
	text := fmt.Sprintf("%.4g", x.Value)
	if x.Value == math.Trunc(x.Value) && v < 1e15 {
		text = thousands(int(x.Value))
	}
	if unit, ok := strings.CutPrefix(x.Unit, "1/"); ok {
		return text + "/" + unit
	}
	return strings.TrimSpace(text + " " + x.Unit)
}

// thousands writes a number with its thousands apart from 10 000 on.
func thousands(n int) string {
	digits := strconv.Itoa(n)
	first := 0
	if n < 0 {
		first = 1
	}
	if len(digits)-first < 5 {
		return digits
	}
	for i := len(digits) - 3; i > first; i -= 3 {
		digits = digits[:i] + " " + digits[i:]
	}
	return digits
}

// atRest is the state of a machine without an active boot.
func atRest(x *index, m lab.Machine, live lab.Live) status {
	st := status{cond: idle, mark: cell.Idle, word: "idle", done: -1, left: -1}
	if live.Power == "off" {
		st.word = "off"
	}
	b, booted := x.last[m.ID]
	what := fmt.Sprintf("%s boot %d", b.Plan.Stack, b.ID)
	switch {
	case m.Parked != "":
		st.cond, st.mark, st.word, st.now, st.why = failed, cell.Failed, "parked", what, m.Parked
	case len(x.queue[m.ID]) > 0:
		st.cond, st.mark, st.word = booting, cell.Booting, "waking"
		st.now = fmt.Sprintf("%s boot %d is next", x.queue[m.ID][0].Plan.Stack, x.queue[m.ID][0].ID)
	case !booted:
	case b.State == lab.Failed:
		st.cond, st.mark, st.word, st.now, st.why = failed, cell.Failed, "failed", what, b.Reason
	case b.State == lab.Done && live.Power != "off":
		st.mark, st.word, st.now = cell.Done, "done", what
	case b.State == lab.Done || b.State == lab.Revoked:
		st.now = what + " " + string(b.State)
	}
	return st
}

// A row of the machines list.
type machineRow struct {
	lab.Machine
	status
	live lab.Live
}

// machineRows returns all machines, those that need a person first.
func machineRows(x *index, now time.Time) []machineRow {
	rows := make([]machineRow, 0, len(x.snap.Machines))
	for _, m := range x.snap.Machines {
		rows = append(rows, machineRow{m, stateOf(x, m, now), x.snap.Live[m.ID]})
	}
	slices.SortFunc(rows, func(a, b machineRow) int {
		return cmp.Or(cmp.Compare(a.cond, b.cond), cmp.Compare(a.label(), b.label()), cmp.Compare(a.ID, b.ID))
	})
	return rows
}

// label is the machine's name, or the end of its address while it has none: the beginning is the vendor's and the same
// for all of its cards.
func (r machineRow) label() string {
	if r.Name == "" && len(r.MACs) > 0 && len(r.MACs[0]) == 17 {
		return "…" + string(r.MACs[0][9:])
	}
	return r.Label()
}

// kind says what the machine is made of.
func (r machineRow) kind() string {
	switch {
	case r.Virtual != nil:
		return "qemu"
	case r.Standing == lab.Unknown:
		return "new"
	}
	return "metal"
}
