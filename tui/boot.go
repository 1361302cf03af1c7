package tui

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"carte/lab"
	"carte/tui/cell"
)

// drawBoot draws a boot: how far it climbed, with times, what it moved, what it is stuck on, its numbers and its log.
func (m *model) drawBoot(g *cell.Grid, r rect) {
	mc := m.x.snap.Machines[m.at.machine]
	b, ok := m.shownBoot()
	title, right := m.logTitle()
	if !ok {
		g.Text(r.x+1, r.y, r.w-2, cell.Bold, mc.Label())
		g.Text(r.x+1, r.y+1, r.w-2, cell.Plain, neverBooted(mc))
		m.drawLog(g, m.pane0(g, r.down(3), title, right))
		return
	}
	u := m.x.usualOf(mc.ID, b.Plan.Stack)
	head := r.y
	if m.boxed() {
		h := m.bootHead(nil, rect{r.x + 2, r.y + 1, r.w - 4, r.h}, mc, b, u) + 2
		h = min(h, r.h-logAtLeast)
		g.Box(r.x, r.y, r.w, h, cell.Dim, m.bootTitle(mc, b), m.bootTimes(b, u))
		m.bootHead(g, rect{r.x + 2, r.y + 1, r.w - 4, h - 2}, mc, b, u)
		head += h
	} else {
		n := g.Text(r.x+1, r.y, r.w-2, cell.Bold, m.bootTitle(mc, b))
		g.Text(r.x+3+n, r.y, r.w-4-n, cell.Plain, m.bootTimes(b, u))
		h := min(m.bootHead(nil, rect{r.x + 1, r.y + 1, r.w - 2, r.h}, mc, b, u), max(0, r.h-1-logAtLeast))
		m.bootHead(g, rect{r.x + 1, r.y + 1, r.w - 2, h}, mc, b, u)
		head += 1 + h
	}
	log := rect{r.x, head, r.w, r.y + r.h - head}
	if side := m.bootSide(b, u); m.boxed() && len(side) > 0 {
		log.w -= 40
		in := m.pane0(g, rect{log.x + log.w, log.y, 40, log.h}, mc.Label()+" now", "")
		for i, l := range side[:min(len(side), in.h)] {
			g.Text(in.x+1, in.y+i, in.w-2, l.style, l.text)
		}
	}
	m.drawLog(g, m.pane0(g, log, title, right))
}

func neverBooted(mc lab.Machine) string {
	if mc.Standing != lab.Adopted {
		return fmt.Sprintf("This machine is %s. a gives it a name; then it can be booted.", mc.Standing)
	}
	return "It was not booted yet. b boots a stack."
}

func (m *model) bootTitle(mc lab.Machine, b lab.Boot) string {
	title := fmt.Sprintf("%s boot %d  %s", mc.Label(), b.ID, planWords(b.Plan))
	if b.Attempt > 1 {
		title += fmt.Sprintf("  attempt %d", b.Attempt)
	}
	return title
}

// planWords names the stack, and its version where one image makes it.
func planWords(p lab.Plan) string {
	if len(p.Layers) == 1 && p.Layers[0].Ref.Name != p.Stack {
		return fmt.Sprintf("%s (%s)", p.Stack, p.Layers[0].Ref)
	}
	if len(p.Layers) == 1 {
		return p.Layers[0].Ref.String()
	}
	return p.Stack
}

// bootTimes is how long the boot has taken, and usually takes.
func (m *model) bootTimes(b lab.Boot, u usual) string {
	switch {
	case b.State == lab.Queued:
		return "queued " + day(m.asOf(), b.Queued)
	case b.State.Final():
		return fmt.Sprintf("%s after %s, %s", b.State, span(ends(b, m.asOf()).Sub(began(b))), day(m.asOf(), b.Ended))
	}
	text := span(m.asOf().Sub(began(b)))
	if u.n < fewBoots {
		if b.State == lab.Working && m.x.snap.Live[b.Machine].Progress.Left() > 0 {
			return text // the rung's own estimate is there
		}
		return text + ", " + pastWords(u)
	}
	if here, ok := u.reach[b.Rung()]; ok {
		text += fmt.Sprintf(", usually %s here", span(here))
	}
	return text + fmt.Sprintf(", %s to work", span(u.total))
}

// pastWords says why there is no estimate yet.
func pastWords(u usual) string {
	return fmt.Sprintf("no estimate yet: %d of %d past boots", u.n, fewBoots)
}

// bootHead draws everything above the log, and returns how many lines it takes. With a nil grid it only measures.
func (m *model) bootHead(g *cell.Grid, r rect, mc lab.Machine, b lab.Boot, u usual) int {
	if g == nil {
		g = &cell.Grid{}
	}
	y := r.y + 1 // a blank line first
	steps := strip(b, m.asOf())
	step, late := b.Late(mc, m.x.snap.Live[mc.ID], u.slowest, m.asOf())
	lines := m.drawStrip(g, rect{r.x, y, r.w, r.h - 1}, steps, b, u, late)
	y += lines
	text := func(style cell.Style, x int, s string) {
		for _, l := range wrapped(s, r.w-x) {
			if y < r.y+r.h {
				g.Text(r.x+x, y, r.w-x, style, l)
			}
			y++
		}
	}
	if word, frac, words, ok := m.progress(b, u); ok && y < r.y+r.h {
		n := g.Text(r.x, y, 9, cell.Plain, fmt.Sprintf("%-6s ", word)) // measured alike by both passes
		n = max(n, 7)
		bar := max(8, min(40, r.w-n-cell.Width(words)-8))
		g.Bar(r.x+n, y, bar, cell.Cyan, frac)
		g.Text(r.x+n+bar, y, r.w-n-bar, cell.Plain, fmt.Sprintf("%4.0f%%  %s", 100*frac, words))
		y++
	}
	if moved := movedWords(b); moved != "" && b.State != lab.Starting { // else it is of the attempt before
		text(cell.Plain, 0, moved)
		if f := b.Chosen; f.Strategy != "" && b.Plan.Capture != nil {
			text(cell.Plain, 0, f.Why)
		} else if f.Strategy != "" {
			text(cell.Plain, 0, fmt.Sprintf("%s, %.1f s predicted: %s", f.Strategy, f.Predicted, f.Why))
		}
	}
	for _, l := range outcomeLines(b) {
		text(l.style, 0, l.text)
	}
	if late {
		g.Mark(r.x, y, cell.Warn)
		text(cell.Yellow, 2, fmt.Sprintf("waits for %s: %s", step.Rung, step.Cause))
		text(cell.Plain, 2, "fix: "+step.Fix)
	}
	if b.Revoke != "" {
		text(cell.Yellow, 0, "called back: "+b.Revoke)
	}
	if b.State == lab.Queued {
		text(cell.Plain, 0, "waits: "+m.x.reason(b))
	}
	if b.Reason != "" {
		style := cell.Plain
		if b.State == lab.Failed {
			style = cell.Red
		}
		text(style, 0, b.Reason)
	}
	if !m.boxed() && len(b.Metrics) > 0 {
		for i, l := range rowsOf(metricWords(b), r.w-9) {
			if i == 0 && y < r.y+r.h {
				g.Text(r.x, y, 8, cell.Dim, "metrics")
			}
			if y < r.y+r.h {
				g.Text(r.x+9, y, r.w-9, cell.Plain, l)
			}
			y++
		}
	}
	return y - r.y
}

// drawStrip draws the ladder: each rung with its time, and below it the usual one where there is room. It returns how
// many lines it took.
func (m *model) drawStrip(g *cell.Grid, r rect, steps []rise, b lab.Boot, u usual, late bool) int {
	past := u.n >= fewBoots && m.boxed()
	each := 2
	if past {
		each = 3
	}
	all := 0
	for _, s := range steps {
		all += rungWidth(s.rung)
	}
	lines := (all-2)/max(r.w, 1) + 1
	line := max((all+lines-1)/lines, 12) // as many rungs in each line
	x, y := 0, 0
	for _, s := range steps {
		w := rungWidth(s.rung)
		if x > 0 && (x+w/2 > line || x+w-1 > r.w) {
			x, y = 0, y+each
		}
		if y+each <= r.h {
			m.drawRung(g, r.x+x, r.y+y, w, s, b, late)
			if d, ok := u.took[s.rung]; past && ok && s.rung != b.Plan.Until {
				g.Text(r.x+x+1, r.y+y+2, w-1, cell.Dim, "~"+span(d))
			}
		}
		x += w
	}
	return y + each
}

func rungWidth(r lab.Rung) int { return max(1+len(r), 6) + 1 }

func (m *model) drawRung(g *cell.Grid, x, y, w int, s rise, b lab.Boot, late bool) {
	mark, style, time := cell.Absent, cell.Dim, ""
	switch {
	case s.current && b.State == lab.Failed:
		mark, style, time = cell.Failed, cell.Red, span(s.took)
	case s.current && b.State == lab.Revoked:
		mark, style = cell.Absent, cell.Plain
	case s.current && late:
		mark, style, time = cell.Warn, cell.Yellow, span(s.took)
	case s.current:
		mark, style, time = cell.Writing, cell.Bold, span(s.took)
	case s.inferred:
		style = cell.Plain
	case s.reached:
		mark, style, time = cell.Done, cell.Plain, span(s.took)
	}
	g.Mark(x, y, mark)
	g.Text(x+1, y, w-1, style, string(s.rung))
	g.Text(x+1, y+1, w-1, cell.Plain, time)
}

// progress is what the bar shows: the bytes of the rung where the agent counts some, else the time of the boot against
// its past.
func (m *model) progress(b lab.Boot, u usual) (word string, frac float64, words string, ok bool) {
	if b.State == lab.Queued || b.State.Final() || b.State == lab.Running {
		return "", 0, "", false
	}
	if p := m.x.snap.Live[b.Machine].Progress; b.State == lab.Working && p.Of > 0 {
		words = fmt.Sprintf("%s of %s", lab.Bytes(p.Done), lab.Bytes(p.Of))
		if p.Rate > 0 {
			words += "  " + perSecond(p.Rate)
		}
		if left := p.Left(); left > 0 {
			words += "  " + span(left) + " left"
		}
		return string(p.Rung), float64(p.Done) / float64(p.Of), words, true
	}
	gone := m.asOf().Sub(began(b))
	if u.n >= fewBoots && u.total > 0 {
		return "boot", min(float64(gone)/float64(u.total), 0.99), fmt.Sprintf("%s of about %s", span(gone), span(u.total)), true
	}
	return "boot", climbed(b), span(gone), true
}

// movedWords is the line that says how little was written.
func movedWords(b lab.Boot) string {
	v := b.Moved
	if v.Total <= 0 || v.Read+v.Written+v.Fetched+v.Zeroed+v.Reused == 0 {
		return ""
	}
	return b.MovedWords()
}

func metricWords(b lab.Boot) (list []string) {
	for _, name := range slices.Sorted(maps.Keys(b.Metrics)) {
		x := b.Metrics[name]
		list = append(list, strings.TrimSpace(fmt.Sprintf("%s %s", x.Name, quantity(x))))
	}
	return list
}

// rowsOf puts words that belong together into rows of w cells, parted by blanks that wrapping leaves alone.
func rowsOf(words []string, w int) (rows []string) {
	for _, word := range words {
		if n := len(rows); n > 0 && cell.Width(rows[n-1])+3+cell.Width(word) <= w {
			rows[n-1] += "   " + word
			continue
		}
		rows = append(rows, word)
	}
	return rows
}

type styled struct {
	style cell.Style
	text  string
}

// bootSide is what stands beside the log: the boot's metrics, and its machine's past.
func (m *model) bootSide(b lab.Boot, u usual) (lines []styled) {
	if len(b.Metrics) > 0 {
		lines = append(lines, styled{cell.Dim, "metrics"})
		for _, name := range slices.Sorted(maps.Keys(b.Metrics)) {
			x := b.Metrics[name]
			lines = append(lines, styled{cell.Plain, fmt.Sprintf("%-16s %s", x.Name, quantity(x))})
		}
		lines = append(lines, styled{})
	}
	live := m.x.snap.Live[b.Machine]
	lines = append(lines, styled{cell.Plain, "power   " + machineRow{live: live}.power()},
		styled{cell.Plain, "seen    " + ago(m.asOf(), live.Seen)})
	if live.IP != "" {
		lines = append(lines, styled{cell.Plain, "address " + live.IP})
	}
	if live.Note != "" {
		lines = append(lines, styled{cell.Yellow, live.Note})
	}
	if b.Disk.Bytes > 0 {
		lines = append(lines, styled{cell.Plain, "disk    " + b.Disk.String()})
	}
	return append(lines, m.pastLines(b, u)...)
}

// pastLines compares with the boots of the same stack on the same machine.
func (m *model) pastLines(b lab.Boot, u usual) (lines []styled) {
	past := m.x.boots(pair{b.Machine, b.Plan.Stack}, usualBoots)
	if len(past) == 0 {
		return nil
	}
	lines = append(lines, styled{}, styled{cell.Dim, fmt.Sprintf("last %s of %s here", plural(len(past), "boot"), b.Plan.Stack)})
	if u.n >= fewBoots && b.Plan.Capture == nil {
		total := func(b lab.Boot) time.Duration { return cmp.Or(reached(b, lab.RungRun), reached(b, lab.RungHandover)) }
		least := slices.MinFunc(past, func(x, y lab.Boot) int { return cmp.Compare(total(x), total(y)) })
		most := slices.MaxFunc(past, func(x, y lab.Boot) int { return cmp.Compare(total(x), total(y)) })
		lines = append(lines, styled{cell.Plain, fmt.Sprintf("to work  %s  (%s to %s)", span(u.total), span(total(least)), span(total(most)))})
	}
	var wrote []int64
	did, again := "wrote   ", 0
	for _, x := range past {
		wrote = append(wrote, x.Moved.Written)
		if b.Plan.Capture != nil {
			did, wrote[len(wrote)-1] = "sent    ", x.Moved.Sent
		}
		again += x.Attempt - 1
	}
	slices.Sort(wrote)
	return append(lines, styled{cell.Plain, fmt.Sprintf("%s %s  (most %s)", did, lab.Bytes(wrote[len(wrote)/2]), lab.Bytes(wrote[len(wrote)-1]))},
		styled{cell.Plain, fmt.Sprintf("retries  %d in %d", again, len(past))})
}

// reached is how long a boot took to a rung.
func reached(b lab.Boot, r lab.Rung) time.Duration {
	for _, c := range b.Climbed() {
		if c.Rung == r {
			return c.At.Sub(began(b))
		}
	}
	return 0
}
