package tui

import (
	"fmt"
	"slices"

	"carte/tui/cell"
)

// A list remembers which row of a list is selected, by what the row is and not by where, so that the selection stays
// with it when the rows are sorted anew.
type list struct {
	key string
	at  int
	top int
}

// settle finds the selected row again and returns its place; -1 when there are no rows.
func (l *list) settle(keys []string) int {
	if i := slices.Index(keys, l.key); i >= 0 {
		l.at = i
	}
	l.at = max(0, min(l.at, len(keys)-1))
	if len(keys) == 0 {
		return -1
	}
	l.key = keys[l.at]
	return l.at
}

// move selects the row that lies by rows further.
func (l *list) move(keys []string, by int) {
	if l.settle(keys) < 0 {
		return
	}
	l.at = max(0, min(l.at+by, len(keys)-1))
	l.key = keys[l.at]
}

// window is the first of the h rows to show, with the selected one among them.
func (l *list) window(n, h int) int {
	l.top = max(min(l.top, l.at), l.at-h+1)
	l.top = max(0, min(l.top, n-h))
	return l.top
}

// A column of a table. Where there is no room, the columns with the largest drop go first.
type column[T any] struct {
	title    string
	min, max int // cells
	drop     int // 0: stays
	right    bool
	draw     func(g *cell.Grid, x, y, w int, row T)
}

// words makes a column of plain text.
func words[T any](title string, least, most, drop int, text func(T) string) column[T] {
	return column[T]{title, least, most, drop, false, func(g *cell.Grid, x, y, w int, row T) { g.Text(x, y, w, cell.Plain, text(row)) }}
}

// figures makes a column of numbers, which end below one another and are never cut.
func figures[T any](title string, least, drop int, text func(T) string) column[T] {
	return column[T]{title, least, least, drop, true, func(g *cell.Grid, x, y, w int, row T) { g.Right(x+w, y, w, cell.Plain, text(row)) }}
}

type placed[T any] struct {
	column[T]
	x, w int
}

const gap = 2 // cells between columns

// fit chooses the columns that w cells have room for, and shares the rest of the room among them, the first first.
func fit[T any](cols []column[T], w int) (fits []placed[T]) {
	cols = slices.Clone(cols)
	need := func() (n int) {
		for _, c := range cols {
			n += c.min + gap
		}
		return n - gap
	}
	for need() > w && len(cols) > 1 {
		worst := 0
		for i, c := range cols {
			if c.drop >= cols[worst].drop {
				worst = i
			}
		}
		cols = slices.Delete(cols, worst, worst+1)
	}
	spare, x := max(0, w-need()), 0
	for _, c := range cols {
		grow := min(spare, c.max-c.min)
		spare -= grow
		fits = append(fits, placed[T]{c, x, min(c.min+grow, w-x)})
		x += c.min + grow + gap
	}
	return fits
}

// A rect is a part of the picture.
type rect struct{ x, y, w, h int }

// down is the rest of r below its first n lines.
func (r rect) down(n int) rect { return rect{r.x, r.y + n, r.w, max(0, r.h-n)} }

// margin is where a row's text begins: a blank, the cursor, a blank.
const margin = 3

// drawTable draws the head of a table and as many rows as there is room for, the selected one among them.
func drawTable[T any](g *cell.Grid, r rect, cols []column[T], rows []T, l *list) {
	fits := fit(cols, r.w-margin-1)
	for _, c := range fits {
		if c.right {
			g.Right(r.x+margin+c.x+c.w, r.y, c.w, cell.Dim, c.title)
		} else {
			g.Text(r.x+margin+c.x, r.y, c.w, cell.Dim, c.title)
		}
	}
	if len(rows) == 0 { // an empty list has a sentence of its own: here a filter keeps nothing
		g.Text(r.x+margin, r.y+1, r.w-margin, cell.Dim, "Nothing here has that. esc shows all.")
	}
	h := r.h - 1
	if len(rows) > h && h > 3 {
		h-- // for the line that says how many there are
		g.Text(r.x+margin+1, r.y+r.h-1, r.w-margin-1, cell.Dim, fmt.Sprintf("… %d more", len(rows)-h))
	}
	top := l.window(len(rows), h)
	for i := range min(h, len(rows)-top) {
		y := r.y + 1 + i
		for _, c := range fits {
			c.draw(g, r.x+margin+c.x, y, c.w, rows[top+i])
		}
		if top+i == l.at {
			g.Put(r.x+1, y, cell.Bold, '>')
			g.Select(r.x, y, r.w)
		}
	}
}
