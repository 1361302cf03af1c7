package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"carte/lab"
	"carte/tui/action"
)

// A list is what a command shows: one document for scripts, names, or a table for people.
type list struct {
	doc   any
	names []string
	head  []string
	rows  [][]string
	empty string // what to say to a person when there are no rows
}

// show writes a list in the form that was asked for.
func (c *call) show(l list) error {
	switch {
	case c.json:
		return writeJSON(c.term.Out, l.doc)
	case c.quiet:
		for _, n := range l.names {
			if _, err := fmt.Fprintln(c.term.Out, n); err != nil {
				return err
			}
		}
		return nil
	case len(l.rows) == 0 && l.empty != "" && (c.term.Table || c.term.Progress):
		c.note("%s", l.empty)
		return nil
	case !c.term.Table:
		return tabbed(c.term.Out, l.rows)
	}
	return aligned(c.term.Out, l.head, l.rows)
}

// tabbed writes rows for other programs: tabs between cells, no head.
func tabbed(w io.Writer, rows [][]string) error {
	for _, r := range rows {
		if _, err := fmt.Fprintln(w, strings.Join(clean(r), "\t")); err != nil {
			return err
		}
	}
	return nil
}

// aligned writes rows for a person: columns of the same width, with a head.
func aligned(w io.Writer, head []string, rows [][]string) error {
	all := rows
	if head != nil {
		all = append([][]string{head}, rows...)
	}
	var widths []int
	for _, r := range all {
		for i, cell := range clean(r) {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], ansi.StringWidth(cell))
		}
	}
	for _, r := range all {
		var line strings.Builder
		for i, cell := range clean(r) {
			line.WriteString(cell)
			if i < len(r)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-ansi.StringWidth(cell)+2))
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// clean takes out of cells what could steer the terminal.
func clean(cells []string) []string {
	out := make([]string, len(cells))
	for i, cell := range cells {
		out[i] = lab.Clean(cell)
	}
	return out
}

// took writes a time span as a person reads it.
func took(seconds float64) string {
	switch {
	case seconds < 0.0995:
		return fmt.Sprintf("%.0f ms", seconds*1000)
	case seconds < 99.95:
		return fmt.Sprintf("%.1f s", seconds)
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

// ago writes how long ago something was.
func (c *call) ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := max(0, c.term.Now().Sub(t))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return t.Local().Format("2006-01-02 15:04")
}

// stamp is a time in a document: RFC 3339, absent when it is zero.
func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func quoted(words []string) string {
	for i, w := range words {
		words[i] = action.Quote(w)
	}
	return strings.Join(words, " ")
}

func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}
