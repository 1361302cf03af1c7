package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"carte/lab"
	"carte/lab/text"
	"carte/tui/action"
)

// differDoc is one thing in which two stacks differ. What one of them has not is empty.
type differDoc struct {
	What string `json:"what"`
	A    string `json:"a"`
	B    string `json:"b"`
}

// diffStacks shows what differs between two stacks.
func (c *call) diffStacks(ctx context.Context, s lab.Snapshot, one, other string) error {
	a, err := c.stackNamed(ctx, s, []string{one}, "")
	if err != nil {
		return err
	}
	b, err := c.stackNamed(ctx, s, []string{other}, "")
	if err != nil {
		return err
	}
	l := list{head: []string{"WHAT", strings.ToUpper(a.Name), strings.ToUpper(b.Name)}, empty: "they do not differ"}
	docs := differences(s, a, b)
	for _, x := range docs {
		l.names = append(l.names, x.What)
		l.rows = append(l.rows, []string{x.What, or(x.A, "—"), or(x.B, "—")})
	}
	l.doc = struct {
		A           string      `json:"a"`
		B           string      `json:"b"`
		Differences []differDoc `json:"differences"`
	}{a.Name, b.Name, docs}
	return c.show(l)
}

// differences lists what differs, in the order of a stack's text.
func differences(s lab.Snapshot, a, b lab.Stack) []differDoc {
	all := []differDoc{}
	add := func(what, x, y string) {
		if x != y {
			all = append(all, differDoc{what, x, y})
		}
	}
	layers := map[string][2]string{}
	var order []string
	for i, st := range []lab.Stack{a, b} {
		for _, r := range st.Layers {
			have, seen := layers[r.Name]
			if !seen {
				order = append(order, r.Name)
			}
			have[i] = layerNow(s, r)
			layers[r.Name] = have
		}
	}
	for _, name := range order {
		add("image "+name, layers[name][0], layers[name][1])
	}
	if common := func(x, y lab.Stack) (n []string) {
		for _, r := range x.Layers {
			if slices.ContainsFunc(y.Layers, func(o lab.Ref) bool { return o.Name == r.Name }) {
				n = append(n, r.Name)
			}
		}
		return n
	}; !slices.Equal(common(a, b), common(b, a)) {
		add("order of images", fmt.Sprint(a.Layers), fmt.Sprint(b.Layers))
	}
	for _, x := range []struct{ what, a, b string }{
		{"cmdline", a.Cmdline, b.Cmdline}, {"start", string(a.Start), string(b.Start)}, {"until", string(a.Until), string(b.Until)},
		{"upper", string(a.Upper), string(b.Upper)}, {"reset", string(a.Reset), string(b.Reset)},
		{"grow", yesWord(a.Grow), yesWord(b.Grow)}, {"keep", strings.Join(a.Keep, ", "), strings.Join(b.Keep, ", ")}, {"note", a.Note, b.Note},
	} {
		add(x.what, x.a, x.b)
	}
	for _, k := range action.KeysOf(a.Params, b.Params) {
		add("parameter "+k, a.Params[k], b.Params[k])
	}
	for _, k := range action.KeysOf(a.Asks, b.Asks) {
		add("clause "+string(k), string(a.Asks[k]), string(b.Asks[k]))
	}
	files := func(st lab.Stack) map[string]string {
		m := map[string]string{}
		for _, f := range st.Files {
			m[f.Path] = string(text.Stack(lab.Stack{Files: []lab.TextFile{f}}))
		}
		return m
	}
	fa, fb := files(a), files(b)
	for _, k := range action.KeysOf(fa, fb) {
		if fa[k] != fb[k] {
			words := map[bool]string{true: "", false: "has it"}
			if fa[k] != "" && fb[k] != "" {
				words[false] = "has another one"
			}
			all = append(all, differDoc{"file " + k, words[fa[k] == ""], words[fb[k] == ""]})
		}
	}
	return all
}

// layerNow writes a layer, and what it is just now where it floats.
func layerNow(s lab.Snapshot, r lab.Ref) string {
	v, err := s.Version(r)
	if err != nil || r.Version != 0 {
		return r.String()
	}
	return fmt.Sprintf("floats, just now %s", v.Ref())
}

func yesWord(yes bool) string {
	if yes {
		return "yes"
	}
	return ""
}

// drawStack writes a picture of a plan. Of the text, the plain one for a terminal or a file that is not UTF-8.
func (c *call) drawStack(p lab.Plan, as string) error {
	draw, ok := map[string]func() string{
		"text": func() string { return p.Diagram(c.ascii()) }, "mermaid": p.Mermaid, "svg": p.SVG,
	}[as]
	if !ok {
		return fmt.Errorf("--diagram %q: it is text, mermaid or svg: %w", as, lab.ErrInvalid)
	}
	picture := draw()
	if c.json {
		return writeJSON(c.term.Out, struct {
			Stack   string `json:"stack"`
			Diagram string `json:"diagram"`
		}{p.Stack, picture})
	}
	_, err := fmt.Fprintln(c.term.Out, strings.TrimRight(picture, "\n"))
	return err
}

// ascii says that lines are better drawn with - and |.
func (c *call) ascii() bool {
	if v := c.term.Env("CARTE_ASCII"); v != "" {
		return v != "0"
	}
	locale := or(c.term.Env("LC_ALL"), or(c.term.Env("LC_CTYPE"), c.term.Env("LANG")))
	return locale != "" && !strings.Contains(strings.ToLower(strings.ReplaceAll(locale, "-", "")), "utf8")
}
