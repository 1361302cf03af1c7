package modules

import (
	"bytes"
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
)

// A Module is one file with what Read says of it.
type Module struct {
	Path string // below lib/modules/RELEASE, with what it is packed in: "kernel/fs/ext4/ext4.ko.xz"
	Info
}

// Built is what the kernel's build leaves beside the modules; each may be empty.
type Built struct {
	Order   []byte // modules.order
	Builtin []byte // modules.builtin
	Modinfo []byte // modules.builtin.modinfo
}

// The lists that Lists makes.
const (
	listDep, listDepBin         = "modules.dep", "modules.dep.bin"
	listAlias, listAliasBin     = "modules.alias", "modules.alias.bin"
	listSymbols, listSymbolsBin = "modules.symbols", "modules.symbols.bin"
	listSoftdep, listDevname    = "modules.softdep", "modules.devname"
	listBuiltinBin, listBuiltin = "modules.builtin.bin", "modules.builtin.alias.bin"
)

// listed is a module on its way into the lists.
type listed struct {
	*Module
	name  string
	index uint32    // its place in modules.order: of two modules for one device the earlier comes first
	deps  []*listed // in the order in which it needs them
	users int
	sort  int // users come before what they use
}

// Lists makes what depmod(8) of kmod 30 makes, by name of the file: modprobe(8) reads those that end on .bin, people and other programs the others.
// Two modules of one name: the one below updates/ wins, else the first by its path. Modules that need one another in a circle are listed without what they
// need, and returned by name.
func Lists(all []Module, built Built) (lists map[string][]byte, circle []string) {
	mods := inOrder(all, built.Order)
	owner := map[string]*listed{}
	for _, m := range mods {
		for _, s := range m.Exports {
			owner[s] = m
		}
	}
	for _, m := range mods {
		for _, s := range m.Needs {
			if o := owner[s]; o != nil && o != m && !slices.Contains(m.deps, o) {
				m.deps = append(m.deps, o)
				o.users++
			}
		}
	}
	circle = sortUsers(mods)
	var dep, aliases, symbols, soft, devname bytes.Buffer
	aliases.WriteString("# Aliases extracted from modules themselves.\n")
	symbols.WriteString("# Aliases for symbols, used by symbol_request().\n")
	soft.WriteString("# Soft dependencies extracted from modules themselves.\n")
	devname.WriteString("# Device nodes to trigger on-demand module loading.\n")
	var depBin, aliasBin, symbolBin trie
	for _, m := range mods {
		line := m.Path + ":"
		for _, d := range m.allDeps() {
			line += " " + d.Path
		}
		dep.WriteString(line + "\n")
		depBin.add(m.name, line, m.index)
		for _, a := range m.Aliases {
			fmt.Fprintf(&aliases, "alias %s %s\n", a, m.name)
			if key, ok := normal(a); ok {
				aliasBin.add(key, m.name, m.index)
			}
		}
		for _, s := range m.Soft {
			fmt.Fprintf(&soft, "softdep %s %s\n", m.name, s)
		}
		for _, s := range slices.Sorted(slices.Values(m.Exports)) {
			if owner[s] == m {
				fmt.Fprintf(&symbols, "alias symbol:%s %s\n", s, m.name)
				symbolBin.add("symbol:"+s, m.name, m.index)
			}
		}
		devname.WriteString(m.devname())
	}
	return map[string][]byte{
		listDep: dep.Bytes(), listDepBin: depBin.bytes(), listAlias: aliases.Bytes(), listAliasBin: aliasBin.bytes(), listSymbols: symbols.Bytes(), listSymbolsBin: symbolBin.bytes(),
		listSoftdep: soft.Bytes(), listDevname: devname.Bytes(), listBuiltinBin: builtinNames(built.Builtin), listBuiltin: builtinAliases(built.Modinfo),
	}, circle
}

// inOrder sorts the modules as modules.order does; those that it does not know come behind, by their paths. Of two of one name one is left.
func inOrder(all []Module, order []byte) (mods []*listed) {
	places := map[string]int{}
	for line := range bytes.Lines(order) {
		places[string(bytes.TrimSpace(line))] = len(places) - 1<<30
	}
	byName := map[string]*listed{}
	updates := func(m *listed) int {
		if strings.HasPrefix(m.Path, "updates/") {
			return 0
		}
		return 1
	}
	for i := range all {
		m := &listed{Module: &all[i], name: Name(all[i].Path)}
		if old := byName[m.name]; old == nil || cmp.Or(updates(m)-updates(old), strings.Compare(m.Path, old.Path)) < 0 {
			byName[m.name] = m
		}
	}
	for _, m := range byName {
		mods = append(mods, m)
	}
	unpacked := func(m *listed) string { before, _, _ := strings.Cut(m.Path, ".ko"); return before + ".ko" }
	slices.SortFunc(mods, func(a, b *listed) int {
		return cmp.Or(cmp.Compare(places[unpacked(a)], places[unpacked(b)]), strings.Compare(a.Path, b.Path))
	})
	for i, m := range mods {
		m.index = uint32(i)
	}
	return mods
}

// sortUsers numbers the modules so that each comes before those that it needs, and takes circles apart. The order is that of depmod, which looks at the
// modules from the last to the first.
func sortUsers(mods []*listed) (circle []string) {
	var roots []*listed
	for _, m := range mods {
		if m.sort = -1; m.users == 0 {
			roots = append(roots, m)
		}
	}
	for n := 0; len(roots) > 0; n++ {
		m := roots[len(roots)-1]
		roots = roots[:len(roots)-1]
		m.sort = n
		for _, d := range m.deps {
			if d.users--; d.users == 0 {
				roots = append(roots, d)
			}
		}
	}
	for _, m := range mods {
		if m.sort < 0 {
			circle = append(circle, m.name)
			m.deps = nil
		}
	}
	return circle
}

// allDeps are all modules that one needs, each before those that it needs itself.
func (m *listed) allDeps() (all []*listed) {
	seen := map[*listed]bool{}
	var visit func(*listed)
	visit = func(x *listed) {
		for _, d := range x.deps {
			if !seen[d] {
				seen[d] = true
				all = append(all, d)
				visit(d)
			}
		}
	}
	visit(m)
	slices.SortFunc(all, func(a, b *listed) int { return a.sort - b.sort })
	return all
}

// devname is the line of a module that names a device node by which it is loaded; empty: it names none.
func (m *listed) devname() string {
	var name, kind string
	for _, a := range m.Aliases {
		if s, ok := strings.CutPrefix(a, "devname:"); ok && name == "" {
			name = s
		} else if kind == "" {
			var major, minor uint32
			for _, k := range []string{"char", "block"} {
				if n, _ := fmt.Sscanf(a, k+"-major-%d-%d", &major, &minor); n == 2 {
					kind = fmt.Sprintf("%c%d:%d", k[0], major, minor)
				}
			}
		}
		if name != "" && kind != "" {
			return fmt.Sprintf("%s %s %s\n", m.name, name, kind)
		}
	}
	return ""
}

// normal is a pattern as modprobe looks for it: _ for - where that is no range. ok is false where it is no pattern.
func normal(pattern string) (key string, ok bool) {
	b, inside := []byte(pattern), false
	for i, c := range b {
		switch {
		case c == ']' && !inside:
			return "", false
		case c == ']':
			inside = false
		case c == '[':
			inside = true
		case c == '-' && !inside:
			b[i] = '_'
		case c == 0 || c >= childMax:
			return "", false
		}
	}
	return string(b), !inside
}

// builtinNames is the index of what is in the kernel itself.
func builtinNames(list []byte) []byte {
	var t trie
	for line := range bytes.Lines(list) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			t.add(Name(path.Base(string(line))), "", 0)
		}
	}
	return t.bytes()
}

// builtinAliases is the index of what the modules in the kernel itself are for: NAME.alias=PATTERN, with a zero byte behind each.
func builtinAliases(modinfo []byte) []byte {
	var t trie
	for line := range bytes.SplitSeq(modinfo, []byte{0}) {
		what, pattern, _ := strings.Cut(string(line), "=")
		if name, ok := strings.CutSuffix(what, ".alias"); ok {
			if key, ok := normal(pattern); ok {
				t.add(key, Name(name), 0)
			}
		}
	}
	return t.bytes()
}
