package tui

import (
	"io"
	"os/exec"

	tea "github.com/charmbracelet/bubbletea"

	"carte/lab"
	"carte/tui/action"
	"carte/tui/cell"
)

// A takeover is another program that has the terminal for a while.
type takeover struct {
	opt  *Options
	argv []string
}

// left is the end of a takeover.
type left struct {
	what string
	err  error
}

// console gives the terminal to the serial console of the machine that is selected or shown.
func (m *model) console() tea.Cmd { return m.consoleOf(m.target()) }

func (m *model) consoleOf(t action.Target) tea.Cmd {
	a, _ := action.ByID("machine.console")
	if can, why := a.Can(t); !can {
		m.say(cell.Warn, "%s", why)
		return nil
	}
	m.command = a.Command(t)
	if m.opt.Program == nil {
		m.say(cell.Warn, "it can be reached from a shell: %s", m.command)
		return nil
	}
	argv, err := m.opt.Program("console", t.Machine.Label())
	if err != nil {
		m.fail(err)
		return nil
	}
	what := "the console of " + lab.Clean(t.Machine.Label())
	return tea.Exec(&takeover{&m.opt, argv}, func(err error) tea.Msg { return left{what, err} })
}

// Run runs the program on the terminal itself.
func (x *takeover) Run() error {
	cmd := exec.Command(x.argv[0], x.argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = x.opt.In, x.opt.Out, x.opt.Out
	return cmd.Run()
}

// The terminal is the screen's own, whatever Bubble Tea would give.
func (x *takeover) SetStdin(io.Reader)  {}
func (x *takeover) SetStdout(io.Writer) {}
func (x *takeover) SetStderr(io.Writer) {}

// takeLeft shows the screen again.
func (m *model) takeLeft(l left) {
	m.wantClear = true
	if l.err != nil {
		m.say(cell.Failed, "%s ended: %v; %s says more", l.what, l.err, m.command)
	}
}
