package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"carte/lab"
	"carte/lab/remote"
)

// fail tells a person, or with --json a script, what went wrong, and returns the exit code.
func (c *call) fail(err error, args []string) int {
	f := lab.FailingOf(err)
	doc := remote.Error{Code: f.Code, Message: words(err), Fix: c.fixes(err, args)}
	if c.json || c.jsonl || slices.Contains(args, "--json") || slices.Contains(args, "--jsonl") {
		writeJSON(c.term.Err, struct {
			Error remote.Error `json:"error"`
		}{doc})
		return f.Exit
	}
	fmt.Fprintf(c.term.Err, "carte: %s\n", doc.Message)
	for _, fix := range doc.Fix {
		if !strings.Contains(doc.Message, fix) {
			fmt.Fprintf(c.term.Err, "  try: %s\n", fix)
		}
	}
	return f.Exit
}

// words are an error's, without the name of its kind and without what a machine could have put into it.
func words(err error) string {
	var k *kept
	switch { // where in the work it was is nobody's concern
	case errors.Is(err, context.Canceled) && errors.As(err, &k):
		return "interrupted; " + k.what
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case err == context.DeadlineExceeded:
		return "it took too long"
	}
	var lines []string
	text := lab.Words(err)
	if errors.Is(err, lab.ErrNotFound) && len(strings.Fields(text)) < 8 { // without its kind it would be a name and nothing else
		text = err.Error()
	}
	if errors.As(err, &k) && !strings.Contains(text, "nothing") {
		text += "; " + k.what
	}
	for _, line := range strings.Split(text, "\n") {
		lines = append(lines, lab.Clean(line))
	}
	return strings.Join(lines, "\n  ")
}

// kept is an error beside what became of the work before it.
type kept struct {
	error
	what string
}

func (k *kept) Unwrap() error { return k.error }

var confirmHint = regexp.MustCompile(`--confirm ([^\s:;,]+)`)

// fixes are commands that may help: those that the error has, and those that its sentence names.
func (c *call) fixes(err error, args []string) (fix []string) {
	var has interface{ Fix() []string }
	if errors.As(err, &has) {
		return has.Fix()
	}
	var sent *remote.Error
	if errors.As(err, &sent) && len(sent.Fix) > 0 {
		return sent.Fix
	}
	if m := confirmHint.FindStringSubmatch(err.Error()); m != nil && errors.Is(err, lab.ErrConfirm) {
		return []string{quoted(append([]string{"carte"}, append(unconfirmed(args), "--confirm", m[1])...))}
	}
	text := err.Error()
	before := strings.Join(args, " ")
	for {
		said, rest, ok := strings.Cut(text, "carte ")
		if !ok {
			return fix
		}
		before += " " + said
		if cmd := c.commandIn(rest, before); cmd != "" {
			fix = append(fix, cmd)
		}
		text = rest
	}
}

// unconfirmed is a command line without the name that was typed, which was the wrong one.
func unconfirmed(args []string) (rest []string) {
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--confirm":
			i++
		case !strings.HasPrefix(args[i], "--confirm="):
			rest = append(rest, args[i])
		}
	}
	return rest
}

// commandIn reads the command that a sentence begins with, as far as it is one: known words, then as many arguments and
// flags as it takes. Before is what was said before it.
func (c *call) commandIn(sentence, before string) string {
	var said []string
	for _, w := range strings.Fields(sentence) {
		bare := strings.TrimRight(w, ",;:.)")
		said = append(said, bare)
		if bare != w {
			break
		}
	}
	root := c.tree()
	cmd, rest, err := root.Find(said)
	if err != nil || cmd == root || !cmd.Runnable() || cmd.HasSubCommands() && len(rest) == 0 {
		return ""
	}
	_, want := entry{use: cmd.Use}.split()
	named := func(word string) bool { // and no word that the sentence goes on with: a name is odd, or said before
		odd := strings.ContainsFunc(word, func(r rune) bool { return !unicode.IsLower(r) })
		return odd || slices.Contains(strings.FieldsFunc(before, func(r rune) bool { return strings.ContainsRune(" ,;:()\"", r) }), word)
	}
	out := strings.Fields(cmd.CommandPath())
	for i := 0; i < len(rest); i++ {
		name, isFlag := strings.CutPrefix(rest[i], "--")
		switch {
		case isFlag && cmd.Flags().Lookup(name) != nil:
			out = append(out, rest[i])
			if cmd.Flags().Lookup(name).NoOptDefVal == "" && i+1 < len(rest) {
				i++
				out = append(out, rest[i])
			}
		case !isFlag && len(want) > 0 && named(rest[i]):
			want = want[1:]
			out = append(out, rest[i])
		default:
			i = len(rest)
		}
	}
	if len(want) > 0 && !strings.HasPrefix(want[0], "[") {
		return ""
	}
	return strings.Join(out, " ")
}

// usage is wrong use, with the command whose help says more.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return fmt.Errorf("%s; %s --help: %w", fmt.Sprintf(format, args...), cmd.CommandPath(), lab.ErrInvalid)
}

func writeJSON(w io.Writer, doc any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(doc)
}
