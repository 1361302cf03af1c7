package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"carte/lab"
	"carte/lab/text"
	"carte/tui/action"
)

// edits are the changes of a stack that flags say.
type edits struct {
	set  []string // KEY=VALUE
	from string
}

func (e *edits) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&e.set, "set", nil, "change one key: cmdline=quiet, asks.lazy=required; may be said more than once")
	f.StringVarP(&e.from, "from", "f", "", "take the stack from its text (TOML), or with - from standard input")
}

// editStack changes a stack: as flags say, or in the person's editor.
func (c *call) editStack(ctx context.Context, name string, e edits) error {
	return c.withStack(ctx, []string{name}, "", func(d desk, s lab.Snapshot, st lab.Stack) (err error) {
		switch {
		case e.from != "" && len(e.set) > 0:
			return fmt.Errorf("either -f or --set: %w", lab.ErrInvalid)
		case e.from != "":
			st, b, err := c.stackText(ctx, e.from)
			if err != nil {
				return err
			}
			st.Name = name
			return c.putText(ctx, d, s, b, lab.PutStack{Stack: st, Edit: true})
		case len(e.set) > 0:
			for _, x := range e.set {
				if err := setKey(s, &st, x); err != nil {
					return err
				}
			}
			return c.putStack(ctx, d, lab.PutStack{Stack: st, Edit: true})
		}
		return c.editText(ctx, d, st)
	})
}

// setters say what a key of a stack's text takes. Those of a table are in setKey.
var setters = map[string]func(st *lab.Stack, v string) error{
	"cmdline": func(st *lab.Stack, v string) error { st.Cmdline = v; return nil },
	"start":   func(st *lab.Stack, v string) error { st.Start = lab.Start(v); return nil },
	"until":   func(st *lab.Stack, v string) error { st.Until = lab.Rung(v); return nil },
	"upper":   func(st *lab.Stack, v string) error { st.Upper = lab.Upper(v); return nil },
	"reset":   func(st *lab.Stack, v string) error { st.Reset = lab.Reset(v); return nil },
	"note":    func(st *lab.Stack, v string) error { st.Note = v; return nil },
	"keep":    func(st *lab.Stack, v string) error { st.Keep = commas(v); return nil },
	"grow": func(st *lab.Stack, v string) (err error) {
		if st.Grow = false; v != "" {
			if st.Grow, err = strconv.ParseBool(v); err != nil {
				return fmt.Errorf("%q is neither true nor false: %w", v, lab.ErrInvalid)
			}
		}
		return nil
	},
}

// setLayers takes the images of a list, which may be named by their tags.
func setLayers(s lab.Snapshot, st *lab.Stack, v string) error {
	st.Layers = nil
	for _, x := range commas(v) {
		ref, err := s.ParseRef(x)
		if err != nil {
			return err
		}
		st.Layers = append(st.Layers, ref)
	}
	return nil
}

// commas splits a list at its commas; an empty one has nothing in it.
func commas(v string) (all []string) {
	for _, x := range strings.Split(v, ",") {
		if x = strings.TrimSpace(x); x != "" {
			all = append(all, x)
		}
	}
	return all
}

// setKey changes one key of a stack.
func setKey(s lab.Snapshot, st *lab.Stack, word string) error {
	key, v, ok := strings.Cut(word, "=")
	if !ok {
		return fmt.Errorf("--set %q is not KEY=VALUE: %w", word, lab.ErrInvalid)
	}
	table, name, dotted := strings.Cut(key, ".")
	switch {
	case table == "params" && dotted:
		st.Params = action.Edited(st.Params, name, v)
	case table == "asks" && dotted:
		st.Asks = action.Edited(st.Asks, lab.Clause(name), lab.Need(v))
	case key == "layers":
		if err := setLayers(s, st, v); err != nil {
			return fmt.Errorf("--set layers: %w", err)
		}
	case setters[key] != nil:
		if err := setters[key](st, v); err != nil {
			return fmt.Errorf("--set %s: %w", key, err)
		}
	default:
		return fmt.Errorf("--set %s: a stack has layers, %s, params.NAME and asks.CLAUSE; its files are changed with -f or in the editor: %w", key, strings.Join(sortedKeys(setters), ", "), lab.ErrInvalid)
	}
	return nil
}

// editText lets a person edit a stack. A text that is broken, or that the lab refuses, is opened again at its line. What was
// written is never lost: an error names the file that has it.
func (c *call) editText(ctx context.Context, d desk, was lab.Stack) (err error) {
	if argv := action.Editor(c.term.Env, "", 1); !c.term.Asks && action.OnTerminal(argv[0]) {
		return fmt.Errorf("there is no terminal to edit stack %s on: --set KEY=VALUE changes one key, -f FILE takes a whole text: %w", was.Name, lab.ErrInvalid)
	}
	f, err := os.CreateTemp("", "carte-"+was.Name+"-*.toml")
	if err != nil {
		return err
	}
	begun := text.Stack(was)
	_, err = f.Write(begun)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	for line := 1; ; {
		if err := c.editor(ctx, f.Name(), line); err != nil {
			if b, readErr := os.ReadFile(f.Name()); readErr != nil || string(b) == string(begun) {
				return errors.Join(err, os.Remove(f.Name()))
			}
			return fmt.Errorf("%w; nothing was changed, and your text is in %s", err, f.Name())
		}
		b, err := os.ReadFile(f.Name())
		if err != nil {
			return err
		}
		if string(b) == string(begun) {
			c.note("nothing was changed")
			return os.Remove(f.Name())
		}
		err = c.takeText(ctx, d, was, b)
		if err == nil {
			return os.Remove(f.Name())
		}
		if !c.term.Asks || errors.Is(err, lab.ErrUnreachable) || ctx.Err() != nil {
			return &kept{err, "nothing was changed, and the text is in " + f.Name()}
		}
		fmt.Fprintf(c.term.Err, "%s\nEnter edits it again, q leaves the stack as it is: ", words(err))
		if typed, readErr := readLine(c.term.In); readErr != nil || strings.HasPrefix(typed, "q") {
			return &kept{err, "nothing was changed, and the text is in " + f.Name()}
		}
		line = lineOf(err)
	}
}

// takeText makes a text the stack, unless somebody else has changed that meanwhile.
func (c *call) takeText(ctx context.Context, d desk, was lab.Stack, b []byte) error {
	st, err := text.ParseStack(b)
	if err != nil {
		return err
	}
	if st.Name != was.Name {
		return fmt.Errorf("the text names the stack %q, and this is %s; carte stack new makes another one: %w", st.Name, was.Name, lab.ErrInvalid)
	}
	s, err := d.Watch(ctx, 0)
	if err != nil {
		return err
	}
	if now := s.Stacks[was.Name]; !reflect.DeepEqual(text.Stack(now), text.Stack(was)) {
		return fmt.Errorf("stack %s was changed by somebody else while you edited it: %w", was.Name, lab.ErrBusy)
	}
	return c.putText(ctx, d, s, b, lab.PutStack{Stack: st, Edit: true})
}

// editor opens a file in the person's editor, and returns when that has ended.
func (c *call) editor(ctx context.Context, file string, line int) error {
	argv := action.Editor(c.term.Env, file, line)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.term.In, c.term.Out, c.term.Err
	if c.json { // whose output is the document
		cmd.Stdout = c.term.Err
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the editor (%s): %w; VISUAL or EDITOR names another one", strings.Join(slices.DeleteFunc(argv, func(a string) bool { return a == file }), " "), err)
	}
	return nil
}

var lineNumber = regexp.MustCompile(`line (\d+)`)

// lineOf is the line that an error names, else the first.
func lineOf(err error) int {
	if m := lineNumber.FindStringSubmatch(err.Error()); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil && n > 0 {
			return n
		}
	}
	return 1
}
