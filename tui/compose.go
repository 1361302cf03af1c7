package tui

import (
	"fmt"
	"reflect"
	"slices"

	tea "github.com/charmbracelet/bubbletea"

	"carte/lab"
	"carte/tui/action"
	"carte/tui/cell"
)

// A composing is a stack that is put together: as it is meant to become, and what the check says of that.
type composing struct {
	st, was  lab.Stack // was: as the lab had it when the changes began
	judged   lab.Judged
	err      error // why it was not checked
	asked    int   // checks asked for
	answered int   // the one that judged is of
	of       uint64
}

// verdict is what came of a check.
type verdict struct {
	name   string
	asked  int
	judged lab.Judged
	err    error
}

// composed is the stack that the place is about; nil elsewhere.
func (m *model) composed() *composing {
	if m.at.at != action.Compose {
		return nil
	}
	return m.drafts[m.at.stack]
}

// compose begins with a stack, or goes on with it.
func (m *model) compose(name string) {
	if m.drafts == nil {
		m.drafts = map[string]*composing{}
	}
	if m.drafts[name] == nil {
		st := m.snap().Stacks[name]
		m.drafts[name] = &composing{st: st, was: st}
	}
	m.follow(name)
	m.check()
}

// follow takes what the lab has, where nothing is changed here.
func (m *model) follow(name string) {
	d, now := m.drafts[name], m.snap().Stacks[name]
	if d == nil || now.Name == "" || reflect.DeepEqual(d.was, now) {
		return
	}
	if reflect.DeepEqual(d.st, d.was) {
		d.st = now
	} else if !reflect.DeepEqual(d.st, now) {
		m.say(cell.Warn, "stack %s was changed by somebody else; s would put yours in its place", name)
	}
	d.was = now
}

// change makes the stack another one, and checks it.
func (m *model) change(st lab.Stack) {
	if d := m.composed(); d != nil {
		d.st = st
		m.check()
	}
}

// check asks the lab what it thinks of the stack that is shown.
func (m *model) check() {
	d := m.composed()
	if d == nil {
		return
	}
	d.asked++
	d.of = m.weighed()
	v := verdict{name: d.st.Name, asked: d.asked}
	st, ctx, desk, f := d.st, m.ctx, m.desk, m.feed
	m.spawn(func() {
		v.judged, v.err = desk.Judge(ctx, st)
		f.finish(outcome{verdict: &v})
	})
}

// take takes the answer to the newest check.
func (m *model) take(v *verdict) {
	if d := m.drafts[v.name]; d != nil && v.asked == d.asked {
		d.judged, d.err, d.answered = v.judged, v.err, v.asked
	}
}

// weighed changes when a check may come to something else: with the images, and with what machines are and hold.
func (m *model) weighed() (n uint64) {
	s := m.snap()
	n = uint64(len(s.Versions))<<32 + uint64(len(s.Machines))<<16
	for _, mc := range s.Machines {
		n += uint64(len(mc.Arms)) + uint64(len(mc.MACs))<<8
		for _, h := range mc.Holds {
			n += uint64(h.At.UnixMilli())
		}
	}
	return n
}

// recompose looks again after a change of the lab.
func (m *model) recompose() {
	d := m.composed()
	if d == nil {
		return
	}
	was := d.st
	m.follow(m.at.stack)
	if d.of != m.weighed() || !reflect.DeepEqual(was, d.st) {
		m.check()
	}
}

// A layerRow is an image of a stack; or one that joins by itself on a machine.
type layerRow struct {
	ref   lab.Ref
	v     lab.Version
	im    lab.Image
	joins string // the machine on which it joins by itself
}

// layerRows are the layers that the filter keeps, the top one first, and what joins by itself below them.
func (m *model) layerRows() (rows []layerRow) {
	d := m.composed()
	if d == nil {
		return nil
	}
	f := m.filters[m.at]
	add := func(ref lab.Ref, joins string) {
		v, _ := m.snap().Version(ref)
		r := layerRow{ref, v, m.snap().Images[ref.Name], joins}
		if f.keeps(ref.String()+" "+r.im.Kind+" "+string(r.im.Form), map[string]string{"kind": r.im.Kind, "name": ref.Name, "form": string(r.im.Form)}) {
			rows = append(rows, r)
		}
	}
	for _, ref := range slices.Backward(d.st.Layers) {
		add(ref, "")
	}
	for _, name := range sortedNames(m.snap().Images) {
		if im := m.snap().Images[name]; im.Owner != "" && len(d.st.Layers) > 0 {
			add(lab.Ref{Name: name}, im.Owner)
		}
	}
	return rows
}

// remarks are all that the check says, of the stack and of every machine.
func (d *composing) remarks() []lab.Remark {
	all := slices.Clone(d.judged.Remarks)
	for _, mc := range d.judged.Machines {
		all = append(all, mc.Remarks...)
	}
	return all
}

// checking says that the check of what is shown has not answered yet.
func (d *composing) checking() bool { return d.answered != d.asked }

// unsaved says that the stack shown is not the lab's.
func (m *model) unsaved() bool {
	d := m.composed()
	return d != nil && !reflect.DeepEqual(d.st, m.snap().Stacks[d.st.Name])
}

// losing says what is lost when one leaves the composer for good.
func (m *model) losing() string {
	for _, name := range sortedNames(m.drafts) {
		if m.changed(name) {
			return fmt.Sprintf("stack %s is not saved", name)
		}
	}
	return ""
}

// changed says that a stack was changed here and is not saved.
func (m *model) changed(name string) bool {
	d := m.drafts[name]
	return d != nil && !reflect.DeepEqual(d.st, m.snap().Stacks[name]) && !reflect.DeepEqual(d.st, d.was)
}

// openStack opens the selected stack.
func (m *model) openStack() tea.Cmd {
	t := m.target()
	if t.Stack.Name == "" {
		m.say(cell.Warn, "no stack is selected; :stack check NAME opens one")
	} else if m.at.at == action.Stacks {
		m.goTo(place{at: action.Compose, stack: t.Stack.Name})
	}
	return nil
}
