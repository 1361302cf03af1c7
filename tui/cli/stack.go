package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"carte/lab"
)

func (c *call) stackCommands() []entry {
	var r recipe
	var e edits
	var t takeFlags
	var from, machine, as, file, form string
	var all, force bool
	var wait waiting
	return []entry{
		{
			use: "stack ls", help: "list the stacks",
			run: func(ctx context.Context, _ []string) error { return c.look(ctx, c.listStacks) },
		},
		{
			use: "stack show STACK", help: "show a stack, and what it would be just now",
			flags: func(f *pflag.FlagSet) {
				f.BoolVar(&all, "toml", false, "as the text that stack new -f and stack edit take")
				f.StringVar(&form, "diagram", "", "as a picture: text, mermaid or svg")
			},
			run: func(ctx context.Context, args []string) error {
				return c.look(ctx, func(s lab.Snapshot) error { return c.showStack(s, args[0], all, form) })
			},
		},
		{
			use: "stack new STACK --system IMAGE", action: "stack.new",
			long: "Make a stack of images: a system first, then what lies over it, the last wins. Adding an image copies nothing. A name floats to the newest version, name@3 stays.\n\n" +
				"--system is a whole disk, or a tree that other images may lie over: --kernel brings the kernel that starts it, --user and --project the files of a person and of a piece of work, --layer anything. A --kernel alone is started in memory.",
			example: "  carte stack new hpt --system debian\n  carte stack new hpt-3 --system debian@3 --kernel linux-6.12 --user mytools --project rq --cmdline 'hugepages={pages}' --param pages=0\n  carte stack show hpt --toml | carte stack new hpt-copy -f -",
			flags:   r.flags,
			run:     func(ctx context.Context, args []string) error { return c.newStack(ctx, args[0], r) },
		},
		{
			use: "stack edit STACK", action: "stack.edit",
			long: "Edit a stack as TOML in $VISUAL or $EDITOR. A text that is broken comes back with the line. For scripts, --set KEY=VALUE changes one key of that text, and -f takes a whole one.\n\n" +
				"The keys are those of the text: layers=debian@3,mytools cmdline start until upper reset grow=true keep=debian note, params.NAME=VALUE and asks.CLAUSE=required. An empty value takes the key out.",
			example: "  carte stack edit hpt\n  carte stack edit hpt --set layers=debian@4,mytools --set asks.lazy=required",
			flags:   e.flags,
			run:     func(ctx context.Context, args []string) error { return c.editStack(ctx, args[0], e) },
		},
		{
			use: "stack check [STACK]", action: "stack.check",
			long: "Check a stack, or one that need not be written down, with -f: one kernel and one root, room on the disk, firmware, console, what two layers both write, clauses asked and given, for each adopted machine. What stops a boot is marked STOP, and the command ends with 4.",
			flags: func(f *pflag.FlagSet) {
				f.StringVarP(&from, "from", "f", "", "a stack's text, or - for standard input")
				f.StringVar(&machine, "machine", "", "only on this machine")
			},
			run: func(ctx context.Context, args []string) error { return c.checkStack(ctx, args, from, machine) },
		},
		{
			use: "stack fix STACK CODE", action: "stack.fix",
			run: func(ctx context.Context, args []string) error { return c.fixStack(ctx, args[0], args[1]) },
		},
		{
			use: "stack diff STACK STACK", help: "show what differs between two stacks: images, kernel line, parameters, clauses",
			run: func(ctx context.Context, args []string) error {
				return c.look(ctx, func(s lab.Snapshot) error { return c.diffStacks(ctx, s, args[0], args[1]) })
			},
		},
		{
			use: "stack export STACK --as bundle|disk -o FILE", help: "write a stack as one file for another lab (bundle), or as a disk that boots without carte",
			flags: func(f *pflag.FlagSet) {
				f.StringVar(&as, "as", "", "bundle: all that carte stack import needs, with no network; disk: a raw disk (needed)")
				f.StringVarP(&file, "output", "o", "", "file to write, or - for standard output (needed)")
				f.BoolVar(&force, "force", false, "replace the file if it is there")
			},
			run: func(ctx context.Context, args []string) error {
				return c.with(ctx, seeing(ctx, func(d desk, s lab.Snapshot) error { return c.exportStack(ctx, d, s, args[0], as, file, force) }))
			},
		},
		{
			use: "stack import FILE", help: "take a stack, its images and their kinds out of a bundle", makes: true,
			long: "Take what carte stack export --as bundle has written: the stack, the versions that it runs under their numbers, and kinds of images that this lab does not have, which are added to its kinds.toml. What is here already, the same, stays; what is here and is something else is never overwritten: nothing is taken then, and the flags give what comes another name.\n\n" +
				"--prefix renames only the images that are something else here. What was renamed is told.",
			example: "  carte stack import hpt.carte\n  carte stack import hpt.carte --as hpt-delft --prefix delft-",
			flags:   t.flags,
			run:     func(ctx context.Context, args []string) error { return c.importStack(ctx, args[0], t) },
		},
		{
			use: "stack sync STACK [MACHINE...]", help: "make the disks of machines equal to a stack, and start nothing",
			long: "Queue a boot that only lays, for every machine whose disk is not known to be equal to the stack already. With --wait, the command ends when all are over, and tells for each machine whether it is proven, by its roots, or why not.",
			flags: func(f *pflag.FlagSet) {
				f.BoolVar(&all, "all", false, "every adopted machine")
				wait.flags(f, "wait until all are over", "30m")
				f.Lookup("wait").NoOptDefVal = string(lab.Done)
			},
			run: func(ctx context.Context, args []string) error { return c.syncStack(ctx, args[0], args[1:], all, wait) },
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
		} else if _, err := s.Resolve(st.Name); err != nil {
			row[2] = strings.TrimPrefix(lab.Words(err), "stack "+st.Name+": ")
		}
		l.rows = append(l.rows, row)
	}
	l.doc = struct {
		Stacks []stackDoc `json:"stacks"`
	}{docs}
	return c.show(l)
}

// putStack says a stack, and shows what became of it.
func (c *call) putStack(ctx context.Context, d desk, v lab.PutStack) error {
	_, s, err := d.say(ctx, v)
	if err != nil {
		return err
	}
	return c.show(list{doc: stackOf(s, s.Stacks[v.Name]), names: []string{v.Name}, rows: [][]string{{v.Name, fmt.Sprint(v.Layers)}}})
}

// kindCommands are the commands on kinds.
func (c *call) kindCommands() []entry {
	return []entry{{
		use: "kind ls", help: "list the kinds of images, and what carte promises for each",
		long: "List the kinds of images, and what carte promises for each. A lab's own stand in kinds.toml in its state folder, a [[kind]] for each. The file is read again when it has changed; one that is wrong, or that images which are there could not keep to, leaves in force what was, and the list says so.",
		run:  func(ctx context.Context, _ []string) error { return c.look(ctx, c.listKinds) },
	}}
}

func (c *call) listKinds(s lab.Snapshot) error {
	docs := []kindDoc{}
	l := list{head: []string{"KIND", "VERSIONED", "CHECKSUMMED", "JOINS", "UPDATES", "SHARED", "WRITTEN BACK", "LIVES"}}
	yes := map[bool]string{true: "yes", false: "no"}
	for _, k := range s.AllKinds() {
		own := slices.ContainsFunc(s.OwnKinds, func(x lab.Kind) bool { return x.Name == k.Name })
		docs = append(docs, kindDoc{k, own})
		l.names = append(l.names, k.Name)
		l.rows = append(l.rows, []string{k.Name, yes[k.Versioned], yes[k.Checksummed], byItself(k.Joins), byItself(k.Updates), yes[k.Shared], writtenWords[k.WrittenBack], livesWords[k.Lifetime]})
	}
	l.doc = struct {
		Kinds   []kindDoc            `json:"kinds"`
		Clauses []lab.InternalClause `json:"clauses"`
		File    string               `json:"file"`              // that the lab's own are written in
		Trouble string               `json:"trouble,omitempty"` // why not all that it says is in force
	}{docs, lab.Clauses, s.KindsAt.File, s.KindsAt.Trouble}
	switch at := s.KindsAt; {
	case at.Trouble != "":
		c.aside("not in force: %s", words(errors.New(at.Trouble)))
	case at.File != "" && len(s.OwnKinds) > 0:
		c.aside("%s of this lab's own from %s", plural(len(s.OwnKinds), "kind"), at.File)
	case at.File != "":
		c.aside("kinds of your own go into %s", at.File)
	}
	if c.term.Table { // for a person; scripts have the document
		if err := c.show(l); err != nil || c.json || c.quiet {
			return err
		}
		rows := [][]string{}
		for _, x := range lab.Clauses {
			rows = append(rows, []string{string(x.Clause), x.Means, x.Lacks})
		}
		fmt.Fprintln(c.term.Out)
		return aligned(c.term.Out, []string{"CLAUSE", "WITH IT", "WITHOUT IT"}, rows)
	}
	return c.show(l)
}

func byItself(yes bool) string {
	if yes {
		return "by itself"
	}
	return "no"
}

// What a kind's row says, in words.
var (
	writtenWords = map[string]string{"always": "always", "changed": "what changed", "results": "results", "request": "on request", "never": "never"}
	livesWords   = map[string]string{"": "until removed", "machine": "with its machine", "date": "until a date"}
)
