package action

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"carte/lab"
)

// compose are the actions on a stack that is being put together. Target.Stack is the stack as it is meant to become,
// Target.Image the layer that is selected in it. Nothing is the lab's before it is saved.
var compose = []Action{
	{
		ID: "compose.add", Words: "layer add", Keys: []string{"a"}, Where: []Place{Compose},
		Help: "lay an image over the others",
		Ask:  func(t Target) string { return "image to lay over " + t.Stack.Name },
		Choices: func(t Target) (names []string) {
			for _, name := range slices.Sorted(maps.Keys(t.Snapshot.Images)) {
				if layerAt(t.Stack, name) < 0 {
					names = append(names, name)
				}
			}
			return names
		},
		Enabled: func(t Target) (bool, string) {
			return len(t.Snapshot.Images) > len(t.Stack.Layers), "every image is in it already; import one on Images"
		},
		Edit: func(t Target) (lab.Stack, error) {
			ref, err := t.Snapshot.ParseRef(strings.TrimSpace(t.Text))
			if err != nil {
				return t.Stack, err
			}
			if _, err := t.Snapshot.Version(ref); err != nil {
				return t.Stack, err
			}
			if layerAt(t.Stack, ref.Name) >= 0 {
				return t.Stack, fmt.Errorf("%s is in it already: %w", ref.Name, lab.ErrBusy)
			}
			return withLayers(t.Stack, append(slices.Clone(t.Stack.Layers), ref)), nil
		},
	},
	{
		ID: "compose.rm", Words: "layer rm", Keys: []string{"x"}, Where: []Place{Compose},
		Help: "take an image out of the stack", Enabled: aLayer,
		Edit: func(t Target) (lab.Stack, error) {
			at := layerAt(t.Stack, t.Image.Name)
			return withLayers(t.Stack, slices.Delete(slices.Clone(t.Stack.Layers), at, at+1)), nil
		},
	},
	swapped("up", "K", 1),
	swapped("down", "J", -1),
	{
		ID: "compose.version", Words: "layer version", Keys: []string{"v"}, Where: []Place{Compose},
		Help:    "let an image stay at a version, or take the newest",
		Ask:     func(t Target) string { return "version of " + t.Image.Name + " in " + t.Stack.Name },
		Choices: versionWords, Enabled: aLayer,
		Edit: func(t Target) (lab.Stack, error) {
			ref, word := lab.Ref{Name: t.Image.Name}, strings.TrimSpace(t.Text)
			if word, _, _ = strings.Cut(word, " "); word != newestWord {
				r, err := t.Snapshot.ParseRef(t.Image.Name + "@" + strings.TrimPrefix(word, t.Image.Name+"@"))
				if err != nil {
					return t.Stack, err
				}
				if _, err := t.Snapshot.Version(r); err != nil {
					return t.Stack, err
				}
				ref = r
			}
			layers := slices.Clone(t.Stack.Layers)
			layers[layerAt(t.Stack, ref.Name)] = ref
			return withLayers(t.Stack, layers), nil
		},
	},
	{
		ID: "compose.clause", Words: "clause", Keys: []string{" "}, Where: []Place{Compose},
		Help: "ask for a clause, as optional or required, or no longer",
		Ask:  func(t Target) string { return "clause that a boot of " + t.Stack.Name + " should have, or must" },
		Choices: func(t Target) (words []string) {
			for _, c := range lab.Clauses {
				for _, n := range []lab.Need{lab.Optional, lab.Required, ""} {
					if t.Stack.Asks[c.Clause] != n {
						words = append(words, fmt.Sprintf("%s %s", c.Clause, or(string(n), "not asked for")))
					}
				}
			}
			return words
		},
		Edit: func(t Target) (lab.Stack, error) {
			clause, need, _ := strings.Cut(strings.TrimSpace(t.Text), " ")
			if need == "not asked for" {
				need = ""
			}
			st := t.Stack
			st.Asks = Edited(st.Asks, lab.Clause(clause), lab.Need(need))
			return st, st.Asks.Check()
		},
	},
	{
		ID: "compose.cmdline", Words: "kernel line", Keys: []string{"c"}, Where: []Place{Compose},
		Help: "change what is added to the kernel's command line",
		Ask: func(t Target) string {
			return "kernel line of " + t.Stack.Name + "; with nothing typed it has none"
		},
		Present: func(t Target) string { return t.Stack.Cmdline },
		Edit: func(t Target) (lab.Stack, error) {
			st := t.Stack
			if st.Cmdline = strings.TrimSpace(t.Text); st.Cmdline == "-" {
				st.Cmdline = ""
			}
			return st, nil
		},
	},
	{
		ID: "compose.param", Words: "parameter", Keys: []string{"p"}, Where: []Place{Compose},
		Help: "give a parameter its value: pages=0; with no value it is taken out",
		Ask:  func(t Target) string { return "parameter of " + t.Stack.Name + ", as in pages=0" },
		Edit: func(t Target) (lab.Stack, error) {
			name, value, ok := strings.Cut(strings.TrimSpace(t.Text), "=")
			if !ok || name == "" {
				return t.Stack, fmt.Errorf("%q is not NAME=VALUE: %w", t.Text, lab.ErrInvalid)
			}
			st := t.Stack
			st.Params = Edited(st.Params, name, value)
			return st, nil
		},
	},
	{
		ID: "compose.fix", Words: "fix", Keys: []string{"f"}, Where: []Place{Compose},
		Help: "mend what the check found, where that can be done without a person",
		Ask: func(t Target) string {
			if len(mendable(t)) < 2 {
				return ""
			}
			return "what is to be mended in " + t.Stack.Name
		},
		Choices: mendable,
		Enabled: func(t Target) (bool, string) {
			return len(mendable(t)) > 0, "the check found nothing that can be mended without a person"
		},
		Edit: func(t Target) (lab.Stack, error) {
			all := mendable(t)
			for i, r := range mends(t) {
				if all[i] == t.Text || t.Text == "" || strings.HasPrefix(all[i], t.Text+" ") {
					return *r.Edited, nil
				}
			}
			return t.Stack, fmt.Errorf("%q: the check does not say it: %w", t.Text, lab.ErrNotFound)
		},
	},
	{
		ID: "compose.save", Words: "save", Keys: []string{"s"}, Where: []Place{Compose},
		Help: "make it the lab's: boots from now on take it",
		Enabled: func(t Target) (bool, string) {
			switch {
			case t.Stack.Name == "":
				return false, "no stack is open"
			case len(t.Stack.Layers) == 0:
				return false, "it has no images; a adds one"
			}
			return Unsaved(t), "it is saved already"
		},
		Verb: func(t Target) (lab.Verb, error) {
			_, there := t.Snapshot.Stacks[t.Stack.Name]
			return lab.PutStack{Stack: t.Stack, Edit: there}, nil
		},
		Command: editCommand,
	},
	{
		ID: "compose.try", Words: "try", Keys: []string{"t"}, Where: []Place{Compose},
		Help:    "boot it on a virtual machine",
		Ask:     func(t Target) string { return "virtual machine that tries " + t.Stack.Name },
		Choices: virtualNames,
		Enabled: func(t Target) (bool, string) {
			switch {
			case Unsaved(t):
				return false, "save it first: s"
			case len(virtualNames(t)) == 0:
				return false, "there is no virtual machine; add one on Machines: a"
			}
			return t.Stack.Name != "", "no stack is open"
		},
		Verb: func(t Target) (lab.Verb, error) {
			return lab.Queue{Machine: t.Text, Stack: t.Stack.Name}, nil
		},
		Command: func(t Target) string {
			return command("carte", "boot", stackWord(t), "--on", or(t.Text, "MACHINE"))
		},
	},
	{
		ID: "stack.diff", Words: "stack diff", Keys: []string{"d"}, Where: []Place{Compose, Stacks},
		Help: "show what differs between it and another stack",
		Ask:  func(t Target) string { return "stack to compare " + stackWord(t) + " with" },
		Choices: func(t Target) []string {
			return slices.DeleteFunc(stackNames(t), func(n string) bool { return n == t.Stack.Name })
		},
		Enabled: func(t Target) (bool, string) {
			switch {
			case t.Stack.Name == "":
				return aStack(t)
			case Unsaved(t):
				return false, "save it first: s"
			}
			return len(t.Snapshot.Stacks) > 1, "there is no other stack"
		},
		Command: func(t Target) string { return command("carte", "stack", "diff", stackWord(t), or(t.Text, "STACK")) },
	},
}

// newestWord is the version of a layer that floats.
const newestWord = "newest"

// init gives every edit its twin: what the command line would change, all that is not saved yet together.
func init() {
	for i := range Table {
		a := &Table[i]
		if a.Edit == nil {
			continue
		}
		edit := a.Edit
		a.Edit = func(t Target) (lab.Stack, error) {
			if can, why := a.Can(t); !can {
				return t.Stack, fmt.Errorf("%s: %w", why, lab.ErrRefused)
			}
			return edit(t)
		}
		a.Command = func(t Target) string {
			if st, err := a.Edit(t); err == nil && t.Stack.Name != "" {
				t.Stack = st
			}
			return editCommand(t)
		}
	}
}

// Unsaved says that the target's stack is not the lab's.
func Unsaved(t Target) bool {
	return t.Stack.Name != "" && !reflect.DeepEqual(t.Stack, t.Snapshot.Stacks[t.Stack.Name])
}

func layerAt(st lab.Stack, image string) int {
	return slices.IndexFunc(st.Layers, func(r lab.Ref) bool { return r.Name == image })
}

func aLayer(t Target) (bool, string) {
	if t.Image.Name != "" && layerAt(t.Stack, t.Image.Name) < 0 {
		return false, t.Image.Name + " joins by itself; it is no layer of the stack"
	}
	return t.Image.Name != "", "no layer is selected"
}

func withLayers(st lab.Stack, layers []lab.Ref) lab.Stack {
	st.Layers = layers
	return st
}

// swapped moves a layer by one: up is over more of the others.
func swapped(word, key string, by int) Action {
	return Action{
		ID: "compose." + word, Words: "layer " + word, Keys: []string{key}, Where: []Place{Compose},
		Help: "move a layer " + word + "; the top one wins",
		Enabled: both(aLayer, func(t Target) (bool, string) {
			at := layerAt(t.Stack, t.Image.Name) + by
			return at >= 0 && at < len(t.Stack.Layers), "there is no layer beyond it"
		}),
		Edit: func(t Target) (lab.Stack, error) {
			layers, at := slices.Clone(t.Stack.Layers), layerAt(t.Stack, t.Image.Name)
			layers[at], layers[at+by] = layers[at+by], layers[at]
			return withLayers(t.Stack, layers), nil
		},
	}
}

// versionWords are what a layer can be at, the newest first.
func versionWords(t Target) []string {
	words := []string{newestWord}
	all := t.Snapshot.VersionsOf(t.Image.Name)
	for _, v := range slices.Backward(all) {
		words = append(words, strings.TrimSpace(fmt.Sprintf("%d %s", v.Number, v.Message)))
	}
	return words
}

// mends are the remarks that have a fix, what stops a boot first, each code once.
func mends(t Target) (all []lab.Remark) {
	for _, g := range []lab.Grade{lab.GradeStop, lab.GradeWarn} {
		for _, r := range t.Remarks {
			have := slices.ContainsFunc(all, func(x lab.Remark) bool { return x.Code == r.Code && x.Text == r.Text })
			if r.Grade == g && r.Edited != nil && !have {
				all = append(all, r)
			}
		}
	}
	return all
}

// mendable are those remarks as answers.
func mendable(t Target) (words []string) {
	for _, r := range mends(t) {
		words = append(words, r.Code+" "+r.Text)
	}
	return words
}

func virtualNames(t Target) (names []string) {
	for _, m := range t.Snapshot.SortedMachines() {
		if m.Standing == lab.Adopted && m.Virtual != nil {
			names = append(names, m.Label())
		}
	}
	return names
}

// Edited returns a copy of m with a value in it, or without it where the value is empty; nil of nothing.
func Edited[M ~map[K]V, K comparable, V ~string](m M, k K, v V) M {
	all := M{}
	maps.Copy(all, m)
	if all[k] = v; v == "" {
		delete(all, k)
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// editCommand is the command that makes the lab's stack the target's.
func editCommand(t Target) string {
	st := t.Stack
	was, there := t.Snapshot.Stacks[st.Name]
	if !there {
		words := []string{"carte", "stack", "new", stackWord(t)}
		for i, r := range st.Layers {
			words = append(words, map[bool]string{true: "--system", false: "--layer"}[i == 0], r.String())
		}
		if st.Cmdline != "" {
			words = append(words, "--cmdline", st.Cmdline)
		}
		return command(words...)
	}
	words := []string{"carte", "stack", "edit", st.Name}
	set := func(key, value string, same bool) {
		if !same {
			words = append(words, "--set", key+"="+value)
		}
	}
	var layers []string
	for _, r := range st.Layers {
		layers = append(layers, r.String())
	}
	set("layers", strings.Join(layers, ","), slices.Equal(st.Layers, was.Layers))
	for _, x := range []struct{ key, now, was string }{
		{"cmdline", st.Cmdline, was.Cmdline}, {"start", string(st.Start), string(was.Start)}, {"until", string(st.Until), string(was.Until)},
		{"upper", string(st.Upper), string(was.Upper)}, {"reset", string(st.Reset), string(was.Reset)}, {"note", st.Note, was.Note},
	} {
		set(x.key, x.now, x.now == x.was)
	}
	set("grow", fmt.Sprint(st.Grow), st.Grow == was.Grow)
	set("keep", strings.Join(st.Keep, ","), slices.Equal(st.Keep, was.Keep))
	for _, k := range KeysOf(st.Params, was.Params) {
		set("params."+k, st.Params[k], st.Params[k] == was.Params[k])
	}
	for _, k := range KeysOf(st.Asks, was.Asks) {
		set("asks."+string(k), string(st.Asks[k]), st.Asks[k] == was.Asks[k])
	}
	return command(words...)
}

// KeysOf are the keys of all of them, in order.
func KeysOf[M ~map[K]V, K ~string, V any](all ...M) (keys []K) {
	for _, m := range all {
		for k := range m {
			if !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	slices.Sort(keys)
	return keys
}
