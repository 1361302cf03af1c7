package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"carte/lab"
)

// flagKinds says which completions fit the value of a flag. A name means the same for every command.
var flagKinds = map[string]string{"on": "MACHINE", "machine": "MACHINE", "system": "IMAGE", "kernel": "IMAGE", "user": "IMAGE", "project": "IMAGE", "layer": "IMAGE", "keep": "IMAGE",
	"start": "START", "upper": "UPPER", "reset": "RESET", "ask": "CLAUSE", "offer": "CLAUSE", "form": "FORM", "kind": "KIND", "as": "AS", "diagram": "DIAGRAM", "wait": "BOOT-GOAL", "firmware": "FIRMWARE", "before": "WAITING", "strategy": "STRATEGY", "dhcp": "DHCP"}

// fixed are the completions that are the same in every lab.
var fixed = map[string][]string{
	"WANT": {"on", "off", "cycle"}, "FIRMWARE": {string(lab.BIOS), string(lab.UEFI)}, "DHCP": {"auto", "server", "proxy", "off"},
	"START": {string(lab.StartPivot), string(lab.StartKexec), string(lab.StartNetboot), string(lab.StartMemory), string(lab.StartDisk)},
	"UPPER": {string(lab.UpperMemory), string(lab.UpperDisk)}, "RESET": {string(lab.ResetAlways), string(lab.ResetSampled), string(lab.ResetTrust)},
	"CLAUSE": clauseWords(), "FORM": formWords(),
	"AS": exportForms, "DIAGRAM": {"text", "mermaid", "svg"},
	"STRATEGY": {"auto", "full", "differential"}, "MACHINE-GOAL": machineGoals, "BOOT-GOAL": bootGoals(), "SETTING=VALUE": settingWords(),
}

func bootGoals() (words []string) {
	for _, s := range bootStates {
		words = append(words, string(s))
	}
	for _, s := range lab.Ladder {
		if !slices.Contains(words, string(s.Rung)) {
			words = append(words, string(s.Rung))
		}
	}
	return words
}

func clauseWords() (words []string) {
	for _, c := range lab.Clauses {
		words = append(words, string(c.Clause), string(c.Clause)+"="+string(lab.Required))
	}
	return words
}

func formWords() (words []string) {
	for _, f := range lab.Forms {
		words = append(words, string(f))
	}
	return words
}

func settingWords() (words []string) {
	for _, s := range lab.Settings {
		words = append(words, s.Name+"=")
	}
	return words
}

// completeFlags lets a command's flags be completed.
func (c *call) completeFlags(cmd *cobra.Command) {
	for name, kind := range flagKinds {
		if cmd.Flags().Lookup(name) == nil {
			continue
		}
		err := cmd.RegisterFlagCompletionFunc(name, func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return c.candidates(cmd, kind)
		})
		if err != nil {
			panic("BUG: " + err.Error())
		}
	}
}

// complete offers what fits an argument, for the shell. Noun is the command's first word.
func (c *call) complete(noun string, args []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, have []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		at := len(have)
		if n := len(args); n > 0 && at >= n && strings.Contains(args[n-1], "...") {
			at = n - 1
		}
		if at >= len(args) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		kind := strings.Trim(args[at], "[].|")
		switch {
		case kind == "GOAL": // whose goal, the argument before it says
			kind = args[at-1] + "-GOAL"
		case kind == "BOOT" && noun == "queue":
			kind = "WAITING"
		}
		return c.candidates(cmd, kind)
	}
}

func (c *call) candidates(cmd *cobra.Command, kind string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
	if kind == "FILE" {
		return nil, cobra.ShellCompDirectiveDefault
	}
	if words, ok := fixed[kind]; ok {
		directive := cobra.ShellCompDirectiveNoFileComp
		if kind == "SETTING=VALUE" {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		return words, directive
	}
	err := c.look(cmd.Context(), func(s lab.Snapshot) error {
		names = completions(kind, s)
		return nil
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func completions(kind string, s lab.Snapshot) (names []string) {
	switch kind {
	case "MACHINE":
		for _, m := range s.SortedMachines() {
			names = append(names, m.Label())
		}
	case "STACK":
		for _, x := range s.SortedStacks() {
			names = append(names, x.Name)
		}
	case "IMAGE":
		for _, i := range sortedImages(s) {
			names = append(names, i.Name)
		}
	case "KIND":
		for _, k := range s.AllKinds() {
			names = append(names, k.Name)
		}
	case "BOOT", "WAITING":
		for _, b := range s.SortedBoots() {
			if kind == "BOOT" || b.State == lab.Queued {
				names = append(names, fmt.Sprint(b.ID))
			}
		}
	}
	return names
}
