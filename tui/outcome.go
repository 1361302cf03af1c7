package tui

import (
	"fmt"
	"strings"

	"carte/lab"
	"carte/tui/action"
	"carte/tui/cell"
)

// changedWords says in a few words what an action changed.
func changedWords(a action.Action, t action.Target, c lab.Changed) string {
	switch {
	case a.ID == "machine.power":
		return fmt.Sprintf("%s %s %s", a.Words, t.Machine.Label(), t.Text)
	case len(c.Boots) > 0:
		b := c.Boots[0]
		return fmt.Sprintf("boot %d of %s on %s is %s", b.ID, b.Plan.Stack, t.Snapshot.Machines[b.Machine].Label(), b.State)
	case len(c.Machines) > 0:
		return a.Words + " " + c.Machines[0].Label()
	case len(c.Stacks) > 0:
		return a.Words + " " + c.Stacks[0].Name
	}
	return strings.TrimSpace(a.Words + " " + object(a, t))
}

// object names what an action was done to; empty: nothing by name.
func object(a action.Action, t action.Target) string {
	kind, _, _ := strings.Cut(a.ID, ".")
	switch {
	case (kind == "boot" || kind == "queue") && t.Boot.ID != 0:
		return fmt.Sprint(t.Boot.ID)
	case (kind == "boot" || kind == "machine") && t.Machine.ID != 0:
		return t.Machine.Label()
	case kind == "image" && t.Version.Number != 0:
		return t.Version.Ref().String()
	case kind == "image":
		return t.Image.Name
	case kind == "stack" || kind == "compose":
		return t.Stack.Name
	}
	return ""
}

// An outcome is what came of work.
type outcome struct {
	words string
	text  string // more than one line: shown by itself
	err   error
	job   *job
	ask   *ask // what was asked before; nil: nothing

	said    lab.Verb // that the lab took, or refused
	verdict *verdict // of a check; nothing else is said then
}

// finish hands an outcome to the screen.
func (f *feed) finish(o outcome) {
	f.mu.Lock()
	f.done = append(f.done, o)
	f.mu.Unlock()
	f.soon()
}

// finish shows what came of work.
func (m *model) finish(o outcome) {
	if o.verdict != nil {
		m.take(o.verdict)
		return
	}
	if v, ok := o.said.(lab.PutStack); ok && o.err == nil && m.drafts[v.Name] != nil {
		m.drafts[v.Name].was = v.Stack // what is the lab's from now on
		m.recompose()
	}
	for i, j := range m.jobs {
		if j == o.job {
			m.jobs = append(m.jobs[:i], m.jobs[i+1:]...)
			break
		}
	}
	switch {
	case o.err != nil && m.ctx.Err() == nil:
		m.fail(o.err)
		o.ask.again(m, o.err)
	case strings.Contains(strings.TrimSpace(o.text), "\n"):
		m.over = newPager(o.words, o.text)
	case o.text != "":
		m.say(cell.Done, "%s", strings.TrimSpace(o.text))
	default:
		m.say(cell.Done, "%s", o.words)
	}
}
