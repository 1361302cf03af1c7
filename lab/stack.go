package lab

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// A Stack is an ordered list of images that a machine runs together, each pinned to a version or floating.
type Stack struct {
	Name    string            `json:"name"`
	Layers  []Ref             `json:"layers"`            // the system first, then what lies over it; the last wins
	Cmdline string            `json:"cmdline,omitempty"` // added to the kernel's command line, for trees and kernels; {name} is a parameter
	Params  map[string]string `json:"params,omitempty"`  // what {name} stands for unless a boot says otherwise
	Start   Start             `json:"start,omitempty"`   // empty: the fastest that this machine can and that keeps what was promised
	Until   Rung              `json:"until,omitempty"`   // the rung that ends a boot; empty: collect for a tree, else run
	Grow    bool              `json:"grow,omitempty"`    // of a disk: the last partition and its file system take the room that there is
	Upper   Upper             `json:"upper,omitempty"`   // of a tree: where its changes go; empty: to memory
	Reset   Reset             `json:"reset,omitempty"`   // of a tree: how much of it is proven before every boot; empty: DefaultReset
	Asks    Terms             `json:"asks,omitempty"`    // clauses that a boot should have, or must
	Keep    []string          `json:"keep,omitempty"`    // images that are written back because this stack asks for it
	Files   []TextFile        `json:"files,omitempty"`   // written into the running system; {name} is a parameter, {machine} and {mac} are the machine's
	Note    string            `json:"note,omitempty"`
	Since   time.Time         `json:"since,omitzero"`
}

// A TextFile is a small file, such as a host name or a key.
type TextFile struct {
	Path string `json:"path"`           // absolute
	Mode uint32 `json:"mode,omitempty"` // of the permissions; 0: 0644
	Text string `json:"text"`
}

// The most that a stack may have.
const (
	maxLayers   = 24
	maxFiles    = 64
	maxFileText = 64 << 10
)

// SortedStacks returns the stacks by name.
func (s Snapshot) SortedStacks() []Stack {
	return slices.SortedFunc(maps.Values(s.Stacks), func(a, b Stack) int { return cmp.Compare(a.Name, b.Name) })
}

// check refuses what no machine could run, wherever its images are.
func (st Stack) check() error {
	if err := checkName("stack", st.Name); err != nil {
		return about("name", err)
	}
	refuse := func(key string, format string, args ...any) error {
		return about(key, fmt.Errorf("stack %s: %s: %w", st.Name, fmt.Sprintf(format, args...), ErrInvalid))
	}
	for i, r := range st.Layers {
		if slices.ContainsFunc(st.Layers[:i], func(x Ref) bool { return x.Name == r.Name }) {
			return refuse(nth("layers", i), "image %s is in it twice", r.Name)
		}
	}
	switch bad := firstControl(st.Cmdline); {
	case len(st.Layers) == 0:
		return refuse("layers", "it has no images; it begins with a system: --system IMAGE")
	case len(st.Layers) > maxLayers:
		return refuse("layers", "it has %d images, and %d are the most", len(st.Layers), maxLayers)
	case bad >= 0:
		return refuse("cmdline", "byte %d of the command line is a control character or broken UTF-8", bad)
	case !slices.Contains([]Rung{"", RungHandover, RungRun, RungCollect}, st.Until):
		return refuse("until", "a boot ends on the rung handover, run or collect, not on %q", st.Until)
	case !slices.Contains([]Start{"", StartDisk, StartPivot, StartKexec, StartNetboot, StartMemory}, st.Start):
		return refuse("start", "a system starts by pivot, kexec, netboot, from the disk or in memory, not by %q", st.Start)
	case !slices.Contains([]Upper{"", UpperMemory, UpperDisk}, st.Upper):
		return refuse("upper", "changes go to memory or to the disk, not to %q", st.Upper)
	case !slices.Contains([]Reset{"", ResetAlways, ResetSampled, ResetTrust}, st.Reset):
		return refuse("reset", "what lies on the disk is proven always, is sampled or is trusted; it is not %q", st.Reset)
	case len(st.Files) > maxFiles:
		return refuse("files", "it has %d files, and %d are the most; more of them are an image of the form files", len(st.Files), maxFiles)
	}
	for i, f := range st.Files {
		if slices.ContainsFunc(st.Files[:i], func(x TextFile) bool { return x.Path == f.Path }) {
			return refuse(nth("files", i), "file %s is in it twice", f.Path)
		}
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" || f.Path != Clean(f.Path) || f.Mode > 0o7777 || len(f.Text) > maxFileText || !utf8.ValidString(f.Text) {
			return refuse(nth("files", i), "file %.60q: its path is absolute, its mode at most 7777, and its text UTF-8 of at most %d bytes", f.Path, maxFileText)
		}
	}
	for _, c := range slices.Sorted(maps.Keys(st.Asks)) {
		if err := (Terms{c: st.Asks[c]}).Check(); err != nil {
			return about("asks."+string(c), err)
		}
	}
	return about("asks", st.Asks.Check())
}

// A StackError says which key of a stack's text an error is about: start, layers[1], asks.lazy.
type StackError struct {
	Key string
	err error
}

func (e *StackError) Error() string { return e.err.Error() }
func (e *StackError) Unwrap() error { return e.err }

// about says which key an error is about. One that says so already stays as it is.
func about(key string, err error) error {
	var has *StackError
	if err == nil || errors.As(err, &has) {
		return err
	}
	return &StackError{key, err}
}

func nth(key string, i int) string { return fmt.Sprintf("%s[%d]", key, i) }

// MayPut says whether a stack could be made, or edited, just now. A refusal that is about a key of its text is a StackError.
func (s Snapshot) MayPut(v PutStack) error { return v.decide(&draft{Snapshot: s}) }

// PutStack makes a stack, or with Edit takes the place of the one that has its name. What is queued already keeps the plan
// that it was given.
type PutStack struct {
	Stack
	Edit bool `json:"edit,omitempty"`
}

func (v PutStack) decide(d *draft) error {
	old, have := d.Stacks[v.Name]
	if have && !v.Edit {
		return fmt.Errorf("stack %s is there already; carte stack rm %s takes it away: %w", v.Name, v.Name, ErrBusy)
	}
	if !have && v.Edit {
		_, err := d.Resolve(v.Name)
		return err
	}
	st := v.Stack
	if err := st.check(); err != nil {
		return err
	}
	st.Note = Clean(st.Note)
	p, err := d.Plan(st, Machine{}, nil)
	if err != nil {
		return fmt.Errorf("stack %s: %w", st.Name, err)
	}
	if err := d.fits(st, p); err != nil {
		return fmt.Errorf("stack %s: %w", st.Name, err)
	}
	if st.Since = d.at; have {
		st.Since = old.Since
	}
	d.put(st)
	d.fact(0, 0, "stack %s: %v", st.Name, st.Layers)
	return nil
}

// fits refuses settings that the stack's images have no use for.
func (s Snapshot) fits(st Stack, p Plan) error {
	k, err := s.KindOf(p.Layers[0].Kind)
	if err != nil {
		return err
	}
	switch {
	case !k.Shared:
		return about("layers[0]", k.broken(ClauseShared, "%s would be the system, and one that no other machine may run; a system is of the kind system", p.Layers[0].Ref))
	case st.Grow && p.Form != FormDisk:
		return about("grow", fmt.Errorf("image %s has the form %s; only a disk has a last partition that can grow: %w", p.Layers[0].Ref.Name, p.Form, ErrRefused))
	case p.Form != FormTree && (len(st.Files) > 0 || st.Upper != "" || st.Reset != ""):
		key := "files"
		if st.Upper != "" {
			key = "upper"
		} else if st.Reset != "" {
			key = "reset"
		}
		return about(key, fmt.Errorf("image %s has the form %s; files, upper and reset are for trees: %w", p.Layers[0].Ref.Name, p.Form, ErrRefused))
	case p.Form == FormDisk && st.Cmdline != "":
		return about("cmdline", fmt.Errorf("image %s is a whole disk, which has its own command line: %w", p.Layers[0].Ref.Name, ErrRefused))
	}
	return about("keep", s.keeps(st, p))
}

// keeps refuses images that cannot be written back because a stack asks for it.
func (s Snapshot) keeps(st Stack, p Plan) error {
	var over []string
	for n, name := range st.Keep {
		i := slices.IndexFunc(p.Layers, func(l PlanLayer) bool { return l.Ref.Name == name })
		switch {
		case i < 0:
			return about(nth("keep", n), fmt.Errorf("image %q is to be kept, and is none of its images: %w", name, ErrInvalid))
		case p.Layers[i].Form == FormDisk:
			return fmt.Errorf("image %s is a whole disk; what was changed on it becomes a version by carte capture: %w", name, ErrRefused)
		case p.Layers[i].Form == FormKernel:
			return fmt.Errorf("image %s is a kernel, which nothing changes; it cannot be kept: %w", name, ErrRefused)
		case !p.Layers[i].Back:
			k, err := s.KindOf(p.Layers[i].Kind)
			if err != nil {
				return err
			}
			return k.broken(ClauseWritten, "image %s is to be kept, and is not written back (%s)", name, k.WrittenBack)
		case p.Layers[i].Place == "":
			over = append(over, name)
		}
	}
	if len(over) > 1 {
		return fmt.Errorf("%s all lie in the root, and what is changed there can go into one of them: %w", strings.Join(over, ", "), ErrRefused)
	}
	return nil
}

// firstControl returns where s has something that Clean would take out, or -1.
func firstControl(s string) int {
	for i, r := range s {
		if r == '\t' || unprintable(r) || r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") {
			return i
		}
	}
	return -1
}

// RemoveStack removes a stack. Boots that are queued keep the plan they were given.
type RemoveStack struct {
	Name string `json:"name"`
}

func (v RemoveStack) decide(d *draft) error {
	if _, ok := d.Stacks[v.Name]; !ok {
		_, err := d.Resolve(v.Name)
		return err
	}
	d.put(Gone{TableStacks, v.Name})
	d.fact(0, 0, "stack %s removed", v.Name)
	return nil
}
