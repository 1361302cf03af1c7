package text

import (
	"fmt"

	"carte/lab"
)

// kindsFile is a lab's own kinds as they are written.
type kindsFile struct {
	Kind []kindRow `toml:"kind"`
}

type kindRow struct {
	Name        string `toml:"name"`
	Versioned   bool   `toml:"versioned"`
	Checksummed bool   `toml:"checksummed"`
	Joins       bool   `toml:"joins_by_itself"`
	Updates     bool   `toml:"updates_by_itself"`
	Shared      bool   `toml:"shared"`
	WrittenBack string `toml:"written_back"`
	Lifetime    string `toml:"lifetime"`
}

// Kinds reads the file of a lab's own kinds: a [[kind]] for each, with the clauses of lab.Kind. What is left out is no; a kind
// that does not say whether it is written back never is. lab.ErrInvalid names the line, or the kind, that is wrong.
func Kinds(b []byte) ([]lab.Kind, error) {
	var f kindsFile
	if err := decode(b, &f); err != nil {
		return nil, err
	}
	var all []lab.Kind
	for i, k := range f.Kind {
		if k.WrittenBack == "" {
			k.WrittenBack = "never"
		}
		row := lab.Kind(k)
		if err := row.Check(); err != nil {
			return nil, fmt.Errorf("the %s [[kind]]: %w", nth(i+1), err)
		}
		all = append(all, row)
	}
	return all, nil
}

// WriteKinds writes rows of a file of kinds.
func WriteKinds(all []lab.Kind) []byte {
	var w writer
	for _, k := range all {
		w.line("[[kind]]")
		w.line("name = %s", quote(k.Name))
		for _, x := range []struct {
			key string
			is  bool
		}{{"versioned", k.Versioned}, {"checksummed", k.Checksummed}, {"joins_by_itself", k.Joins}, {"updates_by_itself", k.Updates}, {"shared", k.Shared}} {
			if x.is {
				w.line("%s = true", x.key)
			}
		}
		w.line("written_back = %s", quote(k.WrittenBack))
		if k.Lifetime != "" {
			w.line("lifetime = %s", quote(k.Lifetime))
		}
	}
	return w.Bytes()
}

func nth(n int) string {
	switch {
	case n%100/10 == 1:
	case n%10 == 1:
		return fmt.Sprintf("%dst", n)
	case n%10 == 2:
		return fmt.Sprintf("%dnd", n)
	case n%10 == 3:
		return fmt.Sprintf("%drd", n)
	}
	return fmt.Sprintf("%dth", n)
}
