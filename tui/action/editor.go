package action

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// lineEditors are the editors that take a line as +N before the file.
var lineEditors = []string{"vi", "vim", "nvim", "nano", "pico", "emacs", "emacsclient", "micro", "joe", "kak", "mcedit", "ne"}

// OnTerminal says that an editor is known to need a terminal.
func OnTerminal(editor string) bool { return slices.Contains(lineEditors, filepath.Base(editor)) }

// Editor returns the command by which a person edits a file: $VISUAL or $EDITOR, which may have flags, else vi; at a line,
// from 1, where that editor is known to take one.
func Editor(env func(string) string, file string, line int) []string {
	words := strings.Fields(env("VISUAL"))
	if len(words) == 0 {
		words = strings.Fields(env("EDITOR"))
	}
	if len(words) == 0 {
		words = []string{"vi"}
	}
	if line > 1 && slices.Contains(lineEditors, filepath.Base(words[0])) {
		words = append(words, fmt.Sprintf("+%d", line))
	}
	return append(words, file)
}
