package tui

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	tea "github.com/charmbracelet/bubbletea"

	"carte/lab"
	"carte/lab/text"
	"carte/tui/action"
	"carte/tui/cell"
)

// An editorRun is a stack's text in the person's editor, while the screen is away.
type editorRun struct {
	opt  *Options
	name string // the stack's
	text []byte
	line int
}

// edited is what came of it.
type edited struct {
	name string
	text []byte
	err  error
}

// editStack opens the stack that is shown or selected in the person's editor.
func (m *model) editStack() tea.Cmd {
	t := m.target()
	if t.Stack.Name == "" {
		m.say(cell.Warn, "no stack is selected; :stack edit NAME opens one")
		return nil
	}
	return m.edit(t.Stack.Name, text.Stack(t.Stack), 1)
}

func (m *model) edit(name string, b []byte, line int) tea.Cmd {
	e := &editorRun{opt: &m.opt, name: name, text: b, line: line}
	return tea.Exec(e, func(err error) tea.Msg { return edited{name, e.text, err} })
}

// Run writes the text to a file, waits for the editor, and reads it again.
func (e *editorRun) Run() error {
	f, err := os.CreateTemp("", "carte-"+e.name+"-*.toml")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(e.text)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	argv := action.Editor(e.opt.Env, f.Name(), e.line)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.opt.In, e.opt.Out, e.opt.Out // the terminal itself, which an editor must have
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the editor (%s): %w; VISUAL or EDITOR names another one", argv[0], err)
	}
	e.text, err = os.ReadFile(f.Name())
	return err
}

// The terminal is the screen's own, whatever Bubble Tea would give.
func (e *editorRun) SetStdin(io.Reader)  {}
func (e *editorRun) SetStdout(io.Writer) {}
func (e *editorRun) SetStderr(io.Writer) {}

var lineNumber = regexp.MustCompile(`line (\d+)`)

// edited takes the text back: it becomes the stack that is put together. A text that is broken can be opened again at its
// line.
func (m *model) takeEdited(e edited) {
	m.wantClear = true
	if e.err != nil {
		m.fail(e.err)
		return
	}
	st, err := text.ParseStack(e.text)
	if err == nil && st.Name != e.name {
		err = fmt.Errorf("the text names the stack %q, and this is %s: %w", st.Name, e.name, lab.ErrInvalid)
	}
	if err != nil {
		first, _, _ := strings.Cut(lab.Words(err), "\n")
		line := 1
		if at := lineNumber.FindStringSubmatch(first); at != nil {
			line, _ = strconv.Atoi(at[1])
		}
		m.sure = &sure{key: "e", what: "mend the text: " + strings.TrimSuffix(first, ":"), do: func() tea.Cmd { return m.edit(e.name, e.text, line) }}
		return
	}
	if m.at.at != action.Compose || m.at.stack != e.name {
		m.goTo(place{at: action.Compose, stack: e.name})
	}
	if d := m.composed(); d != nil {
		st.Since = d.was.Since
		m.change(st)
	}
}
