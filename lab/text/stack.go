package text

import (
	"fmt"
	"strconv"

	"carte/lab"
)

// stackFile is a stack as it is written. Its order is the order of what is written.
type stackFile struct {
	Name    string            `toml:"name"`
	Layers  []lab.Ref         `toml:"layers"`
	Cmdline string            `toml:"cmdline"`
	Start   string            `toml:"start"`
	Until   string            `toml:"until"`
	Upper   string            `toml:"upper"`
	Reset   string            `toml:"reset"`
	Grow    bool              `toml:"grow"`
	Keep    []string          `toml:"keep"`
	Note    string            `toml:"note"`
	Params  map[string]string `toml:"params"`
	Asks    map[string]string `toml:"asks"`
	Files   []stackText       `toml:"files"`
}

// A stackText is a file that is written into the running system.
type stackText struct {
	Path string `toml:"path"`
	Mode string `toml:"mode"` // octal
	Text string `toml:"text"`
}

// ParseStack reads a stack. Whether a lab can have it is for the lab to say. lab.ErrInvalid names the line, or the word, that
// is wrong.
func ParseStack(b []byte) (lab.Stack, error) {
	var f stackFile
	if err := decode(b, &f); err != nil {
		return lab.Stack{}, fmt.Errorf("stack: %w", err)
	}
	st := lab.Stack{
		Name: f.Name, Layers: f.Layers, Cmdline: f.Cmdline, Params: f.Params, Start: lab.Start(f.Start), Until: lab.Rung(f.Until), Grow: f.Grow,
		Upper: lab.Upper(f.Upper), Reset: lab.Reset(f.Reset), Asks: terms(f.Asks), Keep: f.Keep, Note: f.Note,
	}
	for i, r := range f.Layers {
		if r.Name == "" {
			return lab.Stack{}, fmt.Errorf("%sstack %s: layers has an empty name in it: %w", onLine(b, fmt.Sprintf("layers[%d]", i)), st.Name, lab.ErrInvalid)
		}
	}
	for i, t := range f.Files {
		x := lab.TextFile{Path: t.Path, Text: t.Text}
		if t.Mode != "" {
			mode, err := strconv.ParseUint(t.Mode, 8, 12)
			if err != nil {
				return lab.Stack{}, fmt.Errorf("%sstack %s, file %s: mode %q is no octal number such as \"0600\": %w", onLine(b, fmt.Sprintf("files[%d].mode", i)), st.Name, t.Path, t.Mode, lab.ErrInvalid)
			}
			x.Mode = uint32(mode)
		}
		st.Files = append(st.Files, x)
	}
	return tidy(st), nil
}

// tidy makes what is empty nil, so that a stack that was written and read is the same.
func tidy(st lab.Stack) lab.Stack {
	if len(st.Layers) == 0 {
		st.Layers = nil
	}
	if len(st.Keep) == 0 {
		st.Keep = nil
	}
	if len(st.Params) == 0 {
		st.Params = nil
	}
	if len(st.Asks) == 0 {
		st.Asks = nil
	}
	if len(st.Files) == 0 {
		st.Files = nil
	}
	return st
}

// Stack writes a stack, with a word about every key; what it does not set stands there as a comment. Since is the lab's, and is
// not written.
func Stack(st lab.Stack) []byte {
	var w writer
	w.line("# A stack of carte: images that a machine runs together. carte stack check NAME says what is odd about it.")
	w.set("name", quote(st.Name), true, "")
	w.list("layers", refs(st.Layers), `["debian@3", "mytools"]`, "the system first, then what lies over it; the last wins. name@3 stays at that version, name takes the newest")
	w.text("cmdline", st.Cmdline, "console=ttyS0", "added to the kernel's command line, for trees and kernels; {name} is a parameter")
	w.text("start", string(st.Start), "kexec", "pivot, kexec, netboot, memory or disk; left out: the fastest that the machine can")
	w.text("until", string(st.Until), "run", "the rung that ends a boot: handover, run or collect")
	w.text("upper", string(st.Upper), "disk", "of a tree: where its changes go, memory or disk; left out: memory")
	w.text("reset", string(st.Reset), "trust", "of a tree: how much is proven before a boot: always, sampled or trust; left out: "+string(lab.DefaultReset))
	w.set("grow", "true", st.Grow, "of a disk: its last partition takes the room that there is")
	w.list("keep", st.Keep, `["debian"]`, "images that are written back because this stack asks for it")
	w.text("note", st.Note, "what it is good for", "for people")
	w.table("params", st.Params, "pages = \"512\"", "what {name} stands for unless a boot says otherwise")
	asks := map[string]string{}
	for c, n := range st.Asks {
		asks[string(c)] = string(n)
	}
	w.table("asks", asks, "results = \"required\"", "clauses: overlay, network, heartbeat, autostart, results, lazy, sealed; optional or required")
	w.gap("small files that are written into the running system; {name} is a parameter, {machine} and {mac} are the machine's")
	for _, f := range st.Files {
		w.line("[[files]]")
		w.line("path = %s", quote(f.Path))
		if f.Mode != 0 {
			w.line("mode = \"%04o\"", f.Mode)
		}
		w.line("text = %s", quoteLong(f.Text))
	}
	if len(st.Files) == 0 {
		w.line("# [[files]]")
		w.line("# path = \"/etc/hostname\"")
		w.line("# mode = \"0644\"")
		w.line("# text = \"{machine}\\n\"")
	}
	return w.Bytes()
}

func refs(layers []lab.Ref) (words []string) {
	for _, r := range layers {
		words = append(words, r.String())
	}
	return words
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}
