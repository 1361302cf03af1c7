package lab

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"carte/lab/chunk"
)

// Start is how the user's system starts.
type Start string

const (
	StartDisk    Start = "disk"    // the firmware starts what is on the disk
	StartPivot   Start = "pivot"   // the agent hands its own kernel over to the tree's init
	StartKexec   Start = "kexec"   // the agent replaces its own kernel by the stack's
	StartNetboot Start = "netboot" // the machine restarts, and iPXE loads the stack's kernel from the server
	StartMemory  Start = "memory"  // iPXE loads a kernel image and nothing else: no disk, no agent
	StartLay     Start = "lay"     // nothing: the disk is made equal to the plan, and that is all
	StartRepair  Start = "repair"  // nothing: the agent opens a shell on the console
	StartCapture Start = "capture" // nothing: the disk is read, and the machine goes on as if nothing had been queued
)

// Upper is where a tree's changes go.
type Upper string

const (
	UpperMemory Upper = "memory" // gone with the power
	UpperDisk   Upper = "disk"   // on carte-scratch, made anew for every boot
)

// Reset is how much of what lies on the disk is proven before a tree starts, where carte has laid the same there before and
// has proven it then. What the user's system changed is dropped in any case.
type Reset string

const (
	ResetAlways  Reset = "always"  // every byte
	ResetSampled Reset = "sampled" // one chunk in sixteen, at most 64 of them, others at every boot
	ResetTrust   Reset = "trust"   // none: nothing of carte's has written there since
)

// DefaultReset is that of a stack which says nothing, unless its boot is sealed: then it is always.
const DefaultReset = ResetSampled

// A Plan is a stack resolved for one machine: exact versions and bytes. Equal digests mean equal bytes.
type Plan struct {
	Stack   string            `json:"stack"`  // its name; "capture IMAGE", which no stack is called, for a capture
	Form    Form              `json:"form"`   // of the system: disk, tree, or kernel for one that runs in memory
	Layers  []PlanLayer       `json:"layers"` // the system first, then what lies over it; the last wins
	Start   Start             `json:"start"`
	Auto    bool              `json:"auto_start,omitempty"` // the lab chose Start, and may choose again
	Until   Rung              `json:"until"`                // the rung that ends the boot: run, or collect when the system says itself that it is done
	Cmdline string            `json:"cmdline,omitempty"`    // with its parameters filled in
	Params  map[string]string `json:"params,omitempty"`
	Grow    bool              `json:"grow,omitempty"`
	Upper   Upper             `json:"upper,omitempty"`   // of a tree
	Reset   Reset             `json:"reset,omitempty"`   // of a tree: how much of what lies on the disk is proven before the start
	Files   []TextFile        `json:"files,omitempty"`   // with the machine's values filled in
	Agreed  []Agreed          `json:"agreed,omitempty"`  // what was asked for, and what the boot has
	Capture *PlanCapture      `json:"capture,omitempty"` // what the boot makes a version of; it has no layers then
	Repair  *PlanRepair       `json:"repair,omitempty"`  // nothing is started: somebody works on the machine
	Digest  chunk.ID          `json:"digest"`
}

// A PlanLayer is one exact version.
type PlanLayer struct {
	Ref   Ref      `json:"ref"`
	Kind  string   `json:"kind"`
	Form  Form     `json:"form"`
	Root  chunk.ID `json:"root"`
	Bytes int64    `json:"bytes"`
	Place string   `json:"place,omitempty"` // of files: where they are mounted; empty: over the root
	Back  bool     `json:"back,omitempty"`  // what the boot changes in it becomes its next version

	Floats bool `json:"floats,omitempty"` // its stack names no version of it
	Joined bool `json:"joined,omitempty"` // its stack does not name it: it is the machine's own
}

// Where a tree lies: in a partition of its own, which begins TreeOffset bytes into the disk. Every other layer has its own
// partition behind it, at the next multiple of LayerUnit; then carte-scratch; and TreeTail bytes are kept behind all for the
// copy of the partition table.
const (
	TreeOffset = 1 << 20
	TreeTail   = 1 << 20
	LayerUnit  = 1 << 20

	ScratchLeast = 256 << 20 // a smaller carte-scratch is not worth having
)

// Places returns where on the disk each layer begins, and the first byte behind all of them; nothing for a plan that lays
// nothing.
func (p Plan) Places() (at []int64, end int64) {
	if p.Start == StartMemory || p.Capture != nil {
		return make([]int64, len(p.Layers)), 0
	}
	end = p.Form.offset()
	for _, l := range p.Layers {
		end += (LayerUnit - end%LayerUnit) % LayerUnit
		at = append(at, end)
		end += l.Bytes
	}
	return at, end
}

// need is how far into the disk the plan reaches.
func (p Plan) need() int64 {
	_, end := p.Places()
	if end > 0 && p.Form == FormTree && p.Upper == UpperDisk {
		end += ScratchLeast + LayerUnit
	}
	return end
}

// scratch is where the changes of the plan's tree go on a disk of so many bytes that has this tail.
func (p Plan) scratch(disk int64, tail DiskTail) Region {
	_, at := p.Places()
	at += (LayerUnit - at%LayerUnit) % LayerUnit
	end := disk - TreeTail
	if !tail.None() {
		end = tail.Offset
	}
	end -= end % LayerUnit
	if p.Upper != UpperDisk || end-at < ScratchLeast {
		return Region{}
	}
	return Region{at, end - at}
}

// Bytes is the room that the plan needs on a disk.
func (p Plan) Bytes() int64 {
	if p.Form == FormTree && p.need() > 0 {
		return p.need() + TreeTail
	}
	return p.need()
}

// Resolve turns a stack into a plan for no machine in particular: floating layers take the newest version there is now.
func (s Snapshot) Resolve(stack string) (Plan, error) { return s.ResolveOn(stack, Machine{}, nil) }

// ResolveOn turns a stack into a plan for a machine, with values for its parameters.
func (s Snapshot) ResolveOn(stack string, m Machine, set map[string]string) (Plan, error) {
	st, ok := s.Stacks[stack]
	if !ok {
		var names []string
		for _, x := range s.SortedStacks() {
			names = append(names, x.Name)
		}
		return Plan{}, fmt.Errorf("stack %q: %w%s", stack, ErrNotFound, among("; there are ", names))
	}
	p, err := s.Plan(st, m, set)
	if err != nil {
		return Plan{}, fmt.Errorf("stack %s: %w", st.Name, err)
	}
	return p, nil
}

// Plan resolves a stack that need not be written down.
func (s Snapshot) Plan(st Stack, m Machine, set map[string]string) (p Plan, err error) {
	p = Plan{Stack: st.Name, Grow: st.Grow, Upper: st.Upper, Reset: st.Reset, Start: st.Start, Auto: st.Start == "", Until: st.Until}
	if p.Layers, err = s.planLayers(st, m); err != nil {
		return p, err
	}
	if p.Form, err = systemForm(p.Layers); err != nil {
		return p, about("layers", err)
	}
	if p.Agreed, err = agree(p.Form, st.Asks, s.offerings(st, p.Layers)); err != nil {
		return p, about("asks", err)
	}
	if p.Params, err = fillParams(st.Params, set); err != nil {
		return p, about("params", err)
	}
	if p.Cmdline, err = expand(st.Cmdline, p.Params, nil); err != nil {
		return p, about("cmdline", fmt.Errorf("command line: %w", err))
	}
	if k, ok := p.Kernel(); ok {
		p.Cmdline = strings.TrimSpace(s.Versions[k.Ref.String()].Cmdline + " " + p.Cmdline)
	}
	for i, f := range st.Files {
		if f.Text, err = expand(f.Text, p.Params, m.values()); err != nil {
			return p, about(nth("files", i), fmt.Errorf("file %s: %w", f.Path, err))
		}
		p.Files = append(p.Files, f)
	}
	if err := p.settleStart(m); err != nil {
		return p, about("start", err)
	}
	if p.Digest, err = p.digest(); err != nil {
		return p, err
	}
	return p, nil
}

// digest names what the plan comes to, however that was said.
func (p Plan) digest() (chunk.ID, error) {
	if p.Digest = (chunk.ID{}); p.Auto {
		p.Start = ""
	}
	p.Layers = slices.Clone(p.Layers)
	for i := range p.Layers {
		p.Layers[i].Floats, p.Layers[i].Joined = false, false
	}
	text, err := json.Marshal(p)
	return chunk.Sum(text), err
}

// planLayers finds the version of every layer, and puts those that join by themselves behind them. Only a tree can be joined:
// over a whole disk, or in a kernel that runs in memory, there is no place for them.
func (s Snapshot) planLayers(st Stack, m Machine) (all []PlanLayer, err error) {
	refs := slices.Clone(st.Layers)
	if slices.ContainsFunc(refs, func(r Ref) bool { return s.Images[r.Name].Form == FormTree }) {
		for _, im := range s.ownedBy(m) {
			k, err := s.KindOf(im.Kind)
			if err == nil && k.Joins && !slices.ContainsFunc(refs, func(r Ref) bool { return r.Name == im.Name }) {
				refs = append(refs, Ref{Name: im.Name})
			}
		}
	}
	for i, ref := range refs {
		v, err := s.Version(ref)
		if err != nil {
			return nil, about(nth("layers", i), err)
		}
		im := s.Images[v.Image]
		k, err := s.KindOf(im.Kind)
		if err != nil {
			return nil, err
		}
		if im.Owner != "" && m.ID != 0 && im.Owner != m.Name {
			return nil, k.broken(ClauseJoins, "image %s is %s's; it joins the stacks of that machine, and is given to no other", im.Name, im.Owner)
		}
		l := PlanLayer{Ref: v.Ref(), Kind: im.Kind, Form: im.Form, Root: v.Root, Bytes: v.Bytes, Floats: ref.Version == 0, Joined: i >= len(st.Layers)}
		if l.Form == FormFiles {
			if l.Place = or(v.Place, places[im.Kind]); l.Place == "/" {
				l.Place = ""
			}
		}
		l.Back = l.Place != "" && (k.WrittenBack == "always" || k.WrittenBack == "changed") || k.WrittenBack == "request" && slices.Contains(st.Keep, im.Name)
		all = append(all, l)
	}
	return all, nil
}

// ownedBy lists the images that live with a machine and have a version, by name.
func (s Snapshot) ownedBy(m Machine) (all []Image) {
	for _, name := range slices.Sorted(maps.Keys(s.Images)) {
		if im := s.Images[name]; im.Owner != "" && im.Owner == m.Name && len(s.VersionsOf(name)) > 0 {
			all = append(all, im)
		}
	}
	return all
}

// places says where files of a kind are mounted when they do not say it themselves.
var places = map[string]string{"project": ProjectPlace}

// Where a project lies in the user's system, and where it leaves what is to be taken home.
const (
	ProjectPlace = "/carte/project"
	ProbePlace   = "/carte/contract" // of what a contract test brings
	OutPlace     = "/carte/out"
)

// systemForm finds the one layer that is the system, which comes first, and refuses what does not go together.
func systemForm(layers []PlanLayer) (Form, error) {
	var count = map[Form]int{}
	for _, l := range layers {
		count[l.Form]++
	}
	roots := count[FormDisk] + count[FormTree]
	switch {
	case len(layers) == 0:
		return "", fmt.Errorf("it has no images: %w", ErrInvalid)
	case roots > 1:
		return "", fmt.Errorf("it has %d systems, and a machine runs one; what lies over a tree has the form files or kernel: %w", roots, ErrRefused)
	case count[FormKernel] > 1:
		return "", fmt.Errorf("it has %d kernels, and a machine runs one: %w", count[FormKernel], ErrRefused)
	case roots == 0 && count[FormKernel] == 0:
		return "", fmt.Errorf("it has no system: an image of the form disk or tree, or a kernel that runs in memory: %w", ErrRefused)
	case roots == 0 && len(layers) > 1:
		return "", fmt.Errorf("it has a kernel and no tree; a kernel that runs in memory comes alone: %w", ErrRefused)
	case count[FormDisk] == 1 && len(layers) > 1:
		return "", fmt.Errorf("%s is a whole disk, and nothing can be laid over one; a tree can have layers: %w", layers[0].Ref, ErrRefused)
	case roots == 1 && layers[0].Form != FormDisk && layers[0].Form != FormTree:
		return "", fmt.Errorf("the system comes first, and %s is %s: %w", layers[0].Ref, layers[0].Form, ErrRefused)
	}
	return layers[0].Form, nil
}

func (s Snapshot) offerings(st Stack, layers []PlanLayer) (all []offering) {
	for _, l := range layers {
		v := s.Versions[l.Ref.String()]
		terms := v.Offers
		if terms == nil {
			terms = offered[l.Form]
		}
		if v.Offers == nil && v.Inside.Run && l.Place == ProjectPlace {
			terms = Terms{Autostart: Optional}
		}
		o := offering{Ref: l.Ref, Form: l.Form, Terms: terms, Lacks: v.Inside.Lacks}
		if l.Place == ProjectPlace && !slices.ContainsFunc(st.Files, func(f TextFile) bool { return f.Path == ProjectPlace+"/run" }) {
			o.Idle = v.Inside.Idle
		}
		all = append(all, o)
	}
	return all
}

// Kernel returns the layer that is the plan's kernel.
func (p Plan) Kernel() (l PlanLayer, ok bool) {
	i := slices.IndexFunc(p.Layers, func(l PlanLayer) bool { return l.Form == FormKernel })
	if i < 0 {
		return PlanLayer{}, false
	}
	return p.Layers[i], true
}

// settleStart fills in what the stack left open, and refuses a start that its images do not allow.
func (p *Plan) settleStart(m Machine) error {
	kernel, own := p.Kernel()
	can := []Start{StartDisk}
	switch {
	case p.Form == FormKernel:
		can = []Start{StartMemory}
	case p.Form == FormTree && own:
		can = []Start{StartKexec, StartNetboot}
		if m.Kexec.Failed != "" {
			can = []Start{StartNetboot, StartKexec}
		}
	case p.Form == FormTree:
		can = []Start{StartPivot}
	}
	switch {
	case p.Auto:
		p.Start = can[0]
	case p.Start == StartPivot && own:
		return fmt.Errorf("it starts by pivot, which is carte's own kernel, and has the kernel %s: take one of them out: %w", kernel.Ref, ErrRefused)
	case !slices.Contains(can, p.Start):
		return fmt.Errorf("a system of the form %s%s cannot start by %s%s: %w", p.Form, map[bool]string{true: " with a kernel"}[own], p.Start, among("; it can by ", starts(can)), ErrRefused)
	}
	if p.Form == FormTree {
		p.Upper = Upper(or(string(p.Upper), string(UpperMemory)))
		p.Reset = Reset(or(string(p.Reset), string(DefaultReset)))
		if p.Gives(Sealed) {
			p.Reset = ResetAlways
		}
	}
	p.Until = or(p.Until, map[bool]Rung{true: RungCollect, false: RungRun}[p.Form == FormTree])
	return nil
}

func starts(all []Start) (words []string) {
	for _, x := range all {
		words = append(words, string(x))
	}
	return words
}

// chooseStart chooses again, where the stack left it to the lab, by what is known of the machine now.
func (p *Plan) chooseStart(m Machine) {
	if _, own := p.Kernel(); !p.Auto || p.Form != FormTree || !own {
		return
	}
	if p.Start = StartKexec; m.Kexec.Failed != "" {
		p.Start = StartNetboot
	}
}

// madeFor refuses another machine than the one that a plan was made for, where that would not be the same plan.
func (s Snapshot) madeFor(p Plan, m, was Machine) error {
	joined := slices.ContainsFunc(p.Layers, func(l PlanLayer) bool { return s.Images[l.Ref.Name].Owner != "" })
	joins := p.Form == FormTree && len(s.ownedBy(m)) > 0
	if m.ID == was.ID || !joined && !joins && len(p.Files) == 0 {
		return nil
	}
	return fmt.Errorf("its plan was made for %s; stop it, and boot %s on %s: %w", was.Label(), p.Stack, m.Label(), ErrRefused)
}
