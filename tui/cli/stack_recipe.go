package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"carte/lab"
	"carte/lab/text"
)

// recipe is a stack as flags say it.
type recipe struct {
	layers []layered // as given
	stack  lab.Stack // what flags say of it directly
	params []string  // NAME=VALUE
	asks   []string  // CLAUSE, or CLAUSE=NEED
	files  []string  // PATH=FILE
	from   string    // a text instead
}

// layered is an image, and as what it was given.
type layered struct {
	as   string // system, kernel, user, project, layer
	text string // name, name@3 or name@TAG
}

// layerFlag collects images of several flags in the order in which they were given.
type layerFlag struct {
	to *[]layered
	as string
}

func (f layerFlag) Set(v string) error {
	*f.to = append(*f.to, layered{f.as, v})
	return nil
}
func (layerFlag) Type() string   { return "IMAGE" }
func (layerFlag) String() string { return "" }

func (r *recipe) flags(f *pflag.FlagSet) {
	for _, x := range []struct{ as, help string }{
		{"system", "the system: a disk or a tree; name floats to the newest version, name@3 stays, and name@TAG at the version that has the tag now"},
		{"kernel", "the kernel that starts a tree, with its modules; alone, what is started in memory"},
		{"user", "a person's files, over what was named before"},
		{"project", "the files of a piece of work, mounted at " + lab.ProjectPlace},
		{"layer", "an image of any kind, over what was named before"},
	} {
		f.Var(layerFlag{&r.layers, x.as}, x.as, x.help)
	}
	st := &r.stack
	f.StringVar(&st.Cmdline, "cmdline", "", "added to the kernel's command line, for trees and kernels; {name} is a parameter")
	f.StringArrayVar(&r.params, "param", nil, "a parameter and its value unless a boot says otherwise: pages=0")
	f.StringVar((*string)(&st.Start), "start", "", "how it starts: pivot, kexec, netboot, memory or disk (default: the fastest that the machine can)")
	f.StringVar((*string)(&st.Upper), "upper", "", "where a tree's changes go: memory or disk (default memory)")
	f.StringVar((*string)(&st.Reset), "reset", "", "how much of a tree is proven before a boot: always, sampled or trust (default "+string(lab.DefaultReset)+")")
	f.StringArrayVar(&r.asks, "ask", nil, "a clause that a boot should have, or with =required must: lazy=required")
	f.StringArrayVar(&st.Keep, "keep", nil, "an image whose changes become its next version, because this stack asks for it")
	f.StringArrayVar(&r.files, "file", nil, "a small file that is written into the running system: /etc/hostname=FILE; {machine}, {mac} and {name} in it are filled in")
	f.BoolVar(&st.Grow, "grow", false, "on a larger disk, the last partition and its ext4 take the room there is")
	f.StringVar((*string)(&st.Until), "until", "", "what ends a boot: handover (for a system that carte cannot hear), run (its first sign of life) or collect (when it says done)")
	f.StringVar(&st.Note, "note", "", "what it is good for, for people")
	f.StringVarP(&r.from, "from", "f", "", "take the stack from its text (TOML), or with - from standard input")
}

// newStack makes a stack of flags or of a text.
func (c *call) newStack(ctx context.Context, name string, r recipe) error {
	st, b, err := c.read(ctx, name, r)
	if err != nil {
		return err
	}
	return c.with(ctx, seeing(ctx, func(d desk, s lab.Snapshot) error {
		for _, l := range r.layers {
			ref, err := s.ParseRef(l.text)
			if err != nil {
				return fmt.Errorf("--%s: %w", l.as, err)
			}
			if err := l.fits(s, ref); err != nil && s.Stacks[name].Name == "" { // else that it is there is what to say
				return fmt.Errorf("stack %s: %w", name, err)
			}
			st.Layers = append(st.Layers, ref)
		}
		return c.putText(ctx, d, s, b, lab.PutStack{Stack: st})
	}))
}

// putText makes a stack of a text, nil where flags said it. What the lab refuses in a text is told with its line.
func (c *call) putText(ctx context.Context, d desk, s lab.Snapshot, b []byte, v lab.PutStack) error {
	if err := s.MayPut(v); err != nil && b != nil {
		return text.At(b, err)
	}
	return c.putStack(ctx, d, v)
}

// read makes the stack that a recipe says, but for its layers, whose names only the lab can read. With -f it returns the text, too.
func (c *call) read(ctx context.Context, name string, r recipe) (st lab.Stack, b []byte, err error) {
	if r.from != "" {
		if !r.plain() {
			return st, nil, fmt.Errorf("stack %s: -f takes the whole stack from a text; change that, or carte stack edit %s --set KEY=VALUE afterwards: %w", name, name, lab.ErrInvalid)
		}
		if st, b, err = c.stackText(ctx, r.from); err == nil {
			st.Name = name
		}
		return st, b, err
	}
	st = r.stack
	if st.Name = name; len(r.layers) == 0 {
		return st, nil, fmt.Errorf("stack %s of what? --system IMAGE, or -f FILE: %w", name, lab.ErrInvalid)
	}
	slices.SortStableFunc(r.layers, func(a, b layered) int { // the system is first, wherever it was said
		return btoi(b.as == "system") - btoi(a.as == "system")
	})
	for _, x := range r.params {
		k, v, ok := strings.Cut(x, "=")
		if !ok {
			return st, nil, fmt.Errorf("--param %q is not NAME=VALUE: %w", x, lab.ErrInvalid)
		}
		st.Params = with(st.Params, k, v)
	}
	for _, x := range r.asks {
		c, n := clauseWord(x)
		st.Asks = with(st.Asks, c, n)
	}
	for _, x := range r.files {
		f, err := textFile(x)
		if err != nil {
			return st, nil, err
		}
		st.Files = append(st.Files, f)
	}
	return st, nil, st.Asks.Check()
}

// plain says that a recipe has nothing but a text.
func (r recipe) plain() bool {
	st := r.stack
	return len(r.layers)+len(r.params)+len(r.asks)+len(r.files)+len(st.Keep) == 0 && !st.Grow &&
		st.Cmdline+string(st.Start)+string(st.Upper)+string(st.Reset)+string(st.Until)+st.Note == ""
}

// fits refuses an image that is not what its flag says.
func (l layered) fits(s lab.Snapshot, ref lab.Ref) error {
	v, err := s.Version(ref)
	if err != nil {
		return err
	}
	im := s.Images[v.Image]
	is := im.Kind == l.as
	switch l.as {
	case "layer", "system": // what is no system, the lab says
		is = true
	case "kernel":
		is = im.Form == lab.FormKernel
	}
	if !is {
		return fmt.Errorf("--%s %s: it is of kind %s and form %s; --layer takes any: %w", l.as, ref, im.Kind, im.Form, lab.ErrRefused)
	}
	return nil
}

// stackText reads a stack's text from a file or standard input.
func (c *call) stackText(ctx context.Context, file string) (lab.Stack, []byte, error) {
	r, _, err := c.source(ctx, file)
	if err != nil {
		return lab.Stack{}, nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxText+1))
	switch {
	case err != nil:
		return lab.Stack{}, nil, fmt.Errorf("%s: %w", file, err)
	case len(b) > maxText:
		return lab.Stack{}, nil, fmt.Errorf("%s is longer than %s, and no stack's text: %w", file, lab.Bytes(maxText), lab.ErrInvalid)
	}
	st, err := text.ParseStack(b)
	if err != nil {
		return st, nil, fmt.Errorf("%s: %w", file, err)
	}
	return st, b, nil
}

// maxText is the longest text of a stack.
const maxText = 8 << 20

// clauseWord reads CLAUSE or CLAUSE=NEED. Whether there are such is for the lab to say.
func clauseWord(word string) (lab.Clause, lab.Need) {
	c, n, given := strings.Cut(word, "=")
	if !given {
		n = string(lab.Optional)
	}
	return lab.Clause(c), lab.Need(n)
}

// textFile reads PATH=FILE. The file is readable by all unless FILE is not, and can be run if FILE can.
func textFile(word string) (f lab.TextFile, err error) {
	at, file, ok := strings.Cut(word, "=")
	if !ok || file == "" {
		return f, fmt.Errorf("--file %q is not PATH=FILE, as in /etc/hostname=./hostname: %w", word, lab.ErrInvalid)
	}
	st, err := os.Stat(file)
	if os.IsNotExist(err) {
		return f, fmt.Errorf("--file %s: %s: there is no such file here: %w", at, file, lab.ErrNotFound)
	}
	if err != nil {
		return f, err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return f, fmt.Errorf("--file %s: %w", at, err)
	}
	f = lab.TextFile{Path: at, Text: string(b)}
	switch mode := st.Mode().Perm(); {
	case mode&0o111 != 0:
		f.Mode = 0o755
	case mode&0o044 == 0:
		f.Mode = 0o600
	}
	return f, nil
}

// with returns m with a value in it.
func with[M ~map[K]V, K comparable, V any](m M, k K, v V) M {
	if m == nil {
		m = M{}
	}
	m[k] = v
	return m
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
