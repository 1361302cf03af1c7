package text

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// writer puts TOML together, with comments.
type writer struct{ bytes.Buffer }

func (w *writer) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// gap begins a part, with what it is for.
func (w *writer) gap(means string) {
	w.line("")
	w.line("# %s", means)
}

// set writes a key; one that is not set, as a comment.
func (w *writer) set(key, value string, is bool, means string) {
	if means != "" {
		w.gap(means)
	}
	if !is {
		key = "# " + key
	}
	w.line("%s = %s", key, value)
}

func (w *writer) text(key, value, example, means string) {
	w.set(key, quote(or(value, example)), value != "", means)
}

func (w *writer) list(key string, all []string, example, means string) {
	value := example
	if len(all) > 0 {
		quoted := make([]string, len(all))
		for i, s := range all {
			quoted[i] = quote(s)
		}
		value = "[" + strings.Join(quoted, ", ") + "]"
	}
	w.set(key, value, len(all) > 0, means)
}

func (w *writer) table(name string, all map[string]string, example, means string) {
	w.gap(means)
	if len(all) == 0 {
		w.line("# [%s]", name)
		w.line("# %s", example)
		return
	}
	w.line("[%s]", name)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		w.line("%s = %s", quoteKey(key), quote(all[key]))
	}
}

// quoteKey writes a key bare where TOML allows it.
func quoteKey(s string) string {
	bare := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !bare(r) }) < 0 {
		return s
	}
	return quote(s)
}

// quote writes a basic string of TOML 1.0. What is no UTF-8 cannot be in one, and becomes U+FFFD.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	escape(&b, s, false)
	b.WriteByte('"')
	return b.String()
}

// quoteLong writes a text of several lines so that a person can read it.
func quoteLong(s string) string {
	if !strings.Contains(s, "\n") {
		return quote(s)
	}
	var b strings.Builder
	b.WriteString("\"\"\"\n") // a line's end right behind the quotes is none of the text's
	escape(&b, s, true)
	b.WriteString(`"""`)
	return b.String()
}

func escape(b *strings.Builder, s string, lines bool) {
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n' && lines:
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff:
			fmt.Fprintf(b, `\u%04X`, r) // also what would hide in a text, or turn it round
		default:
			b.WriteRune(r)
		}
	}
}
