package tui

import (
	"fmt"
	"strconv"
	"strings"

	"carte/lab"
	"carte/tui/action"
	"carte/tui/cell"
)

// machineColumns is the table of the machines list.
func (m *model) machineColumns() []column[machineRow] {
	bar, nameRoom, now := 16, 9, 14
	if m.boxed() {
		bar, nameRoom, now = 20, 10, 26
	}
	cols := []column[machineRow]{
		words("NAME", nameRoom, nameRoom, 0, machineRow.label),
		words("KIND", 5, 5, 9, machineRow.kind),
		{"STATE", 9, 10, 0, false, func(g *cell.Grid, x, y, w int, r machineRow) {
			g.Mark(x, y, r.mark)
			g.Text(x+2, y, w-2, r.mark.Style, r.word)
		}},
		words("NOW", now, 40, 1, func(r machineRow) string { return r.now }),
		{"PROGRESS", bar, bar, 4, false, func(g *cell.Grid, x, y, w int, r machineRow) {
			if r.done >= 0 {
				g.Bar(x, y, w-5, r.mark.Style&^cell.Reverse, r.done)
				g.Right(x+w, y, 4, cell.Plain, fmt.Sprintf("%.0f%%", 100*r.done))
			}
		}},
		figures("ETA", 5, 5, machineRow.eta),
		figures("WRITE", 9, 8, func(r machineRow) string { return perSecond(r.rate) }),
		figures("SEEN", 4, 6, func(r machineRow) string { return ago(m.asOf(), r.live.Seen) }),
		words("POWER", 5, 8, 9, machineRow.power),
		words("NOTE", 6, 40, 10, func(r machineRow) string { return r.Note }),
	}
	return cols
}

func (r machineRow) eta() string {
	switch {
	case r.left >= 0:
		return span(r.left)
	case r.cond == idle || r.cond == unknown || r.cond == ignored || r.cond == failed || r.cond == running:
		return "—"
	}
	return "?"
}

func (r machineRow) power() string {
	switch {
	case r.live.Order != "":
		return "→ " + r.live.Order
	case r.live.Power == "":
		return "?"
	}
	return r.live.Power
}

func perSecond(rate float64) string {
	if rate <= 0 {
		return "—"
	}
	return lab.Bytes(int64(rate)) + "/s"
}

// rows are all machines, those that need a person first. They are sorted once for a moment.
func (m *model) rows() []machineRow {
	if m.x == nil {
		return nil
	}
	if m.sorted.x != m.x || !m.sorted.at.Equal(m.asOf()) {
		m.sorted.x, m.sorted.at, m.sorted.rows = m.x, m.asOf(), machineRows(m.x, m.asOf())
		m.sorted.alerts = alerts(m.x, m.sorted.rows, m.asOf())
	}
	return m.sorted.rows
}

// alerts are what needs a person, counted once for a moment.
func (m *model) alerts() []alert {
	m.rows()
	return m.sorted.alerts
}

// keptMachines are the machines that the filter of the machines list keeps.
func (m *model) keptMachines(rows []machineRow) (kept []machineRow) {
	f := m.filters[place{at: action.Machines}]
	if len(f.terms) == 0 {
		return rows
	}
	for _, r := range rows {
		text := strings.Join([]string{r.Label(), r.kind(), r.word, r.now, r.Note}, " ")
		if f.keeps(text, map[string]string{"state": r.word, "kind": r.kind(), "name": r.Label(), "stack": r.now, "machine": r.Label()}) {
			kept = append(kept, r)
		}
	}
	return kept
}

func machineKeys(rows []machineRow) []string {
	keys := make([]string, len(rows))
	for i, r := range rows {
		keys[i] = strconv.FormatInt(r.ID, 10)
	}
	return keys
}

// drawMachines draws the list, what needs a person, and the log of all.
func (m *model) drawMachines(g *cell.Grid, r rect, all []machineRow) {
	rows := m.keptMachines(all)
	l := m.list()
	l.settle(machineKeys(rows))
	warn := m.warnings(all)
	edges := 1 // the log's line
	if m.boxed() {
		edges = 4
	}
	need := 1 + max(len(rows), 1) + len(warn)
	if len(warn) > 0 {
		need++
	}
	if len(all) == 0 {
		need = 6
	}
	h := min(need+1, max(r.h-edges-logAtLeast, min(4, r.h))) // with a blank line below
	top := rect{r.x, r.y, r.w, h}
	if m.boxed() {
		top.h += 2
		right := "sorted by what needs you"
		if f := m.filters[m.at].text; f != "" {
			right = fmt.Sprintf("filter: %s  %d of %d", f, len(rows), len(all))
		}
		g.Box(top.x, top.y, top.w, top.h, cell.Dim, m.focused("Machines "+fmt.Sprint(len(all)), 0), right)
		m.fillMachines(g, rect{1, top.y + 1, r.w - 2, h}, rows, len(all), warn)
	} else {
		m.fillMachines(g, top, rows, len(all), warn)
	}
	title, right := m.logTitle()
	m.drawLog(g, m.pane0(g, rect{r.x, top.y + top.h, r.w, r.h - top.h}, m.focused(title, 1), right))
}

// focused marks the title of the pane that has the moving keys.
func (m *model) focused(title string, pane int) string {
	if m.pane == pane && pane > 0 {
		return "» " + title
	}
	return title
}

func (m *model) fillMachines(g *cell.Grid, r rect, rows []machineRow, all int, warn []warning) {
	switch {
	case all == 0:
		m.drawNoMachines(g, r)
		return
	}
	room := len(warn) + 1
	if len(warn) == 0 || r.h-room < 4 {
		room, warn = 0, nil
	}
	table := rect{r.x, r.y, r.w, r.h - room}
	if table.h > len(rows)+1 {
		table.h = len(rows) + 1
	}
	drawTable(g, table, m.machineColumns(), rows, m.list())
	for i, w := range warn {
		y := table.y + table.h + 1 + i
		if y >= r.y+r.h {
			break
		}
		g.Mark(r.x+1, y, w.mark)
		g.Text(r.x+3, y, r.w-4, cell.Plain, w.text)
	}
}

// A warning is a line below the list of machines.
type warning struct {
	mark cell.Mark
	text string
}

// warnings say what the two machines that need a person most are waiting for.
func (m *model) warnings(rows []machineRow) (list []warning) {
	if m.x == nil {
		return nil
	}
	for _, r := range rows {
		if len(list) == 2 {
			break
		}
		switch r.cond {
		case lost:
			list = append(list, warning{r.mark, fmt.Sprintf("%s: no word from its agent for %s. ! says what to do.", r.label(), ago(m.asOf(), r.live.Seen))})
		case stuck:
			list = append(list, warning{r.mark, fmt.Sprintf("%s waits for %s: %s. ! says what to do.", r.label(), r.step.Rung, firstClause(r.step.Cause))})
		case failed:
			list = append(list, warning{r.mark, fmt.Sprintf("%s: %s. r tries again.", r.label(), strings.TrimSuffix(r.why, "."))})
		case unknown:
			list = append(list, warning{r.mark, fmt.Sprintf("%s asks to boot, code %s: a gives it a name, i ignores it.", r.Label(), r.Code())})
		}
	}
	return list
}

// firstClause is the beginning of a cause, as far as it says one thing.
func firstClause(s string) string {
	s, _, _ = strings.Cut(s, ":")
	return s
}

// drawNoMachines is what a new lab shows.
func (m *model) drawNoMachines(g *cell.Grid, r rect) {
	asked := 0
	for _, l := range m.snap().Live {
		asked += l.Asked
	}
	lines := []string{
		"No machines yet.",
		"",
		"Turn one on with network boot enabled, or press a to add a virtual one.",
		fmt.Sprintf("%s  %s so far.", m.listening(), plural(asked, "boot request")),
	}
	for i, l := range lines[:min(len(lines), r.h)] {
		style := cell.Plain
		if i == 0 {
			style = cell.Bold
		}
		g.Text(r.x+margin, r.y+1+i, r.w-margin, style, l)
	}
}

// listening says where carte listens for machines, or that it does not.
func (m *model) listening() string {
	for _, name := range []string{"dhcp", "proxy", "http"} {
		s, ok := m.snap().Services[name]
		if ok && s.OK && s.State != "off" {
			if s.Note != "" {
				return fmt.Sprintf("Listening: %s, %s.", name, s.Note)
			}
			return "Listening: " + name + "."
		}
	}
	return "Not listening for machines; carte doctor says why."
}
