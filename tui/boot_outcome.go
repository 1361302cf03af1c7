package tui

import (
	"fmt"
	"strings"
	"time"

	"carte/lab"
	"carte/tui/cell"
)

// outcomeLines are what a boot was promised and what it left: how its system starts, parameters, clauses, results, versions
// that it wrote back. Nothing of a boot that has none of it.
func outcomeLines(b lab.Boot) (lines []styled) {
	var params []string
	for _, k := range sortedNames(b.Plan.Params) {
		params = append(params, k+" = "+b.Plan.Params[k])
	}
	if len(b.Plan.Agreed)+len(params) > 0 {
		text := "starts by " + string(b.Plan.Start)
		if len(params) > 0 {
			text += "; " + strings.Join(params, ", ")
		}
		lines = append(lines, styled{cell.Plain, text})
	}
	var given, without []string
	for _, a := range b.Plan.Agreed {
		if a.Given {
			given = append(given, string(a.Clause))
		} else {
			without = append(without, fmt.Sprintf("without %s: %s", a.Clause, a.Why))
		}
	}
	if len(given) > 0 {
		lines = append(lines, styled{cell.Plain, "clauses: " + strings.Join(given, ", ")})
	}
	for _, w := range without {
		lines = append(lines, styled{cell.Dim, w})
	}
	if n := len(b.Results); n > 0 {
		var sum int64
		for _, r := range b.Results {
			sum += r.Bytes
		}
		where := fmt.Sprintf("carte boot out %d", b.ID)
		if !b.OutGone.IsZero() {
			where = "removed " + b.OutGone.Format(time.DateOnly)
		}
		lines = append(lines, styled{cell.Plain, fmt.Sprintf("results: %s, %s: %s", plural(n, "file"), lab.Bytes(sum), where)})
	}
	if len(b.Wrote) > 0 {
		var refs []string
		for _, r := range b.Wrote {
			refs = append(refs, r.String())
		}
		lines = append(lines, styled{cell.Plain, "written back: " + strings.Join(refs, ", ")})
	}
	return lines
}
