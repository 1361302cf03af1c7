// Package cli is the command line: the twin of the screen. Every command is a row of a table, and says the same verbs to
// the same desk as the keys do: to the lab that runs, over its socket, or, where none runs, to the state itself.
//
// It refuses to know how a lab is stored, served or drawn; main hands those over as a Host.
//
// Data goes to standard output, all else to standard error: with --json or --jsonl as one document a line, a note or an
// error. On a terminal a table is aligned and has a head; in a pipe
// it is separated by tabs and has none; there is never a colour. With --json there is one document, with --jsonl one a
// line; names are snake_case, *_bytes and *_seconds are plain numbers, times are RFC 3339. Nothing is asked unless
// standard input is a terminal.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"carte/lab"
	"carte/lab/remote"
)

// A Host is what the command line needs of the program that it is part of.
type Host struct {
	Version string
	// Open opens the state itself, for one command while no lab runs there. lab.ErrBusy: another command has it open.
	Open func(ctx context.Context, state string) (desk lab.Desk, done func() error, err error)
	// Has says whether there is a lab in a folder; nil: nobody can tell. To ask makes nothing.
	Has func(state string) bool
	// Serve runs a lab, and serves its socket, until ctx ends or with returns. With is called when everything listens; nil
	// serves on.
	Serve func(ctx context.Context, o ServeOptions, with func(ctx context.Context, desk lab.Desk) error) error
	// Screen shows a lab until the person leaves.
	Screen func(ctx context.Context, desk lab.Desk, o ScreenOptions) error
	// DemoImage makes the demo system's image, of the form tree; an error says what this carte lacks for it.
	DemoImage func(ctx context.Context) (io.ReadCloser, error)
	// Kernel is carte's own, as a Linux kernel's file; an error says that this carte has none.
	Kernel func() ([]byte, error)
	// Fits says why this computer cannot run a virtual machine; nil: nobody can tell.
	Fits func(lab.Virtual) error
	// Movers flash and capture on this computer.
	Movers Movers
}

// ServeOptions is what a lab is served with.
type ServeOptions struct {
	State  string
	Config LabConfig
	Log    io.Writer // where the log of the servers goes; nil: nowhere
}

// ScreenOptions is what the screen is opened with.
type ScreenOptions struct {
	Name  string // the lab's
	Start string // the address to begin at, empty for the first screen
	Own   bool   // leaving the screen ends the lab, because it runs in this process
	// Command carries out a command line without its first word, for ':'; it returns what that wrote.
	Command func(ctx context.Context, line string) (string, error)
	// Program returns the command line, with its program, of a command that takes over the terminal.
	Program func(args ...string) ([]string, error)
}

// A Terminal is where a command reads and writes.
type Terminal struct {
	In       io.Reader
	Out, Err io.Writer
	// Whether In, Out and Err are a person's terminal.
	Asks, Table, Progress bool
	Env                   func(string) string
	Now                   func() time.Time
}

// Standard is the process's own terminal.
func Standard() Terminal {
	tty := func(f *os.File) bool { return isatty.IsTerminal(f.Fd()) }
	return Terminal{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Asks: tty(os.Stdin), Table: tty(os.Stdout), Progress: tty(os.Stderr),
		Env: os.Getenv, Now: time.Now,
	}
}

// Run carries out one command line, args without the program's name, and returns the process's exit code. Errors are on
// t.Err by then.
func Run(ctx context.Context, h Host, t Terminal, args []string) int {
	c := &call{host: h, term: t}
	root := c.tree()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		// A signal is the cause of the context's end, and as an error only the name of the signal.
		if why := context.Cause(ctx); why != nil && errors.Is(err, why) && !errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%w: %w", err, context.Canceled)
		}
		return c.fail(err, args)
	}
	return 0
}

// A call is one command line being carried out.
type call struct {
	host Host
	term Terminal

	state string // --state
	json  bool
	jsonl bool
	quiet bool
	makes bool // the command makes a lab where there is none
}

// stateDir is the folder of the lab: --state, CARTE_STATE, or the XDG state folder.
func (c *call) stateDir() (string, error) {
	dir, from := c.state, "--state "+c.state
	if dir == "" {
		dir = c.term.Env("CARTE_STATE")
		from = "CARTE_STATE=" + dir
	}
	for _, x := range []string{under(c.term.Env("XDG_STATE_HOME"), "carte"), under(c.term.Env("HOME"), ".local/state/carte")} {
		if dir == "" {
			dir, from = x, x
		}
	}
	if dir == "" {
		return "", fmt.Errorf("no folder for the lab: HOME is not set; name one with --state DIR: %w", lab.ErrInvalid)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("%s: %w", from, err)
	}
	if st, err := os.Stat(dir); err == nil && !st.IsDir() {
		return "", fmt.Errorf("%s: it must be a folder, and it is a file: %w", from, lab.ErrInvalid)
	}
	return dir, nil
}

// notEmpty is a flag whose value must be something: an empty one is a variable that is not set, in a script.
type notEmpty struct {
	s    *string
	what string
}

func (n notEmpty) String() string {
	if n.s == nil {
		return ""
	}
	return *n.s
}
func (n notEmpty) Type() string { return n.what }
func (n notEmpty) Set(v string) error {
	if v == "" {
		return fmt.Errorf("the value is empty (a variable that is not set?): %w", lab.ErrInvalid)
	}
	*n.s = v
	return nil
}

func under(dir, name string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, name)
}

// dial connects to the lab that runs.
func (c *call) dial() (*remote.Client, error) {
	dir, err := c.stateDir()
	if err != nil {
		return nil, err
	}
	return remote.Dial(dir)
}

// desk is the lab that a command works with.
type desk struct {
	lab.Desk
	running bool // in another process, behind the socket
	client  *remote.Client
}

// patience is how long a command waits for another one that has the state open.
const patience = 3 * time.Second

// with calls do with the lab that runs, or, where none does, with the state itself.
func (c *call) with(ctx context.Context, do func(desk) error) error {
	dir, err := c.stateDir()
	if err != nil {
		return err
	}
	giveUp := time.After(patience)
	for {
		cl, err := remote.Dial(dir)
		switch {
		case err == nil:
			defer cl.Close()
			return do(desk{cl, true, cl})
		case !errors.Is(err, lab.ErrUnreachable):
			return err
		}
		if err := c.there(dir); err != nil {
			return err
		}
		d, done, err := c.host.Open(ctx, dir)
		switch {
		case err == nil:
			return errors.Join(do(desk{d, false, nil}), done())
		case !errors.Is(err, lab.ErrBusy):
			return err
		}
		select { // a command that ends soon, or a lab that does not answer yet
		case <-time.After(patience / 60):
		case <-giveUp:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// there refuses a folder that somebody named and that has no lab, unless the command makes one: what only reads leaves nothing
// behind, and a name that is mistyped is no new lab. Where nobody named one, it is the person's first.
func (c *call) there(dir string) error {
	if c.makes || c.host.Has == nil || c.state+c.term.Env("CARTE_STATE") == "" || c.host.Has(dir) {
		return nil
	}
	return &noLab{dir}
}

// noLab is a folder without a lab.
type noLab struct{ dir string }

func (n *noLab) Error() string {
	return fmt.Sprintf("there is no lab in %s, and nothing was made there; carte serve makes one, and so do machine add, image import and stack import", n.dir)
}
func (n *noLab) Unwrap() error { return lab.ErrNotFound }
func (n *noLab) Fix() []string { return []string{quoted([]string{"carte", "serve", "--state", n.dir})} }

// live calls do with the lab that runs; without one it is an error.
func (c *call) live(do func(desk) error) error {
	cl, err := c.dial()
	if err != nil {
		return err
	}
	defer cl.Close()
	return do(desk{cl, true, cl})
}

// say says a verb and shows what came of it.
func (c *call) say(ctx context.Context, v lab.Verb, show func(lab.Changed, lab.Snapshot) error) error {
	return c.with(ctx, func(d desk) error {
		changed, s, err := d.say(ctx, v)
		if err != nil {
			return err
		}
		return show(changed, s)
	})
}

// say says a verb, and returns what it changed and the lab after it.
func (d desk) say(ctx context.Context, v lab.Verb) (lab.Changed, lab.Snapshot, error) {
	changed, err := d.Say(ctx, v)
	if err != nil {
		return changed, lab.Snapshot{}, err
	}
	s, err := d.Watch(ctx, 0)
	return changed, s, err
}

// look calls do with the lab as it is.
func (c *call) look(ctx context.Context, do func(lab.Snapshot) error) error {
	return c.with(ctx, seeing(ctx, func(_ desk, s lab.Snapshot) error { return do(s) }))
}

// seeing is do, which is handed the lab as it is.
func seeing(ctx context.Context, do func(desk, lab.Snapshot) error) func(desk) error {
	return func(d desk) error {
		s, err := d.Watch(ctx, 0)
		if err != nil {
			return err
		}
		return do(d, s)
	}
}

// note says something to the person, beside the data.
func (c *call) note(format string, args ...any) {
	switch {
	case c.quiet:
	case c.json || c.jsonl:
		_ = writeJSON(c.term.Err, struct {
			Note string `json:"note"`
		}{fmt.Sprintf(format, args...)})
	default:
		fmt.Fprintf(c.term.Err, format+"\n", args...)
	}
}

// aside is a note of what the document of --json has too.
func (c *call) aside(format string, args ...any) {
	if !c.json {
		c.note(format, args...)
	}
}

// tree makes cobra's commands from the table.
func (c *call) tree() *cobra.Command {
	root := &cobra.Command{
		Use:           "carte",
		Short:         "Operating systems a la carte, on the spare machines beside your desk",
		Long:          "Operating systems a la carte, on the spare machines beside your desk.\n\nWithout a command, carte opens the screen.",
		SilenceErrors: true, SilenceUsage: true,
		Version: c.host.Version,
		Args:    c.known,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.screen(cmd.Context(), "") },
	}
	root.SetVersionTemplate("carte {{.Version}}\n")
	root.SetIn(c.term.In)
	root.SetOut(c.term.Out)
	root.SetErr(c.term.Err)
	f := root.PersistentFlags()
	f.Var(notEmpty{&c.state, "DIR"}, "state", "folder of the lab (default $CARTE_STATE or the XDG state folder)")
	f.BoolVar(&c.json, "json", false, "one JSON document")
	f.BoolVarP(&c.quiet, "quiet", "q", false, "names only")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		text := strings.TrimSuffix(err.Error(), ": "+lab.ErrInvalid.Error())
		return fmt.Errorf("%s; %s --help lists the flags: %w", text, cmd.CommandPath(), lab.ErrInvalid)
	})
	for _, e := range c.table() {
		e.add(root, c)
	}
	root.SetHelpCommand(c.help(root))
	root.InitDefaultCompletionCmd()
	for _, x := range root.Commands() {
		if x.Name() == "completion" { // cobra's own shows its help for a shell that it does not know
			x.Args, x.RunE = c.known, what(x.Name())
		}
	}
	return root
}

// help is the command that shows the help of others.
func (c *call) help(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "show the help of a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			switch {
			case err != nil:
				return fmt.Errorf("%v: %w", err, lab.ErrInvalid)
			case len(rest) > 0:
				return c.known(cmd, rest)
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// known refuses a command that does not exist and names the nearest ones.
func (c *call) known(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	near := cmd.SuggestionsFor(args[0])
	if len(near) == 0 {
		return fmt.Errorf("%s has no command %q; %s --help lists them: %w", cmd.CommandPath(), args[0], cmd.CommandPath(), lab.ErrInvalid)
	}
	for i := range near {
		near[i] = cmd.CommandPath() + " " + near[i]
	}
	return &unknown{fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0]), near}
}

// unknown is a command that does not exist, beside those that are like it.
type unknown struct {
	what string
	near []string
}

func (u *unknown) Error() string {
	return u.what + "; did you mean " + strings.Join(u.near, " or ") + "?"
}
func (u *unknown) Unwrap() error { return lab.ErrInvalid }
func (u *unknown) Fix() []string { return slices.Clone(u.near) }
