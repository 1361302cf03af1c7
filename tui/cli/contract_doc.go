package cli

import (
	"time"

	"carte/lab"
)

// badgeDoc is what a contract test has proven of a version.
type badgeDoc struct {
	Ref     lab.Ref     `json:"ref"`
	Kept    bool        `json:"kept"` // no clause is broken, and one at least was kept
	Words   string      `json:"words"`
	Machine string      `json:"machine"`
	Carte   string      `json:"carte"`
	Proofs  []lab.Proof `json:"proofs"`
	At      *time.Time  `json:"at,omitempty"`

	word string
}

func docOfBadge(b lab.Badge) *badgeDoc {
	return &badgeDoc{b.Ref, b.Kept(), b.Words(), b.Machine, b.Carte, b.Proofs, stamp(b.At), b.Word()}
}

// badgeOf is the badge of a version's bytes; nil: none was given.
func badgeOf(s lab.Snapshot, v lab.Version) *badgeDoc {
	b, ok := s.BadgeOf(v)
	if !ok {
		return nil
	}
	return docOfBadge(b)
}

// words are a badge on one line, and one word for a table; empty and a dash where there is none.
func (d *badgeDoc) words() (line, word string) {
	if d == nil {
		return "", "—"
	}
	return d.Words, d.word
}
