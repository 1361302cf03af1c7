package lab

import (
	"fmt"
	"slices"
)

// A Kind is a row of external clauses: what the server enforces for images of this kind.
type Kind struct {
	Name        string `json:"name"`
	Versioned   bool   `json:"versioned"`         // a version never takes the place of another
	Checksummed bool   `json:"checksummed"`       // what is unchanged is not sent
	Joins       bool   `json:"joins_by_itself"`   // it is in every stack of its machine
	Updates     bool   `json:"updates_by_itself"` // what was changed becomes a version without a word from anybody
	Shared      bool   `json:"shared"`            // several machines may use it at once
	WrittenBack string `json:"written_back"`      // always, changed, results, request, never
	Lifetime    string `json:"lifetime"`          // machine, date, or empty: until removed
}

// Kinds is the table of the kinds that carte comes with. A lab may have more; see Config.Kinds.
var Kinds = []Kind{
	{"machine", true, false, true, true, false, "always", "machine"},
	{"system", true, false, false, false, true, "request", ""},
	{"user", false, true, false, true, false, "changed", ""},
	{"project", true, false, true, false, true, "results", ""},
	{"temporary", false, false, false, false, false, "never", "date"},
}

// The external clauses, as refusals name them.
const (
	ClauseVersioned = "versioned"
	ClauseJoins     = "joins by itself"
	ClauseUpdates   = "updates by itself"
	ClauseShared    = "shared"
	ClauseWritten   = "written back"
	ClauseLifetime  = "lifetime"
)

// writtenBack lists what a kind can say about being written back.
var writtenBack = []string{"always", "changed", "results", "request", "never"}

// Check refuses a row that no lab could keep to.
func (k Kind) Check() error {
	if err := checkName("kind", k.Name); err != nil {
		return err
	}
	switch {
	case !slices.Contains(writtenBack, k.WrittenBack):
		return fmt.Errorf("kind %s: written_back is %q%s: %w", k.Name, k.WrittenBack, among("; it is one of ", writtenBack), ErrInvalid)
	case !slices.Contains([]string{"", "machine", "date"}, k.Lifetime):
		return fmt.Errorf("kind %s: lifetime is %q; it is machine, date, or left out: %w", k.Name, k.Lifetime, ErrInvalid)
	case k.Updates && k.WrittenBack == "never":
		return fmt.Errorf("kind %s updates by itself and is never written back: %w", k.Name, ErrInvalid)
	case k.Updates && k.Shared:
		return fmt.Errorf("kind %s updates by itself and is shared: two machines would each write what the other does not know: %w", k.Name, ErrInvalid)
	}
	return nil
}

// Broken is the error of what a clause of the kind does not allow. It names the clause, and what to do.
func (k Kind) broken(clause, format string, args ...any) error {
	return fmt.Errorf("%s (clause %q of kind %s): %w", fmt.Sprintf(format, args...), clause, k.Name, ErrRefused)
}

// KindOf returns the row with that name: one of Kinds, or one that this lab has besides.
func (s Snapshot) KindOf(name string) (Kind, error) {
	var names []string
	for _, k := range s.AllKinds() {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	not := ""
	if s.KindsAt.Trouble != "" {
		not = fmt.Sprintf("; and what is wrong with %s: %s", s.KindsAt.File, s.KindsAt.Trouble)
	}
	return Kind{}, fmt.Errorf("kind %q: %w%s%s", name, ErrInvalid, among("; there are ", names), not)
}

// AllKinds returns the table of kinds, the lab's own rows last.
func (s Snapshot) AllKinds() []Kind { return append(slices.Clone(Kinds), s.OwnKinds...) }

// CheckKinds refuses rows that a lab cannot have beside the table.
func CheckKinds(own []Kind) error {
	all := slices.Clone(Kinds)
	for _, k := range own {
		if err := k.Check(); err != nil {
			return err
		}
		if k.Joins && k.Lifetime != "machine" {
			return fmt.Errorf("kind %s joins by itself; that is for kinds that live with a machine, whose stacks they join: lifetime = \"machine\": %w", k.Name, ErrInvalid)
		}
		if slices.ContainsFunc(all, func(x Kind) bool { return x.Name == k.Name }) {
			return fmt.Errorf("kind %s is there twice: %w", k.Name, ErrInvalid)
		}
		all = append(all, k)
	}
	return nil
}
