package cell

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

func draw(w, h int, f func(g *Grid)) []string {
	g := &Grid{}
	g.Reset(w, h)
	f(g)
	return strings.Split(g.String(), "\n")
}

func TestText(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"nuc-1", 8, "nuc-1"},
		{"nuc-1", 5, "nuc-1"},
		{"nuc-12", 5, "nuc-…"},
		{"日本語", 6, "日本語"},
		{"日本語", 5, "日本…"},
		{"日本語", 4, "日…"},
		{"e\u0301a", 2, "e\u0301a"},
		{"evil\x1b[2Jtext", 20, "eviltext"},
		{"a\u202eb\u200bc\rd\u0085e", 20, "abcde"},
		{"x", 0, ""},
	} {
		got := ""
		draw(20, 1, func(g *Grid) {
			n := g.Text(0, 0, c.most, Plain, c.text)
			got = g.String()
			if n != ansi.StringWidth(got) {
				t.Errorf("Text(%q, %d) says %d cells, it took %d", c.text, c.most, n, ansi.StringWidth(got))
			}
		})
		if got != c.want {
			t.Errorf("Text(%q, %d) = %q, want %q", c.text, c.most, got, c.want)
		}
	}
}

func TestOverlayCutsWideCharacters(t *testing.T) {
	for x := range 6 {
		got := draw(6, 1, func(g *Grid) {
			g.Text(0, 0, 6, Plain, "日本語")
			g.Put(x, 0, Plain, '#')
		})[0]
		if w := ansi.StringWidth(got); w > 6 || !strings.Contains(got, "#") || strings.Count(got, "#") != 1 {
			t.Errorf("# at %d: %q, %d cells", x, got, w)
		}
	}
}

func TestASCIIIsASCII(t *testing.T) {
	g := &Grid{ASCII: true}
	g.Reset(30, 4)
	g.Box(0, 0, 30, 4, Dim, "Maschine → größer", "日本")
	g.Bar(1, 1, 12, Green, 0.5)
	g.Mark(14, 1, Running)
	g.Text(1, 2, 20, Plain, "e\u0301 日本語 …—")
	for i, line := range strings.Split(g.String(), "\n") {
		plain := ansi.Strip(line)
		for _, r := range plain {
			if r >= utf8.RuneSelf {
				t.Errorf("line %d has %q: %q", i, r, plain)
			}
		}
		if len(plain) > 30 {
			t.Errorf("line %d has %d cells", i, len(plain))
		}
	}
}

// Every character that carte draws itself takes one cell, and has an ASCII stand-in.
func TestGlyphWidths(t *testing.T) {
	for r, a := range ascii {
		if w := ansi.StringWidth(string(r)); w != 1 {
			t.Errorf("%q takes %d cells", r, w)
		}
		if a >= 0x80 || a < ' ' {
			t.Errorf("%q stands in for %q", a, r)
		}
	}
	for _, m := range []Mark{Running, Writing, Booting, Idle, Held, Warn, Failed, Done, Absent, Unknown} {
		if Plainly(m.Rune) == '?' {
			t.Errorf("mark %q has no ASCII", m.Rune)
		}
	}
}

func TestMonoKeepsReverseAndBold(t *testing.T) {
	g := &Grid{Mono: true}
	g.Reset(10, 2)
	g.Text(0, 0, 10, Green, "green")
	g.Text(0, 1, 10, Yellow, "lost")
	g.Select(0, 1, 10)
	lines := strings.Split(g.String(), "\n")
	if strings.Contains(lines[0], "3") {
		t.Errorf("colour without colour: %q", lines[0])
	}
	if !strings.Contains(lines[1], "\x1b[0;7;1m") {
		t.Errorf("the selected row is not reversed: %q", lines[1])
	}
}

func TestOutsideIsCut(t *testing.T) {
	lines := draw(8, 3, func(g *Grid) {
		g.Box(-2, -1, 40, 40, Plain, "far too long a title", "right")
		g.Text(-3, 1, 20, Plain, "left of it")
		g.Text(6, 1, 20, Plain, "right of it")
		g.Text(0, 9, 20, Plain, "below")
		g.Bar(4, 2, 30, Green, 2)
	})
	if len(lines) != 3 {
		t.Fatalf("%d lines", len(lines))
	}
	for _, l := range lines {
		if w := ansi.StringWidth(l); w > 8 {
			t.Errorf("%q is %d cells wide", l, w)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("nuc-1", 3)
	f.Add("日本\u200d語\x1b]0;x\a", 7)
	f.Fuzz(func(t *testing.T, s string, most int) {
		got := draw(12, 1, func(g *Grid) { g.Text(1, 0, most%20, Cyan, s) })
		if len(got) != 1 || ansi.StringWidth(got[0]) > 12 {
			t.Errorf("%q is not one line of 12 cells", got)
		}
		if strings.ContainsAny(ansi.Strip(got[0]), "\x1b\r\n\a\b\u202e\u200b") {
			t.Errorf("%q can steer the terminal", got)
		}
	})
}
