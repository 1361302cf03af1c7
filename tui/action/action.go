// Package action is the one table of what a person can do with carte. Keys, the hint line, help, the ':' words, the
// shell command that each key has as its twin, and the reason why something cannot be done just now all come from it.
//
// It knows the lab's verbs and nothing of how they are drawn or sent: it has no terminal, no flags and no socket.
package action

import (
	"slices"
	"strings"

	"carte/lab"
)

// A Place is where on the screen an action applies.
type Place string

const (
	Everywhere Place = "everywhere"
	Machines   Place = "machines"
	Queue      Place = "queue"
	Images     Place = "images"
	Stacks     Place = "stacks"
	Compose    Place = "compose" // a stack that is put together
	Boot       Place = "boot"    // the detail of one boot
	Log        Place = "log"
)

// Places lists where actions can apply, in the order of the screens.
var Places = []Place{Machines, Queue, Images, Stacks, Compose, Boot, Log, Everywhere}

// A Target is what an action is done to: the lab as it was drawn, the selected row, and what was typed or chosen. Rows
// that are not selected are zero. On Machines, Boot is the machine's active boot, else its newest.
type Target struct {
	Snapshot lab.Snapshot
	Machine  lab.Machine
	Boot     lab.Boot
	Image    lab.Image
	Version  lab.Version
	Stack    lab.Stack
	Text     string       // the answer to Ask, or the choice
	Confirm  string       // the name typed for tier 2; the lab compares it
	Remarks  []lab.Remark // what a check of Stack says
}

// The tiers of danger (see Action.Tier).
const (
	Reversible = 0 // asks nothing
	Interrupts = 1 // asks for the key once more
	Destroys   = 2 // asks for the name to be typed
)

// An Action is one row of the table. ID, Words, Help and Command are always set; every other func may be nil.
type Action struct {
	ID    string   // stable, for remapping: machine.power
	Words string   // what is typed after ':', and the hint: "power"
	Help  string   // one line
	Keys  []string // as Bubble Tea names them: "p", "enter", "ctrl+d"; empty: by word alone
	Where []Place
	// Danger is the highest tier that the action can have.
	Danger int
	// Ask is the question whose answer is Target.Text; empty: nothing is asked for this target.
	Ask func(Target) string
	// Present is what the answer would be now: the line begins with it, and may be left empty. Nil: the line begins empty.
	Present func(Target) string
	// Choices are the answers to choose from; nil or empty with an Ask: free text.
	Choices func(Target) []string
	// Enabled says whether the action can be done, and if not, why, in words. It does not look at Text.
	Enabled func(Target) (bool, string)
	// Command is the shell command that does the same, ready to be pasted.
	Command func(Target) string
	// Verb is what is said to the lab; nil for what the screen does by itself.
	Verb func(Target) (lab.Verb, error)
	// Edit is what becomes of Target.Stack while it is put together: the screen keeps it until it is saved.
	Edit func(Target) (lab.Stack, error)
	// Loses says in words what would be lost; empty: nothing.
	Loses func(Target) string
	// Confirm is the name to type before something is destroyed; empty: none for this target.
	Confirm func(Target) string
}

// Can says whether the action can be done to t, and if not, why.
func (a Action) Can(t Target) (bool, string) {
	if a.Enabled == nil {
		return true, ""
	}
	return a.Enabled(t)
}

// Question is what to ask before the action, empty when nothing needs to be asked.
func (a Action) Question(t Target) string {
	if a.Ask == nil {
		return ""
	}
	return a.Ask(t)
}

// Options are the answers to choose from.
func (a Action) Options(t Target) []string {
	if a.Choices == nil {
		return nil
	}
	return a.Choices(t)
}

// Tier is the danger of doing the action to this target: never more than a.Danger, and less when there is nothing to
// lose.
func (a Action) Tier(t Target) int {
	switch {
	case a.Danger >= Destroys && a.Confirm != nil && a.Confirm(t) != "":
		return Destroys
	case a.Danger >= Interrupts && a.Loses != nil && a.Loses(t) != "":
		return Interrupts
	}
	return Reversible
}

// At says whether the action applies at a place.
func (a Action) At(p Place) bool {
	return slices.Contains(a.Where, p) || slices.Contains(a.Where, Everywhere)
}

// Moves says whether the action only moves the selection or the view.
func (a Action) Moves() bool { return strings.HasPrefix(a.ID, "move.") }

// Table is every action, grouped by what it is done to.
var Table = slices.Concat(machines, boots, queue, images, stacks, compose, screen, moves)

// At returns the actions of a place, its own first, then those that apply everywhere.
func At(p Place) []Action {
	var own, all []Action
	for _, a := range Table {
		switch {
		case slices.Contains(a.Where, p):
			own = append(own, a)
		case slices.Contains(a.Where, Everywhere):
			all = append(all, a)
		}
	}
	return append(own, all...)
}

// ByKey returns what a key means at a place for a target. Where several actions share a key it is the one that can be
// done; when none can, the first, so that its reason can be shown.
func ByKey(p Place, key string, t Target) (a Action, ok bool) {
	for _, x := range At(p) {
		if !slices.Contains(x.Keys, key) {
			continue
		}
		if can, _ := x.Can(t); can {
			return x, true
		}
		if !ok {
			a, ok = x, true
		}
	}
	return a, ok
}

// ByWords returns the action that words typed after ':' begin with, and the rest of them, which is the Text.
func ByWords(p Place, typed string) (a Action, rest string, ok bool) {
	typed = strings.TrimSpace(typed)
	for _, x := range append(At(p), Table...) {
		r, found := strings.CutPrefix(typed, x.Words)
		if found && (r == "" || r[0] == ' ') && len(x.Words) > len(a.Words) {
			a, rest, ok = x, strings.TrimSpace(r), true
		}
	}
	return a, rest, ok
}

// ByID returns the action with that id.
func ByID(id string) (Action, bool) {
	i := slices.IndexFunc(Table, func(a Action) bool { return a.ID == id })
	if i < 0 {
		return Action{}, false
	}
	return Table[i], true
}
