package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"carte/lab"
	"carte/lab/text"
)

// showStack shows a stack in one of its forms: what it would be, its text, or a picture.
func (c *call) showStack(s lab.Snapshot, name string, toml bool, diagram string) error {
	p, err := s.Resolve(name)
	st, there := s.Stacks[name]
	switch {
	case !there:
		return err
	case toml && (diagram != "" || c.json):
		return fmt.Errorf("one of --toml, --diagram and --json: %w", lab.ErrInvalid)
	case toml: // also of a stack whose images are gone
		_, err := c.term.Out.Write(text.Stack(st))
		return err
	case err != nil:
		return err
	case diagram != "":
		return c.drawStack(p, diagram)
	}
	rows := [][]string{
		{"name", name}, {"form", string(p.Form)}, {"starts", startWords(st, p)}, {"needs", lab.Bytes(p.Bytes()) + " of disk"},
		{"fingerprint", p.Fingerprint()}, {"plan", p.Digest.String()[:12]}, {"note", st.Note},
	}
	for i, l := range p.Layers {
		said := "joins by itself"
		if i < len(st.Layers) {
			said = st.Layers[i].String()
		}
		rows = append(rows, []string{"layer", fmt.Sprintf("%s, just now %s (%s)%s", said, l.Ref, layerKind(l), placeWords(l))})
	}
	rows = append(rows, []string{"cmdline", p.Cmdline})
	for _, k := range sortedKeys(p.Params) {
		rows = append(rows, []string{"parameter", k + " = " + p.Params[k]})
	}
	if p.Form == lab.FormTree {
		rows = append(rows, []string{"changes", "go to " + string(p.Upper)}, []string{"proven", resetWords[p.Reset]})
	}
	for _, f := range st.Files {
		rows = append(rows, []string{"file", fmt.Sprintf("%s, %s", f.Path, lab.Bytes(int64(len(f.Text))))})
	}
	for _, a := range p.Agreed {
		rows = append(rows, []string{string(a.Clause), agreedWords(a)})
	}
	return c.show(list{doc: stackOf(s, st), names: []string{name}, rows: filled(rows)})
}

// filled leaves out rows that say nothing.
func filled(rows [][]string) (all [][]string) {
	for _, r := range rows {
		if r[1] != "" {
			all = append(all, r)
		}
	}
	return all
}

func layerKind(l lab.PlanLayer) string {
	if l.Form == lab.FormKernel {
		return l.Kind + ", kernel"
	}
	return l.Kind
}

// placeWords says where files lie, and what becomes of changes in them.
func placeWords(l lab.PlanLayer) (words string) {
	if l.Place != "" {
		words = " at " + l.Place
	}
	if l.Back {
		words += ", its changes are written back"
	}
	return words
}

func startWords(st lab.Stack, p lab.Plan) string {
	if st.Start == "" && p.Form == lab.FormTree {
		return fmt.Sprintf("%s, or what the machine can", p.Start)
	}
	return string(p.Start)
}

var resetWords = map[lab.Reset]string{
	lab.ResetAlways: "every byte, before every boot", lab.ResetSampled: "one chunk in sixteen before a boot, at most 64, others every time", lab.ResetTrust: "nothing that carte has laid and proven before",
}

// agreedWords says what became of a clause.
func agreedWords(a lab.Agreed) string {
	by := make([]string, len(a.By))
	for i, r := range a.By {
		by[i] = r.String()
	}
	switch {
	case a.Given && len(by) > 0:
		return fmt.Sprintf("given by %s (%s)", strings.Join(by, ", "), a.Need)
	case a.Given:
		return fmt.Sprintf("given (%s)", a.Need)
	}
	return "not given: " + a.Why
}

// stackNamed returns the stack of a command that takes a name or a text.
func (c *call) stackNamed(ctx context.Context, s lab.Snapshot, args []string, from string) (lab.Stack, error) {
	switch {
	case from != "":
		st, _, err := c.stackText(ctx, from)
		if len(args) > 0 {
			st.Name = args[0]
		}
		return st, err
	case len(args) == 0:
		return lab.Stack{}, fmt.Errorf("which stack? its name, or -f FILE: %w", lab.ErrInvalid)
	}
	st, ok := s.Stacks[args[0]]
	if !ok {
		_, err := s.Resolve(args[0])
		return st, err
	}
	return st, nil
}

// withStack calls do with that stack.
func (c *call) withStack(ctx context.Context, args []string, from string, do func(desk, lab.Snapshot, lab.Stack) error) error {
	return c.with(ctx, seeing(ctx, func(d desk, s lab.Snapshot) error {
		st, err := c.stackNamed(ctx, s, args, from)
		if err != nil {
			return err
		}
		return do(d, s, st)
	}))
}

// checkStack checks a stack, and fails where a machine would refuse it.
func (c *call) checkStack(ctx context.Context, args []string, from, machine string) error {
	return c.withStack(ctx, args, from, func(d desk, s lab.Snapshot, st lab.Stack) error {
		if st.Name == "" { // a text that is only looked at needs none
			st.Name = "unnamed"
		}
		j, err := d.Judge(ctx, st)
		if err != nil {
			return err
		}
		if from != "" {
			mendText(st, j.Remarks)
			for _, m := range j.Machines {
				mendText(st, m.Remarks)
			}
		}
		if machine != "" {
			m, err := s.Find(machine)
			if err != nil {
				return err
			}
			j.Machines = only(j.Machines, m.Label())
		}
		if err := c.show(c.judgedList(j)); err != nil {
			return err
		}
		return refusedBy(j)
	})
}

// mendText lets remarks on a text that is not the lab's say which lines to write, in place of commands that change a stack.
func mendText(st lab.Stack, all []lab.Remark) {
	was := strings.Split(string(text.Stack(st)), "\n")
	for i, r := range all {
		switch {
		case r.Edited != nil:
			var lines []string
			for _, l := range strings.Split(string(text.Stack(*r.Edited)), "\n") {
				if strings.TrimSpace(l) != "" && !slices.Contains(was, l) {
					lines = append(lines, strings.TrimSpace(l))
				}
			}
			all[i].Fix = "write in the text: " + strings.Join(lines, "; ")
			if len(lines) == 0 {
				all[i].Fix = "take out of the text what it names"
			}
		case strings.Contains(r.Fix, "carte stack edit ") || strings.Contains(r.Fix, "carte stack fix "):
			all[i].Fix = "edit the text"
		}
	}
}

func only(all []lab.JudgedMachine, name string) []lab.JudgedMachine {
	kept := []lab.JudgedMachine{}
	for _, m := range all {
		if m.Machine == name {
			kept = append(kept, m)
		}
	}
	return kept
}

// refusedBy is the error of a stack that could not be booted.
func refusedBy(j lab.Judged) error {
	var bad []string
	for _, m := range j.Machines {
		if !m.OK {
			bad = append(bad, m.Machine)
		}
	}
	switch {
	case !j.OK:
		return fmt.Errorf("stack %s cannot be booted: %w", j.Stack, lab.ErrRefused)
	case len(bad) > 0:
		return fmt.Errorf("stack %s would be refused on %s: %w", j.Stack, strings.Join(bad, ", "), lab.ErrRefused)
	}
	return nil
}

var gradeMarks = map[lab.Grade]string{lab.GradeGood: "ok", lab.GradeWarn: "warn", lab.GradeStop: "STOP"}

// judgedList is a check as a table: first of the stack, then of each machine.
func (c *call) judgedList(j lab.Judged) list {
	l := list{doc: j, head: []string{"", "WHERE", "WHAT", "WHAT TO DO", "CODE"}}
	for _, r := range j.Remarks {
		l.rows = append(l.rows, []string{gradeMarks[r.Grade], or(j.Stack, "stack"), r.Text, r.Fix, r.Code})
	}
	for _, m := range j.Machines {
		mark := "ok"
		if !m.OK {
			mark = "STOP"
		} else if j.OK {
			l.names = append(l.names, m.Machine)
		}
		l.rows = append(l.rows, []string{mark, m.Machine, judgedWords(m), "", ""})
		for _, r := range m.Remarks {
			l.rows = append(l.rows, []string{gradeMarks[r.Grade], m.Machine, r.Text, r.Fix, r.Code})
		}
	}
	if j.Fingerprint != "" {
		l.rows = append(l.rows, []string{"", or(j.Stack, "stack"), "fingerprint " + j.Fingerprint, "", ""})
	}
	return l
}

// judgedWords says what a boot would come to on a machine. What the remarks say is left to them.
func judgedWords(m lab.JudgedMachine) string {
	if !m.OK {
		return "cannot run it"
	}
	text := "can run it"
	if m.Start != "" {
		text += ", starts by " + string(m.Start)
	}
	for _, r := range m.Remarks {
		if r.Code == "I-MOVES" {
			return text
		}
	}
	if text += fmt.Sprintf(", moves at most %s", lab.Bytes(m.Moves)); m.Ready > 0 {
		return text + ", ready in " + took(m.Ready) + " (" + m.ReadyFrom + ")"
	}
	return text + ", how long it takes is not known yet"
}

// fixStack makes the change that a remark of a check offers.
func (c *call) fixStack(ctx context.Context, name, code string) error {
	return c.withStack(ctx, []string{name}, "", func(d desk, s lab.Snapshot, st lab.Stack) error {
		j, err := d.Judge(ctx, st)
		if err != nil {
			return err
		}
		fix, err := fixOf(j, code)
		if err != nil {
			return err
		}
		changed := differences(s, st, *fix)
		if _, s, err = d.say(ctx, lab.PutStack{Stack: *fix, Edit: true}); err != nil {
			return err
		}
		doc := struct {
			stackDoc
			Changed []differDoc `json:"changed"` // a: what it was, b: what it is
		}{stackOf(s, s.Stacks[name]), changed}
		return c.show(list{doc: doc, names: []string{name}, rows: [][]string{{name, fmt.Sprint(fix.Layers), changeWords(changed)}}})
	})
}

// changeWords says what became of a stack.
func changeWords(all []differDoc) string {
	var words []string
	for _, x := range all {
		switch {
		case x.B == "":
			words = append(words, fmt.Sprintf("%s taken out (was %s)", x.What, x.A))
		case x.A == "":
			words = append(words, fmt.Sprintf("%s is now %s", x.What, x.B))
		default:
			words = append(words, fmt.Sprintf("%s is now %s (was %s)", x.What, x.B, x.A))
		}
	}
	return strings.Join(words, "; ")
}

// fixOf returns the stack after the fix of all remarks with that code.
func fixOf(j lab.Judged, code string) (*lab.Stack, error) {
	all := j.Remarks
	for _, m := range j.Machines {
		all = append(all[:len(all):len(all)], m.Remarks...)
	}
	said := false
	var codes []string
	for _, r := range all {
		if r.Code == code && r.Edited != nil {
			return r.Edited, nil
		}
		said = said || r.Code == code
		if r.Edited != nil && !slices.Contains(codes, r.Code) {
			codes = append(codes, r.Code)
		}
	}
	switch {
	case said:
		return nil, fmt.Errorf("%s of stack %s needs a person; carte stack check %s says what to do: %w", code, j.Stack, j.Stack, lab.ErrRefused)
	case len(codes) == 0:
		return nil, fmt.Errorf("%s: the check of stack %s does not say it, and nothing in it can be mended by itself: %w", code, j.Stack, lab.ErrNotFound)
	}
	return nil, fmt.Errorf("%s: the check of stack %s does not say it; what can be mended by itself is %s: %w", code, j.Stack, strings.Join(codes, ", "), lab.ErrNotFound)
}
