package tui

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"carte/lab"
	"carte/tui/cell"
)

// An alert is something that needs a person.
type alert struct {
	key     string // the same as long as it is the same thing
	mark    cell.Mark
	who     string
	what    string // a few words
	since   time.Time
	machine int64
	says    []saying // the rows of its card
}

// A saying is one row of an alert's card: What, Means, Fix.
type saying struct{ word, text string }

// alerts lists what needs a person, in the order of the machines, the lab's own services last.
func alerts(x *index, rows []machineRow) (list []alert) {
	for _, r := range rows {
		b := x.last[r.ID]
		a := alert{key: fmt.Sprintf("m%d", r.ID), mark: r.mark, who: r.label(), machine: r.ID, since: b.Since}
		switch r.cond {
		case lost:
			a.what, a.since = "stopped talking", r.live.Seen
			a.add("What", "No word from the agent since %s; it reports every second. It was on the rung %s of boot %d (%s).", r.live.Seen.Format("15:04:05"), b.Rung(), b.ID, b.Plan.Stack)
			a.add("Means", "The machine hangs, lost its power or its cable. The lab gives this attempt up after a minute of silence and starts it again.")
			a.add("Fix", "Look at its log (L). If it hangs: p, then cycle.")
		case failed:
			a.what = "boot failed"
			if r.Parked != "" {
				a.what = "parked"
				a.add("What", "%s.", r.why)
				a.add("Means", "The lab does not boot it any more, so that it never loops.")
			} else {
				a.add("What", "Boot %d of %s failed: %s.", b.ID, b.Plan.Stack, b.Reason)
			}
			a.add("Fix", "enter shows the boot and its log; r tries it again.")
		case stuck:
			a.what, a.since = "waits for "+string(r.step.Rung), lastAt(b)
			a.add("What", "Boot %d of %s did not reach the rung %s.", b.ID, b.Plan.Stack, r.step.Rung)
			a.add("Means", "%s.", r.step.Cause)
			a.add("Fix", "%s.", r.step.Fix)
		case unknown:
			a.what, a.since = "asks to boot", r.Since
			a.add("What", "A machine with the card %s asked for a network boot %d times. Its own screen shows the code %s.", r.Label(), r.live.Asked, r.Code())
			a.add("Means", "It waits in a loop and gets nothing until you name it.")
			a.add("Fix", "a gives it a name, i ignores it for ever.")
		}
		if a.what != "" {
			list = append(list, a)
		}
		if r.live.Note != "" && r.cond != lost {
			n := alert{key: fmt.Sprintf("n%d", r.ID), mark: cell.Warn, who: r.label(), what: "power: " + r.live.Note, machine: r.ID}
			n.add("What", "%s.", r.live.Note)
			list = append(list, n)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(x.snap.Services)) {
		if sv := x.snap.Services[name]; !sv.OK {
			list = append(list, serviceAlert(sv))
		}
	}
	return list
}

func serviceAlert(s lab.Service) alert {
	a := alert{key: "s" + s.Name, mark: cell.Warn, who: s.Name, what: s.State}
	a.add("What", "The service %s is %s.", s.Name, s.State)
	if s.Note != "" {
		a.add("Why", "%s.", s.Note)
	}
	a.add("Fix", "carte doctor says what it needs.")
	return a
}

func (a *alert) add(word, format string, args ...any) {
	a.says = append(a.says, saying{word, fmt.Sprintf(format, args...)})
}
