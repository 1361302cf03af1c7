package cli

import (
	"time"

	"carte/lab"
)

// badgeDoc is what a contract test has proven of a version.
type badgeDoc struct {
	Kept    bool        `json:"kept"` // no clause is broken, and one at least was kept
	Machine string      `json:"machine"`
	Carte   string      `json:"carte"`
	Proofs  []lab.Proof `json:"proofs"`
	At      *time.Time  `json:"at,omitempty"`

	text string
}

// badgeOf is the badge of a version's bytes; nil: none was given.
func badgeOf(s lab.Snapshot, v lab.Version) *badgeDoc {
	b, ok := s.BadgeOf(v)
	if !ok {
		return nil
	}
	return &badgeDoc{Kept: b.Kept(), Machine: b.Machine, Carte: b.Carte, Proofs: b.Proofs, At: stamp(b.At), text: b.Words()}
}

func (d *badgeDoc) words() string {
	if d == nil {
		return ""
	}
	return d.text
}
