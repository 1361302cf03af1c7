package lab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"carte/lab/chunk"
)

// A Stack is an ordered list of images that a machine runs together, each pinned to a version or floating.
type Stack struct {
	Name    string    `json:"name"`
	Layers  []Ref     `json:"layers"`
	Cmdline string    `json:"cmdline,omitempty"` // added to the kernel's command line, for trees
	Until   Rung      `json:"until,omitempty"`   // the rung that ends a boot; empty: run for a disk, collect for a tree
	Grow    bool      `json:"grow,omitempty"`    // the last partition and its file system take the room that a disk has
	Since   time.Time `json:"since"`
}

// SortedStacks returns the stacks by name.
func (s Snapshot) SortedStacks() []Stack {
	return slices.SortedFunc(maps.Values(s.Stacks), func(a, b Stack) int { return cmp.Compare(a.Name, b.Name) })
}

// Start is how the user's system starts.
type Start string

const (
	StartDisk    Start = "disk"    // the firmware starts what is on the disk
	StartPivot   Start = "pivot"   // the agent hands its own kernel over to the tree's init
	StartCapture Start = "capture" // nothing: the disk is read, and the machine goes on as if nothing had been queued
)

// A Plan is a stack resolved: exact versions and bytes. Equal digests mean equal bytes.
type Plan struct {
	Stack   string       `json:"stack"` // its name; "capture IMAGE", which no stack is called, for a capture
	Form    Form         `json:"form"`
	Layers  []PlanLayer  `json:"layers"`
	Start   Start        `json:"start"`
	Until   Rung         `json:"until"` // the rung that ends the boot: run, or collect when the system says itself that it is done
	Cmdline string       `json:"cmdline,omitempty"`
	Grow    bool         `json:"grow,omitempty"`
	Capture *PlanCapture `json:"capture,omitempty"` // what the boot makes a version of; it has no layers then
	Digest  chunk.ID     `json:"digest"`
}

// A PlanLayer is one exact version.
type PlanLayer struct {
	Ref   Ref      `json:"ref"`
	Kind  string   `json:"kind"`
	Root  chunk.ID `json:"root"`
	Bytes int64    `json:"bytes"`
}

// Bytes is the room that the plan needs on a disk.
func (p Plan) Bytes() int64 {
	if p.Form == FormTree && p.Capture == nil {
		return TreeOffset + p.content() + TreeTail
	}
	return p.content()
}

// content is the length of all images of the plan.
func (p Plan) content() (n int64) {
	for _, l := range p.Layers {
		n += l.Bytes
	}
	return n
}

// A tree lies in a partition of its own: it begins TreeOffset bytes into the disk, and TreeTail bytes are kept behind it
// for the copy of the partition table.
const (
	TreeOffset = 1 << 20
	TreeTail   = 1 << 20
)

// Resolve turns a stack into a plan: floating layers take the newest version there is now.
func (s Snapshot) Resolve(stack string) (Plan, error) {
	st, ok := s.Stacks[stack]
	if !ok {
		var names []string
		for _, x := range s.SortedStacks() {
			names = append(names, x.Name)
		}
		return Plan{}, fmt.Errorf("stack %q: %w%s", stack, ErrNotFound, among("; there are ", names))
	}
	p := Plan{Stack: st.Name, Cmdline: st.Cmdline, Grow: st.Grow}
	for _, ref := range st.Layers {
		v, err := s.Version(ref)
		if err != nil {
			return Plan{}, fmt.Errorf("stack %s: %w", st.Name, err)
		}
		im := s.Images[v.Image]
		p.Form = im.Form
		p.Layers = append(p.Layers, PlanLayer{v.Ref(), im.Kind, v.Root, v.Bytes})
	}
	switch p.Form {
	case FormTree:
		p.Start, p.Until = StartPivot, RungCollect
	default:
		p.Start, p.Until = StartDisk, RungRun
	}
	p.Until = or(st.Until, p.Until)
	text, err := json.Marshal(p)
	if err != nil {
		return Plan{}, err
	}
	p.Digest = chunk.Sum(text)
	return p, nil
}

// NewStack makes a stack. Today a stack is one image of kind system.
type NewStack struct {
	Name    string `json:"name"`
	Layers  []Ref  `json:"layers"`
	Cmdline string `json:"cmdline,omitempty"`
	Until   Rung   `json:"until,omitempty"` // handover: for a system that carte cannot hear; run; collect: when it says done
	Grow    bool   `json:"grow,omitempty"`  // for disks
}

func (v NewStack) decide(d *draft) error {
	if err := checkName("stack", v.Name); err != nil {
		return err
	}
	if _, ok := d.Stacks[v.Name]; ok {
		return fmt.Errorf("stack %s is there already; carte stack rm %s takes it away: %w", v.Name, v.Name, ErrBusy)
	}
	if len(v.Layers) != 1 {
		return fmt.Errorf("stack %s has %d images; a stack takes exactly one system image: %w", v.Name, len(v.Layers), ErrInvalid)
	}
	if bad := firstControl(v.Cmdline); bad >= 0 {
		return fmt.Errorf("stack %s: byte %d of the command line is a control character or broken UTF-8: %w", v.Name, bad, ErrInvalid)
	}
	if !slices.Contains([]Rung{"", RungHandover, RungRun, RungCollect}, v.Until) {
		return fmt.Errorf("stack %s: a boot ends on the rung handover, run or collect, not on %q: %w", v.Name, v.Until, ErrInvalid)
	}
	for _, ref := range v.Layers {
		if _, err := d.Snapshot.Version(ref); err != nil {
			return err
		}
		im := d.Images[ref.Name]
		if im.Kind != "system" {
			return fmt.Errorf("image %s is of kind %s; a stack begins with a system image: %w", im.Name, im.Kind, ErrRefused)
		}
		if im.Form == FormFiles {
			return fmt.Errorf("image %s has the form files; today a stack is one image of the form disk or tree: %w", im.Name, ErrRefused)
		}
		if v.Grow && im.Form != FormDisk {
			return fmt.Errorf("image %s has the form %s; only a disk has a last partition that can grow: %w", im.Name, im.Form, ErrRefused)
		}
	}
	d.put(Stack{Name: v.Name, Layers: v.Layers, Cmdline: v.Cmdline, Until: v.Until, Grow: v.Grow, Since: d.at})
	d.fact(0, 0, "stack %s: %v", v.Name, v.Layers)
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
