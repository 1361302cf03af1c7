package tui

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"carte/lab"
	"carte/tui/cell"
)

// halves parts a screen in a list and its detail: side by side in a wide window, else below one another.
func (m *model) halves(r rect, rows int) (list, detail rect) {
	if m.boxed() {
		w := r.w * 3 / 5
		return rect{r.x, r.y, w, r.h}, rect{r.x + w, r.y, r.w - w, r.h}
	}
	h := max(4, min(rows+2, r.h-6))
	return rect{r.x, r.y, r.w, h}, rect{r.x, r.y + h, r.w, r.h - h}
}

// inside frames the list of a screen where there are boxes.
func (m *model) inside(g *cell.Grid, r rect, title, right string) rect {
	if !m.boxed() {
		return r
	}
	return m.pane0(g, r, title, right)
}

func (m *model) drawImages(g *cell.Grid, r rect) {
	if m.at.image != "" {
		m.drawVersions(g, r)
		return
	}
	rows := m.images()
	l := m.list()
	at := l.settle(m.rowKeys())
	left, right := m.halves(r, len(rows))
	var logical, stored int64
	for _, v := range m.x.snap.Versions {
		logical, stored = logical+v.Bytes, stored+v.Stored
	}
	sum := ""
	if stored > 0 {
		sum = fmt.Sprintf("%s of image in %s on disk (%.1fx)", lab.Bytes(logical), lab.Bytes(stored), float64(logical)/float64(stored))
	}
	in := m.inside(g, left, fmt.Sprintf("Images %d", len(rows)), sum)
	if len(m.x.snap.Images) == 0 {
		g.Text(in.x+margin, in.y+1, in.w-margin, cell.Bold, "No images yet.")
		text := "a imports one you have: a disk (raw or qcow2), a tree or files (a folder or a tar), or a kernel; packed with gz, xz, zst, bz2 or not."
		for i, l := range wrapped(text, in.w-margin-1) {
			g.Text(in.x+margin, in.y+2+i, in.w-margin, cell.Plain, l)
		}
		return
	}
	drawTable(g, in, m.imageColumns(), rows, l)
	if at < 0 {
		return
	}
	i := rows[at]
	d := m.pane0(g, right, fmt.Sprintf("%s v%d", i.Name, i.Latest), i.Kind+" "+string(i.Form))
	y := d.y
	say := func(style cell.Style, text string) {
		if y < d.y+d.h {
			g.Text(d.x+1, y, d.w-2, style, text)
			y++
		}
	}
	all := newestFirst(m.x.snap.VersionsOf(i.Name))
	if len(all) > 0 && all[0].Found != "" {
		say(cell.Plain, all[0].Found)
	}
	for _, v := range all[:min(len(all), max(1, d.h-4))] {
		say(cell.Plain, m.versionWords(v))
	}
	if len(all) > 0 {
		if words := contractWords(i, all[0], m.asOf()); words != "" {
			say(cell.Plain, words)
		}
		if b, ok := m.x.snap.BadgeOf(all[0]); ok {
			say(cell.Plain, "tested   "+b.Words())
		}
	}
	say(cell.Plain, "used by  "+m.users(i.Name))
	if !m.boxed() && sum != "" {
		say(cell.Dim, sum)
	}
}

func (m *model) imageColumns() []column[lab.Image] {
	newest := func(i lab.Image) lab.Version { v, _ := m.x.snap.Version(lab.Ref{Name: i.Name}); return v }
	stored := func(i lab.Image) (n int64) {
		for _, v := range m.x.snap.VersionsOf(i.Name) {
			n += v.Stored
		}
		return n
	}
	return []column[lab.Image]{
		words("NAME", 12, 20, 0, func(i lab.Image) string { return i.Name }),
		words("TYPE", 9, 9, 2, func(i lab.Image) string { return i.Kind }),
		words("FORM", 4, 4, 7, func(i lab.Image) string { return string(i.Form) }),
		words("VER", 4, 4, 1, func(i lab.Image) string { return fmt.Sprintf("v%d", i.Latest) }),
		figures("SIZE", 8, 3, func(i lab.Image) string { return lab.Bytes(newest(i).Bytes) }),
		figures("ON DISK", 8, 4, func(i lab.Image) string { return lab.Bytes(stored(i)) }),
		words("RULE", 15, 15, 6, func(i lab.Image) string { return m.rule(i.Kind) }),
		words("USED BY", 8, 10, 5, func(i lab.Image) string {
			if n := len(m.stacksOf(i.Name)); n > 0 {
				return plural(n, "stack")
			}
			return "0"
		}),
	}
}

// rule says in words what the contract of a kind does with versions.
func (m *model) rule(kind string) string {
	k, err := m.x.snap.KindOf(kind)
	switch {
	case err != nil:
		return "?"
	case k.Lifetime == "date":
		return "thrown away"
	case k.WrittenBack == "results":
		return "results inside"
	case k.Updates && k.Versioned:
		return "always newest"
	case !k.Versioned:
		return "checksum"
	}
	return "only on request"
}

func (m *model) stacksOf(image string) (names []string) {
	for _, s := range m.x.snap.SortedStacks() {
		if slices.ContainsFunc(s.Layers, func(l lab.Ref) bool { return l.Name == image }) {
			names = append(names, s.Name)
		}
	}
	return names
}

// users names the stacks made of an image and the machines whose disks hold it.
func (m *model) users(image string) string {
	var on []string
	for _, mc := range m.x.snap.SortedMachines() {
		for _, h := range mc.Holds {
			if h.Ref.Name == image && !h.Dirty {
				on = append(on, fmt.Sprintf("%s (v%d)", mc.Label(), h.Ref.Version))
			}
		}
	}
	parts := []string{"no stack"}
	if names := m.stacksOf(image); len(names) > 0 {
		parts[0] = "stack " + strings.Join(names, ", ")
	}
	if len(on) > 0 {
		parts = append(parts, "on "+strings.Join(on, ", "))
	}
	return strings.Join(parts, "; ")
}

// contractWords are what an image says that it promises, and how long it lives; empty when it says nothing.
func contractWords(i lab.Image, v lab.Version, now time.Time) string {
	var parts []string
	if v.Offers != nil {
		parts = append(parts, "offers "+v.Offers.String())
	}
	if v.Place != "" {
		parts = append(parts, "at "+v.Place)
	}
	if !i.Dies.IsZero() {
		parts = append(parts, "dies "+day(now, i.Dies))
	}
	if i.Owner != "" {
		parts = append(parts, "lives with "+i.Owner)
	}
	return strings.Join(parts, "; ")
}

func (m *model) versionWords(v lab.Version) string {
	s := fmt.Sprintf("v%-3d %-12s +%-8s %s", v.Number, day(m.asOf(), v.At), lab.Bytes(v.Stored), v.Author)
	if tags := m.snap().TagsOf(v); len(tags) > 0 {
		s += " (" + strings.Join(tags, ", ") + ")"
	}
	return strings.TrimSpace(s + "  " + v.Message)
}

// drawVersions lists the versions of one image.
func (m *model) drawVersions(g *cell.Grid, r rect) {
	rows := m.versions()
	l := m.list()
	l.settle(m.rowKeys())
	i := m.x.snap.Images[m.at.image]
	in := m.inside(g, r, fmt.Sprintf("%s  %s %s", i.Name, i.Kind, i.Form), plural(len(rows), "version"))
	drawTable(g, in, []column[lab.Version]{
		words("VERSION", 14, 24, 0, func(v lab.Version) string { return v.Ref().String() }),
		words("MADE", 12, 12, 2, func(v lab.Version) string { return day(m.asOf(), v.At) }),
		figures("SIZE", 8, 1, func(v lab.Version) string { return lab.Bytes(v.Bytes) }),
		figures("CONTENT", 8, 5, func(v lab.Version) string { return lab.Bytes(v.Content) }),
		figures("STORED", 8, 3, func(v lab.Version) string { return "+" + lab.Bytes(v.Stored) }),
		words("BY", 6, 10, 6, func(v lab.Version) string { return v.Author }),
		words("WHAT", 16, 50, 4, func(v lab.Version) string {
			return strings.TrimSpace(strings.Join(m.snap().TagsOf(v), ", ") + "  " + v.Message + "  " + v.Found)
		}),
		words("ROOT", 12, 16, 7, func(v lab.Version) string { return v.Root.String() }),
	}, rows, l)
}
