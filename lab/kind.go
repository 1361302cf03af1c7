package lab

import "fmt"

// A Kind is a row of clauses: what an image of this kind promises, and what the server enforces.
type Kind struct {
	Name        string `json:"name"`
	Versioned   bool   `json:"versioned"`
	Checksummed bool   `json:"checksummed"`
	Joins       bool   `json:"joins_by_itself"`
	Updates     bool   `json:"updates_by_itself"`
	Shared      bool   `json:"shared"`
	WrittenBack string `json:"written_back"` // always, changed, results, request, never
	Lifetime    string `json:"lifetime"`     // machine, date, or empty: until removed
}

// Kinds is the table of kinds.
var Kinds = []Kind{
	{"machine", true, false, true, true, false, "always", "machine"},
	{"system", true, false, false, false, true, "request", ""},
	{"user", false, true, false, true, false, "changed", ""},
	{"project", true, false, true, false, true, "results", ""},
	{"temporary", false, false, false, false, false, "never", "date"},
}

// KindOf returns the row with that name.
func KindOf(name string) (Kind, error) {
	var names []string
	for _, k := range Kinds {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return Kind{}, fmt.Errorf("kind %q: %w%s", name, ErrInvalid, among("; carte knows ", names))
}
