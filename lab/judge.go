package lab

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"carte/lab/chunk"
)

// Grade is how much a remark weighs.
type Grade string

const (
	GradeGood Grade = "good" // told because somebody may ask
	GradeWarn Grade = "warn" // it would start, and perhaps not do what was meant
	GradeStop Grade = "stop" // it would be refused, or could not start
)

// A Remark is one thing that was found about a stack.
type Remark struct {
	Code   string `json:"code"` // stable, for scripts: E-… for a stop, W-… for a warning, I-… for what is good
	Grade  Grade  `json:"grade"`
	Text   string `json:"text"`
	Fix    string `json:"fix,omitempty"`    // a command, or what to write
	Edited *Stack `json:"edited,omitempty"` // the stack after the fix, where it can be made without asking
}

// Judged is what can be said of a stack without touching a machine.
type Judged struct {
	Stack       string          `json:"stack"`
	Fingerprint string          `json:"fingerprint,omitempty"` // carte:7f3a-91c2-55e0; the same: the same bytes. Empty: it cannot be resolved
	OK          bool            `json:"ok"`                    // nothing stops it, on no machine in particular
	Layers      []PlanLayer     `json:"layers,omitempty"`      // resolved, those of a machine left out
	Agreed      []Agreed        `json:"agreed,omitempty"`
	Remarks     []Remark        `json:"remarks"`
	Machines    []JudgedMachine `json:"machines"` // the adopted ones, by name
}

// JudgedMachine is what can be said of a stack on one machine.
type JudgedMachine struct {
	Machine   string   `json:"machine"`
	OK        bool     `json:"ok"`
	Start     Start    `json:"start,omitempty"`
	Disk      DiskID   `json:"disk,omitzero"`        // that it would be laid on
	Needs     int64    `json:"needs_bytes"`          // of that disk
	Moves     int64    `json:"moves_bytes"`          // at the most, to make the disk equal to the stack
	Ready     float64  `json:"ready_seconds"`        // from the queue to the user's system; 0: not known yet
	ReadyFrom string   `json:"ready_from,omitempty"` // what that is taken from, in words
	Remarks   []Remark `json:"remarks"`
}

// Fingerprint is a short name for what a plan would run, on whichever machine: carte:7f3a-91c2-55e0. Equal fingerprints mean
// equal bytes: the same versions in the same places, the same kernel line, parameters, files and clauses. What joins by
// itself is the machine's, and no part of it; nor are the names of stack and images, and how its kernel is brought to start.
func (p Plan) Fingerprint() string {
	same := p
	same.Stack, same.Digest, same.Agreed, same.Layers = "", chunk.ID{}, nil, nil
	if same.Auto {
		same.Start = ""
	}
	for _, l := range p.Layers {
		if !l.Joined {
			same.Layers = append(same.Layers, PlanLayer{Form: l.Form, Root: l.Root, Bytes: l.Bytes, Place: l.Place, Back: l.Back})
		}
	}
	for _, a := range p.Agreed {
		same.Agreed = append(same.Agreed, Agreed{Clause: a.Clause, Need: a.Need, Given: a.Given})
	}
	text, err := json.Marshal(same)
	if err != nil {
		panic(fmt.Sprintf("BUG: a plan that is no JSON: %v", err))
	}
	sum := chunk.Sum(text)
	h := hex.EncodeToString(sum[:6])
	return "carte:" + h[:4] + "-" + h[4:8] + "-" + h[8:]
}

// FingerprintOf resolves a stack for no machine and says what it would run.
func (s Snapshot) FingerprintOf(st Stack) (string, error) {
	p, err := s.Plan(st, Machine{}, nil)
	if err != nil {
		return "", err
	}
	return p.Fingerprint(), nil
}

// A Look is what only the store can tell. What is nil is not asked.
type Look struct {
	// Paths lists the files of a layer as absolute paths, directories left out. An error: nothing is said of paths.
	Paths func(PlanLayer) ([]string, error)
	// Lacks counts the bytes of a version that are in none of others; false: that cannot be told.
	Lacks func(root chunk.ID, others []chunk.ID) (int64, bool)
}

// Judge says what is good, odd and impossible about a stack, which need not be written down, by itself and on every adopted
// machine. paths is as in Look.
func (s Snapshot) Judge(st Stack, paths func(PlanLayer) ([]string, error)) Judged {
	return s.JudgeBy(st, Look{Paths: paths})
}

// JudgeBy is Judge with all that the store can tell.
func (s Snapshot) JudgeBy(st Stack, look Look) Judged {
	j := &judging{Snapshot: s, st: st}
	out := Judged{Stack: st.Name, Machines: []JudgedMachine{}}
	p, ok := j.resolve()
	if ok {
		j.system(p)
		j.ends(p)
		j.kernelLine(p)
		j.versions(p)
		j.writtenBack(p)
		j.fileSystems(p)
		j.clauses(p)
		j.overlaps(p, look.Paths)
		out.Fingerprint, out.Layers = p.Fingerprint(), p.Layers
	}
	out.Agreed, out.OK, out.Remarks = j.agreed, j.ok(), j.remarks()
	if !ok {
		return out
	}
	bar := slices.IndexFunc(out.Remarks, func(r Remark) bool { return r.Grade == GradeStop })
	past := map[int64][]Boot{}
	for _, b := range s.SortedBoots() {
		past[b.Machine] = append(past[b.Machine], b)
	}
	for _, m := range s.SortedMachines() {
		if m.Standing == Adopted {
			on := s.judgeOn(st, m, past[m.ID], look)
			if bar >= 0 { // what nothing can run, no machine can
				r := out.Remarks[bar]
				on.OK, r.Code, r.Text, r.Edited = false, "E-NOWHERE", "no machine can run this stack: "+r.Text, nil
				on.Remarks = slices.Insert(on.Remarks, 0, r)
			}
			out.Machines = append(out.Machines, on)
		}
	}
	return out
}

// judging is a judgement in the making.
type judging struct {
	Snapshot
	st     Stack
	agreed []Agreed
	all    []Remark
	mends  map[string][]func(*Stack) // by the code that they mend, in the order in which they were found
}

func (j *judging) good(code, format string, args ...any) {
	j.all = append(j.all, Remark{Code: code, Grade: GradeGood, Text: fmt.Sprintf(format, args...)})
}

func (j *judging) warn(code, fix, format string, args ...any) {
	j.all = append(j.all, Remark{Code: code, Grade: GradeWarn, Fix: fix, Text: fmt.Sprintf(format, args...)})
}

func (j *judging) stop(code, fix, format string, args ...any) {
	j.all = append(j.all, Remark{Code: code, Grade: GradeStop, Fix: fix, Text: fmt.Sprintf(format, args...)})
}

// mend adds to the last remark the stack as it would be after its fix, which mends all that its code was said of.
func (j *judging) mend(change func(*Stack)) {
	last := &j.all[len(j.all)-1]
	if j.mends == nil {
		j.mends = map[string][]func(*Stack){}
	}
	j.mends[last.Code] = append(j.mends[last.Code], change)
	st := j.st
	st.Layers, st.Keep, st.Asks = slices.Clone(st.Layers), slices.Clone(st.Keep), maps.Clone(st.Asks)
	for _, change := range slices.Backward(j.mends[last.Code]) { // the last first: what takes a layer out moves those behind it
		change(&st)
	}
	if len(st.Layers) == 0 { // then one at a time
		st.Layers, st.Keep = slices.Clone(j.st.Layers), slices.Clone(j.st.Keep)
		change(&st)
	}
	for i, r := range j.all {
		if r.Code == last.Code && (r.Edited != nil || i == len(j.all)-1) {
			j.all[i].Edited = &st
		}
	}
	if st.Name != "" {
		last.Fix = fmt.Sprintf("carte stack fix %s %s", st.Name, last.Code)
	}
}

func (j *judging) ok() bool {
	return !slices.ContainsFunc(j.all, func(r Remark) bool { return r.Grade == GradeStop })
}

// remarks are what was found, what stops it first, and else in the order in which it was looked at.
func (j *judging) remarks() []Remark {
	weight := map[Grade]int{GradeStop: 0, GradeWarn: 1, GradeGood: 2}
	all := append([]Remark{}, j.all...)
	slices.SortStableFunc(all, func(a, b Remark) int { return weight[a.Grade] - weight[b.Grade] })
	return all
}
