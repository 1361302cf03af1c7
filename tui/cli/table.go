package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"carte/lab"
	"carte/tui/action"
)

// An entry is a row of the table of commands.
type entry struct {
	use     string // its words, then its arguments: "machine arm MACHINE"; NAME... is one or more, [NAME] may be missing
	help    string // one line; empty: the help of the action
	action  string // id of the action that is its twin on the screen
	long    string
	example string
	streams bool // it may say many documents: --jsonl
	makes   bool // a lab, where there is none
	flags   func(*pflag.FlagSet)
	run     func(ctx context.Context, args []string) error
}

// table lists the commands in the order in which help shows them.
func (c *call) table() []entry {
	return slices.Concat(c.serveCommands(), c.machineCommands(), c.repairCommands(), c.contractCommands(), c.imageCommands(), c.upkeepCommands(), c.flashCommands(), c.shareCommands(), c.stackCommands(), c.kindCommands(), c.bootCommands(), c.watchCommands())
}

// nouns are the words that only group commands.
var nouns = map[string]string{
	"machine":  "the machines of the lab, real and virtual",
	"image":    "images and their versions",
	"stack":    "what a machine runs, made of images",
	"kind":     "kinds of images, which are contracts",
	"boot":     "boot a machine with a stack",
	"queue":    "boots that wait",
	"contract": "what images promise, and whether they keep it",
	"wait":     "wait until something has happened",
}

// add hangs the entry's command into the tree, under its noun.
func (e entry) add(root *cobra.Command, c *call) {
	words, args := e.split()
	parent := root
	if len(words) == 2 {
		parent = noun(root, words[0], c)
	}
	cmd := &cobra.Command{
		Use:     strings.TrimSpace(words[len(words)-1] + " " + strings.Join(args, " ") + e.needs()),
		Short:   e.short(),
		Long:    e.long,
		Example: e.example,
		Args:    e.count(args),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.makes = e.makes
			if c.jsonl {
				c.json = true
			}
			return e.run(cmd.Context(), args)
		},
		ValidArgsFunction: c.complete(words[0], args),
	}
	if e.flags != nil {
		e.flags(cmd.Flags())
	}
	c.completeFlags(cmd)
	if e.streams {
		cmd.Flags().BoolVar(&c.jsonl, "jsonl", false, "one JSON document a line, as it happens")
	}
	parent.AddCommand(cmd)
}

// noun returns the command that groups others, which is made at first use. A noun that is a command too keeps that.
func noun(root *cobra.Command, name string, c *call) *cobra.Command {
	for _, x := range root.Commands() {
		if x.Name() == name {
			return x
		}
	}
	n := &cobra.Command{
		Use: name, Short: nouns[name], Args: c.known,
		RunE: what(name),
	}
	root.AddCommand(n)
	return n
}

// what is the noun alone: it asks for the rest.
func what(name string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		var words []string
		for _, x := range cmd.Commands() {
			words = append(words, x.Name())
		}
		return &half{name, words}
	}
}

// half is a noun without its verb.
type half struct {
	name  string
	verbs []string
}

func (h *half) Error() string {
	return fmt.Sprintf("carte %s what? There are %s", h.name, strings.Join(h.verbs, ", "))
}
func (h *half) Unwrap() error { return lab.ErrInvalid }
func (h *half) Fix() []string { return []string{"carte " + h.name + " --help"} }

// split separates an entry's words from its arguments, which begin with a capital or a bracket. Flags that are needed
// come last, for people to read.
func (e entry) split() (words, args []string) {
	use, _, _ := strings.Cut(e.use, " -")
	for _, w := range strings.Fields(use) {
		if strings.IndexAny(w[:1], "ABCDEFGHIJKLMNOPQRSTUVWXYZ[") == 0 {
			args = append(args, w)
		} else {
			words = append(words, w)
		}
	}
	return words, args
}

// needs are the flags that the entry does not go without, with a space before.
func (e entry) needs() string {
	if _, flags, ok := strings.Cut(e.use, " -"); ok {
		return " -" + flags
	}
	return ""
}

func (e entry) short() string {
	if e.help != "" {
		return e.help
	}
	a, ok := action.ByID(e.action)
	if !ok {
		panic("BUG: " + e.use + " has no help and no action")
	}
	return a.Help
}

// count refuses too few and too many arguments, by name.
func (e entry) count(args []string) cobra.PositionalArgs {
	least, most := 0, len(args)
	for _, a := range args {
		if !strings.HasPrefix(a, "[") {
			least++
		}
		if strings.Contains(a, "...") {
			most = 1 << 20
		}
	}
	return func(cmd *cobra.Command, got []string) error {
		usage := strings.TrimSpace(cmd.CommandPath() + " " + strings.Join(args, " ") + e.needs())
		switch {
		case len(got) < least:
			return fmt.Errorf("%s is missing: %s: %w", strings.TrimSuffix(args[len(got)], "..."), usage, lab.ErrInvalid)
		case len(got) > most:
			return fmt.Errorf("%q is too much: %s: %w", got[most], usage, lab.ErrInvalid)
		}
		return nil
	}
}
