package tui

import (
	"cmp"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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

// alerts lists what needs a person as the lab says, in the order of the list of machines, the lab's own services last.
func alerts(x *index, rows []machineRow, now time.Time) (list []alert) {
	for _, r := range rows {
		if n, ok := x.alertOf(r.Machine, now); ok {
			list = append(list, card(n, r.mark, r.label()))
		}
		if n, ok := x.snap.PowerAlert(r.Machine); ok && r.cond != lost {
			list = append(list, card(n, cell.Warn, r.label()))
		}
	}
	for _, n := range x.snap.ServiceAlerts() {
		list = append(list, card(n, cell.Warn, n.Who))
	}
	return list
}

// byKey is what to do on the screen, where there is more than the command that the lab names.
var byKey = map[lab.AlertSort]string{
	lab.AlertLost:    "Look at its log (L). If it hangs: p, then cycle.",
	lab.AlertFailed:  "enter shows the boot and its log; r tries it again.",
	lab.AlertParked:  "enter shows the boot and its log; r tries it again.",
	lab.AlertUnknown: "a gives it a name, i ignores it for ever.",
	lab.AlertService: "carte doctor says what it needs.",
}

func card(n lab.Alert, mark cell.Mark, who string) alert {
	a := alert{key: n.Key, mark: mark, who: who, what: n.Brief, since: n.Since, machine: n.Machine}
	why, cause := n.Why, n.Means
	if n.Sort == lab.AlertStuck {
		why, cause = strings.TrimSuffix(why, ": "+n.Step.Cause), n.Step.Cause
	}
	a.add("What", "%s", sentence(why))
	if cause != "" {
		a.add("Means", "%s", sentence(cause))
	}
	if fix := cmp.Or(byKey[n.Sort], n.Fix); fix != "" {
		a.add("Fix", "%s", strings.TrimSuffix(fix, ".")+".")
	}
	return a
}

// sentence is a clause with a capital and a full stop.
func sentence(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + strings.TrimSuffix(s[n:], ".") + "."
}

func (a *alert) add(word, format string, args ...any) {
	a.says = append(a.says, saying{word, fmt.Sprintf(format, args...)})
}
