package cli

import (
	"fmt"
	"strconv"
	"time"

	"carte/lab"
)

func (c *call) showBoot(s lab.Snapshot, b lab.Boot) error {
	d := bootDocOf(s, b, c.term.Now())
	rows := [][]string{
		{"boot", strconv.FormatInt(b.ID, 10)}, {"machine", d.Machine}, {"stack", d.Stack}, {"state", string(d.State)},
		{"starts", string(b.Plan.Start)}, {"kexec", noKexec(b)}, {"cmdline", b.Plan.Cmdline},
		{"reason", d.Reason}, {"waits", d.Waits}, {"cause", d.Cause}, {"fix", d.Fix}, {"attempt", strconv.Itoa(b.Attempt)},
	}
	for _, r := range d.Rungs {
		text := took(r.Seconds)
		switch {
		case r.SoFar && s.Still:
			text = "on it when the lab stopped"
		case r.SoFar:
			text += " so far"
		}
		if r.Inferred {
			text += " (not seen, a later rung proves it)"
		}
		if r.Attempt != b.Attempt {
			text += fmt.Sprintf(" (attempt %d)", r.Attempt)
		}
		rows = append(rows, []string{string(r.Name), text})
	}
	rows = append(rows, []string{"extract", d.Extract})
	if f := d.Forecast; f != nil {
		spent := "took " + took(f.Took)
		if f.SoFar {
			spent = took(f.Took) + " so far"
		}
		rows = append(rows, []string{"strategy", fmt.Sprintf("%s, predicted %s, %s: %s", f.Strategy, took(f.Predicted), spent, f.Why)})
	}
	if m := b.Moved; m.Read+m.Written+m.Fetched+m.Reused > 0 {
		rows = append(rows, []string{"moved", b.MovedWords()})
	}
	for _, name := range sortedKeys(b.Metrics) {
		rows = append(rows, []string{name, fmt.Sprintf("%v %s", b.Metrics[name].Value, b.Metrics[name].Unit)})
	}
	rows = append(rows, outcome(b)...)
	return c.show(list{doc: d, names: []string{strconv.FormatInt(b.ID, 10)}, rows: filled(rows)})
}

// noKexec says that a boot's kernel was to replace the agent's, and why it did not.
func noKexec(b lab.Boot) string {
	switch {
	case b.NoKexec == "":
		return ""
	case b.Plan.Start == lab.StartKexec: // its stack wants no other
		return "failed: " + b.NoKexec
	}
	return "failed: " + b.NoKexec + "; the server has its kernel instead"
}

// outcome is what a boot was promised, and what it left.
func outcome(b lab.Boot) (rows [][]string) {
	for _, k := range sortedKeys(b.Plan.Params) {
		rows = append(rows, []string{"parameter", k + " = " + b.Plan.Params[k]})
	}
	for _, a := range b.Plan.Agreed {
		rows = append(rows, []string{string(a.Clause), agreedWords(a)})
	}
	if n := len(b.Results); n > 0 {
		var sum int64
		for _, r := range b.Results {
			sum += r.Bytes
		}
		rows = append(rows, []string{"results", fmt.Sprintf("%s, %s: %s", plural(n, "file"), lab.Bytes(sum), outWords(b))})
	}
	for _, r := range b.Wrote {
		rows = append(rows, []string{"wrote back", r.String()})
	}
	return rows
}

// outWords say where a boot's results are.
func outWords(b lab.Boot) string {
	switch get := fmt.Sprintf("carte boot out %d", b.ID); {
	case !b.OutGone.IsZero():
		return "removed " + b.OutGone.Format(time.RFC3339)
	case !b.OutTaken.IsZero():
		return get + "; taken " + b.OutTaken.Format(time.RFC3339)
	default:
		return get
	}
}
