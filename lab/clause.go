package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Clause is something that an image offers from within, and that a boot may ask for.
type Clause string

// The internal clauses.
const (
	Lazy      Clause = "lazy"      // its system may start before all of its bytes are there
	Autostart Clause = "autostart" // /carte/project/run, or the program it names, starts by itself
	Network   Clause = "network"   // its system brings the network up; without it, carte does, and keeps it
	Overlay   Clause = "overlay"   // its system runs from a base that is never written, with its changes in a layer of their own
	Results   Clause = "results"   // what its system leaves in /carte/out is taken home
	Heartbeat Clause = "heartbeat" // a process of carte may live beside its system and say that it is well
	Sealed    Clause = "sealed"    // it is proven to the last byte before every boot
)

// An InternalClause is a row of the table of internal clauses.
type InternalClause struct {
	Clause Clause `json:"clause"`
	Means  string `json:"means"`  // for a person: what a boot has that has it
	Lacks  string `json:"lacks"`  // and what it is like without
	Served []Form `json:"served"` // the forms of a system that carte can keep it for
}

// Clauses is the table of internal clauses.
var Clauses = []InternalClause{
	{Overlay, "the base is never written; a reset drops what was changed", "what the system changes stays on the disk, and a reset is a flash", []Form{FormTree}},
	{Network, "the system brings the network up itself", "carte brings the network up for it", []Form{FormTree, FormDisk}},
	{Heartbeat, "carte lives beside the system and hears that it is well", "only the serial console says how it is", []Form{FormTree}},
	{Autostart, "the project's program starts by itself", "somebody has to start the work", []Form{FormTree}},
	{Results, "what lies in /carte/out is taken home", "results come home as ::carte lines on the console only", []Form{FormTree}},
	{Lazy, "the system starts before all bytes are there", "all bytes are there before the system starts", []Form{FormTree}},
	{Sealed, "every byte is proven before every boot", "bytes are proven as the stack's reset says", []Form{FormTree, FormDisk}},
}

// Need is how much a clause is asked for.
type Need string

const (
	Optional Need = "optional" // without it the boot goes on, and says so
	Required Need = "required" // without it there is no boot
)

// Terms say which clauses an image offers, or a stack asks for.
type Terms map[Clause]Need

func (t Terms) String() string {
	var words []string
	for _, c := range Clauses {
		if n, ok := t[c.Clause]; ok {
			words = append(words, string(c.Clause)+" "+string(n))
		}
	}
	return strings.Join(words, ", ")
}

// Check refuses words that are no clause, or no need.
func (t Terms) Check() error {
	for _, c := range slices.Sorted(maps.Keys(t)) {
		if !slices.ContainsFunc(Clauses, func(x InternalClause) bool { return x.Clause == c }) {
			return fmt.Errorf("clause %q: carte knows overlay, network, heartbeat, autostart, results, lazy and sealed: %w", c, ErrInvalid)
		}
		if n := t[c]; n != Optional && n != Required {
			return fmt.Errorf("clause %s is %q; it is optional or required: %w", c, n, ErrInvalid)
		}
	}
	if t[Lazy] == Required && t[Sealed] == Required {
		return fmt.Errorf("lazy and sealed cannot both be required: what has not arrived is not proven: %w", ErrInvalid)
	}
	return nil
}

// offered is what an image offers that says nothing about it: what is true of everything of its form.
var offered = map[Form]Terms{
	FormTree: {Overlay: Optional, Heartbeat: Optional, Results: Optional},
}

// Agreed is what became of one clause, for one boot.
type Agreed struct {
	Clause Clause `json:"clause"`
	Need   Need   `json:"need"`
	Given  bool   `json:"given"`
	By     []Ref  `json:"by,omitempty"`  // the images that offer it
	Why    string `json:"why,omitempty"` // it is not given, and what that comes to
}

// An offering is one image's side of an agreement.
type offering struct {
	Ref  Ref
	Form Form
	Terms
	Lacks []string // see Inside.Lacks
	Idle  string   // its place is the project's, and there it cannot autostart: see Inside.Idle
}

// agree puts together what a stack asks for, what its images offer, and what carte can keep for a system of that form.
// What is required and cannot be had is an error that names the clause; what is optional and cannot be had is told.
func agree(form Form, asks Terms, images []offering) ([]Agreed, error) {
	all := negotiate(form, asks, images)
	for _, a := range all {
		if a.refuses() {
			return nil, about("asks."+string(a.Clause), fmt.Errorf("clause %s is required and cannot be given: %s: %w", a.Clause, a.Why, ErrRefused))
		}
	}
	return all, nil
}

// refuses says that there is no boot, for want of the clause.
func (a Agreed) refuses() bool { return a.Need == Required && !a.Given }

// negotiate says what becomes of every clause that is asked for. What an image offers is asked for, as optional, unless the
// stack says otherwise; but for lazy, which has a price.
func negotiate(form Form, asks Terms, images []offering) (all []Agreed) {
	given := map[Clause]bool{}
	for _, row := range Clauses {
		a, idle := Agreed{Clause: row.Clause, Need: asks[row.Clause]}, ""
		for _, im := range images {
			need, offers := im.Terms[row.Clause]
			if !offers {
				continue
			}
			if row.Clause == Autostart && im.Idle != "" {
				idle = fmt.Sprintf("%s offers it, and %s; %s", im.Ref, im.Idle, row.Lacks)
			} else {
				a.By = append(a.By, im.Ref)
			}
			if need == Required || a.Need == "" && row.Clause != Lazy {
				a.Need = need
			}
		}
		if a.Need == "" {
			continue
		}
		kernel := slices.IndexFunc(images, func(im offering) bool { return im.Form == FormKernel && len(im.Lacks) > 0 })
		switch {
		case len(a.By) == 0 && idle != "":
			a.Why = idle
		case len(a.By) == 0:
			a.Why = "no image offers it; " + row.Lacks
		case !slices.Contains(row.Served, form):
			a.Why = fmt.Sprintf("carte cannot keep it for a %s; %s", form, row.Lacks)
		case row.Clause == Lazy && kernel >= 0:
			a.Why = fmt.Sprintf("the kernel %s has no %s, through which what has not arrived is read; %s", images[kernel].Ref, strings.Join(images[kernel].Lacks, " and no "), row.Lacks)
		case row.Clause == Sealed && given[Lazy]:
			a.Why = "lazy is given, and what has not arrived is not proven; " + row.Lacks
		default:
			a.Given, given[row.Clause] = true, true
		}
		all = append(all, a)
	}
	return all
}

// Gives says whether a clause is given.
func (p Plan) Gives(c Clause) bool {
	return slices.ContainsFunc(p.Agreed, func(a Agreed) bool { return a.Clause == c && a.Given })
}
