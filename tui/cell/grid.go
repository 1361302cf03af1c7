package cell

import (
	"strings"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"

	"carte/lab"
)

// A Grid is a picture in the making. Everything drawn outside it is cut off. The zero Grid is empty; Reset gives it a
// size. It is used by one goroutine and reused from picture to picture.
type Grid struct {
	Mono  bool // no colour; bold and reverse stay
	ASCII bool // nothing but ASCII
	Faded bool // everything dim: the picture is old

	w, h  int
	cells []spot
	odd   []string // grapheme clusters of more than one rune; spot.r is -1 - index
	out   []byte
}

type spot struct {
	r rune // 0: the right half of the cell before
	s Style
}

// Reset empties the grid and sets its size in cells.
func (g *Grid) Reset(w, h int) {
	g.w, g.h = max(w, 0), max(h, 0)
	if n := g.w * g.h; cap(g.cells) < n {
		g.cells = make([]spot, n)
	} else {
		g.cells = g.cells[:n]
	}
	for i := range g.cells {
		g.cells[i] = spot{' ', Plain}
	}
	g.odd = g.odd[:0]
}

// Size returns the width and height in cells.
func (g *Grid) Size() (w, h int) { return g.w, g.h }

// set puts a character that is n cells wide at x, y, and mends wide characters that it cuts in half.
func (g *Grid) set(x, y, n int, r rune, s Style) {
	if y < 0 || y >= g.h || x < 0 || x+n > g.w {
		return
	}
	row := g.cells[y*g.w : (y+1)*g.w]
	if row[x].r == 0 {
		row[x-1].r = ' '
	}
	if end := x + n; end < g.w && row[end].r == 0 {
		row[end].r = ' '
	}
	row[x] = spot{r, s}
	for i := x + 1; i < x+n; i++ {
		row[i] = spot{0, s}
	}
}

// Put draws one character that is one cell wide.
func (g *Grid) Put(x, y int, s Style, r rune) { g.set(x, y, 1, r, s) }

// Mark draws a mark.
func (g *Grid) Mark(x, y int, m Mark) { g.set(x, y, 1, m.Rune, m.Style) }

// Fill draws n times the same character.
func (g *Grid) Fill(x, y, n int, s Style, r rune) {
	for i := range n {
		g.set(x+i, y, 1, r, s)
	}
}

// Text draws text into at most most cells, cuts what is too long with …, and returns the cells it took. The text is
// cleaned (lab.Clean), so that nothing that came from a machine can steer the terminal.
func (g *Grid) Text(x, y, most int, s Style, text string) int {
	most = min(most, g.w-x)
	if most <= 0 || y < 0 || y >= g.h {
		return 0
	}
	if !plain(text) {
		return g.odder(x, y, most, s, lab.Clean(text))
	}
	if len(text) > most {
		for i := range most - 1 {
			g.set(x+i, y, 1, rune(text[i]), s)
		}
		g.set(x+most-1, y, 1, '…', s)
		return most
	}
	for i := range len(text) {
		g.set(x+i, y, 1, rune(text[i]), s)
	}
	return len(text)
}

// odder is Text for text that is not plain ASCII.
func (g *Grid) odder(x, y, most int, s Style, text string) int {
	cut := Width(text) > most
	if cut {
		most--
	}
	used := 0
	for text != "" {
		cluster, n := ansi.FirstGraphemeCluster(text, ansi.GraphemeWidth)
		text = text[len(cluster):]
		if used+n > most {
			break
		}
		if n <= 0 {
			continue
		}
		r, size := utf8.DecodeRuneInString(cluster)
		if size < len(cluster) {
			g.odd = append(g.odd, cluster)
			r = rune(-len(g.odd))
		}
		g.set(x+used, y, n, r, s)
		used += n
	}
	if cut {
		g.set(x+used, y, 1, '…', s)
		used++
	}
	return used
}

// Right draws text so that it ends before x, in at most most cells, and returns the cells it took.
func (g *Grid) Right(x, y, most int, s Style, text string) int {
	n := min(Width(text), most)
	return g.Text(x-n, y, n, s, text)
}

// Restyle changes the style of n cells; what was reversed stays so.
func (g *Grid) Restyle(x, y, n int, change func(Style) Style) {
	if y < 0 || y >= g.h {
		return
	}
	for i := max(x, 0); i < min(x+n, g.w); i++ {
		c := &g.cells[y*g.w+i]
		c.s = change(c.s)
	}
}

// Select shows n cells reversed, as the selected row is.
func (g *Grid) Select(x, y, n int) {
	g.Restyle(x, y, n, func(s Style) Style {
		if s == Dim {
			s = Plain
		}
		return s | Reverse
	})
}

// Blank empties a rectangle, for what is drawn over the picture.
func (g *Grid) Blank(x, y, w, h int) {
	for i := range h {
		g.Fill(x, y+i, w, Plain, ' ')
	}
}

// Bar draws how much of the whole is done, 0 to 1, in n cells.
func (g *Grid) Bar(x, y, n int, s Style, done float64) {
	if g.ASCII && n > 4 {
		g.Put(x, y, Plain, '[')
		g.Put(x+n-1, y, Plain, ']')
		x, n = x+1, n-2
	}
	full := int(done*float64(n) + 0.5)
	if done < 1 {
		full = min(full, n-1)
	}
	full = max(0, min(full, n))
	g.Fill(x, y, full, s, '█')
	g.Fill(x+full, y, n-full, Dim, '░')
}

// Box draws a frame with a title at its left and words at its right.
func (g *Grid) Box(x, y, w, h int, s Style, title, right string) {
	if w < 2 || h < 2 {
		return
	}
	for i := 1; i < h-1; i++ {
		g.Put(x, y+i, s, '│')
		g.Put(x+w-1, y+i, s, '│')
	}
	for _, edge := range []struct {
		y           int
		left, right rune
	}{{y, '┌', '┐'}, {y + h - 1, '└', '┘'}} {
		g.Put(x, edge.y, s, edge.left)
		g.Fill(x+1, edge.y, w-2, s, '─')
		g.Put(x+w-1, edge.y, s, edge.right)
	}
	g.Titles(x+1, y, w-2, title, right)
}

// Titles writes words over a line: title near its left end, right near its right end, as far as there is room.
func (g *Grid) Titles(x, y, w int, title, right string) {
	used := 1
	if title != "" && w > 6 {
		g.Put(x+1, y, Plain, ' ')
		used = 3 + g.Text(x+2, y, w-5, Bold, title)
		g.Put(x+used-1, y, Plain, ' ')
	}
	if n := Width(right); right != "" && used+n+4 <= w {
		g.Put(x+w-n-3, y, Plain, ' ')
		g.Text(x+w-n-2, y, n, Plain, right)
		g.Put(x+w-2, y, Plain, ' ')
	}
}

// String returns the picture: its lines parted by \n, blanks at their ends left out.
func (g *Grid) String() string {
	t := &inColour
	if g.Mono {
		t = &inMono
	}
	b := g.out[:0]
	for y := range g.h {
		if y > 0 {
			b = append(b, '\n')
		}
		b = g.line(b, g.cells[y*g.w:(y+1)*g.w], t)
	}
	g.out = b
	return string(b)
}

func (g *Grid) line(b []byte, row []spot, t *table) []byte {
	end := len(row)
	for end > 0 && row[end-1].r == ' ' && row[end-1].s < Reverse {
		end--
	}
	now := Plain
	for _, c := range row[:end] {
		s := c.s
		if g.Faded && s < Reverse {
			s = Dim
		}
		if s != now && c.r != 0 && !(c.r == ' ' && s|now < Reverse) {
			b = append(b, t[s]...)
			now = s
		}
		switch {
		case c.r == 0:
			if g.ASCII {
				b = append(b, '?')
			}
		case g.ASCII && c.r < 0:
			b = append(b, '?')
		case g.ASCII:
			b = append(b, byte(Plainly(c.r)))
		case c.r < 0:
			b = append(b, g.odd[-c.r-1]...)
		default:
			b = utf8.AppendRune(b, c.r)
		}
	}
	if now != Plain {
		b = append(b, t[Plain]...)
	}
	return b
}

// Width is how many cells a text takes. Escape sequences take none.
func Width(s string) int {
	if plain(s) {
		return len(s)
	}
	return ansi.StringWidth(s)
}

// Pad returns the text filled with blanks, or cut with …, to exactly n cells.
func Pad(s string, n int) string {
	w := Width(s)
	if w > n {
		s = ansi.Truncate(s, n, "…")
		w = Width(s)
	}
	return s + strings.Repeat(" ", max(0, n-w))
}

func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
