package tui

import (
	"regexp"
	"strings"
)

// A filter keeps rows or lines. Its words must all be there, whatever their case; !word must not; re:X is a regular
// expression; key:X asks one field, as in state:lost. The zero filter keeps everything.
type filter struct {
	text  string
	terms []want
}

type want struct {
	not   bool
	field string
	word  string
	re    *regexp.Regexp
}

// parseFilter reads what was typed. What cannot be understood yet, such as half a regular expression, is taken as a word.
func parseFilter(text string) (f filter) {
	f.text = text
	for _, w := range strings.Fields(strings.ToLower(text)) {
		var t want
		if w, t.not = strings.CutPrefix(w, "!"); w == "" {
			continue
		}
		if pattern, ok := strings.CutPrefix(w, "re:"); ok {
			if re, err := regexp.Compile(pattern); err == nil {
				t.re = re
			}
		} else if field, word, ok := strings.Cut(w, ":"); ok && fields[field] {
			t.field, w = field, word
		}
		t.word = strings.Trim(w, "*")
		f.terms = append(f.terms, t)
	}
	return f
}

// fields are the words before a colon that ask one field. Other words with a colon, such as times and addresses, are
// words.
var fields = map[string]bool{"state": true, "kind": true, "name": true, "stack": true, "machine": true, "form": true}

// keeps says whether a row with these fields is kept. text is all of it.
func (f filter) keeps(text string, field map[string]string) bool {
	if len(f.terms) == 0 {
		return true
	}
	text = strings.ToLower(text)
	for _, t := range f.terms {
		in := text
		if t.field != "" {
			in = strings.ToLower(field[t.field])
		}
		found := false
		if t.re != nil {
			found = t.re.MatchString(in)
		} else {
			found = strings.Contains(in, t.word)
		}
		if found == t.not {
			return false
		}
	}
	return true
}
