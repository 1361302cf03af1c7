package cli

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"carte/lab"
)

func (c *call) stackCommands() []entry {
	var system []string
	var cmdline, until string
	var grow bool
	return []entry{
		{
			use: "stack ls", help: "list the stacks",
			run: func(ctx context.Context, _ []string) error { return c.look(ctx, c.listStacks) },
		},
		{
			use: "stack show STACK", help: "show a stack, and what it would be just now",
			run: func(ctx context.Context, args []string) error {
				return c.look(ctx, func(s lab.Snapshot) error {
					p, err := s.Resolve(args[0])
					if err != nil {
						return err
					}
					rows := [][]string{{"name", args[0]}, {"form", string(p.Form)}, {"starts", string(p.Start)}, {"needs", lab.Bytes(p.Bytes()) + " of disk"}, {"plan", p.Digest.String()[:12]}}
					for i, l := range p.Layers {
						rows = append(rows, []string{"layer", fmt.Sprintf("%s, just now %s (%s)", s.Stacks[args[0]].Layers[i], l.Ref, l.Kind)})
					}
					if p.Cmdline != "" {
						rows = append(rows, []string{"cmdline", p.Cmdline})
					}
					return c.show(list{doc: stackOf(s, s.Stacks[args[0]]), names: []string{args[0]}, rows: rows})
				})
			},
		},
		{
			use: "stack new STACK --system IMAGE", action: "stack.new",
			example: "  carte stack new hpt --system debian\n  carte stack new hpt-3 --system debian@3",
			flags: func(f *pflag.FlagSet) {
				f.StringArrayVar(&system, "system", nil, "the system image; name floats to the newest version, name@3 stays (needed)")
				f.StringVar(&cmdline, "cmdline", "", "added to the kernel's command line, for trees")
				f.BoolVar(&grow, "grow", false, "on a larger disk, the last partition and its ext4 take the room there is")
				f.StringVar(&until, "until", "", "what ends a boot: handover (for a system that carte cannot hear), run (its first sign of life) or collect (when it says done)")
			},
			run: func(ctx context.Context, args []string) error {
				v := lab.PutStack{Stack: lab.Stack{Name: args[0], Cmdline: cmdline, Until: lab.Rung(until), Grow: grow}}
				if len(system) == 0 {
					return fmt.Errorf("stack %s of what? --system IMAGE: %w", args[0], lab.ErrInvalid)
				}
				for _, x := range system {
					ref, err := lab.ParseRef(x)
					if err != nil {
						return fmt.Errorf("--system: %w", err)
					}
					v.Layers = append(v.Layers, ref)
				}
				return c.say(ctx, v, func(_ lab.Changed, s lab.Snapshot) error {
					return c.show(list{doc: stackOf(s, s.Stacks[v.Name]), names: []string{v.Name}, rows: [][]string{{v.Name, fmt.Sprint(v.Layers)}}})
				})
			},
		},
		{
			use: "stack rm STACK", action: "stack.rm",
			run: func(ctx context.Context, args []string) error {
				return c.say(ctx, lab.RemoveStack{Name: args[0]}, func(lab.Changed, lab.Snapshot) error {
					return c.show(list{doc: goneDoc{args[0]}, names: []string{args[0]}, rows: [][]string{{args[0], "removed"}}})
				})
			},
		},
	}
}

func (c *call) listStacks(s lab.Snapshot) error {
	docs := []stackDoc{}
	l := list{head: []string{"NAME", "LAYERS", "NOW", "NEEDS"}, empty: "no stacks yet: carte stack new NAME --system IMAGE"}
	for _, st := range s.SortedStacks() {
		d := stackOf(s, st)
		docs = append(docs, d)
		l.names = append(l.names, st.Name)
		row := []string{st.Name, fmt.Sprint(st.Layers), "an image is missing", ""}
		if d.Plan != nil {
			row[2], row[3] = fmt.Sprint(d.Plan.Images), lab.Bytes(d.Plan.Bytes)
		}
		l.rows = append(l.rows, row)
	}
	l.doc = struct {
		Stacks []stackDoc `json:"stacks"`
	}{docs}
	return c.show(l)
}
