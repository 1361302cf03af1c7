package lab

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"carte/lab/chunk"
)

// What boots have left in /carte/out is kept for ever, unless a person says that it may go. What nobody has taken home goes only
// when it is named twice. The record of a boot keeps what there was: names, lengths and hashes.

// OutBytes is how much room the results of a boot take; 0 when they were removed.
func (b Boot) OutBytes() (n int64) {
	if !b.OutGone.IsZero() {
		return 0
	}
	for _, r := range b.Results {
		n += r.Bytes
	}
	return n
}

// HasOut says that results of the boot are here.
func (b Boot) HasOut() bool { return len(b.Results) > 0 && b.OutGone.IsZero() }

// OutSum is the hash of the list of results. A later try of the boot, which brings others, has another one.
func (b Boot) OutSum() string {
	text, err := json.Marshal(b.Results)
	if err != nil {
		panic(fmt.Sprintf("BUG: results that are no JSON: %v", err))
	}
	return chunk.Sum(text).String()
}

// Outs are the boots whose results are here, oldest first.
func (s Snapshot) Outs() (all []Boot) {
	for _, b := range s.SortedBoots() {
		if b.HasOut() {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b Boot) int { return int(a.ID - b.ID) })
	return all
}

// TookOut says that a person has the results of a boot in a place of their own, all of them.
type TookOut struct {
	Boot int64  `json:"boot"`
	Sum  string `json:"sum"` // OutSum of what was taken; others have come since where it differs, and nothing is noted
}

func (v TookOut) decide(d *draft) error {
	b, err := d.boot(v.Boot)
	if err != nil {
		return err
	}
	if !b.State.Final() || !b.HasOut() || b.OutSum() != v.Sum {
		return nil
	}
	b.OutTaken = d.at
	d.put(b)
	return nil
}

// ForgetOut removes what boots have left, and keeps their records: the boots that are named, or all that were over that long ago
// and whose results were taken home.
type ForgetOut struct {
	Boots   []int64 `json:"boots,omitempty"`
	Older   int64   `json:"older_seconds,omitempty"`
	Confirm []int64 `json:"confirm,omitempty"` // named once more: boots whose results nobody has taken home
}

// Forgets says what ForgetOut would remove at a time, and which boots of that age it would keep because nobody has taken home
// what they left.
func (s Snapshot) Forgets(v ForgetOut, at time.Time) (going, kept []Boot, err error) {
	switch {
	case (v.Older == 0) == (len(v.Boots) == 0):
		return nil, nil, fmt.Errorf("which results are to go? either boots by their numbers, or those older than a time: %w", ErrInvalid)
	case v.Older < 0:
		return nil, nil, fmt.Errorf("results of the last %d seconds: an age is more than nothing: %w", v.Older, ErrInvalid)
	}
	if v.Older != 0 {
		for _, b := range s.Outs() {
			switch {
			case !b.State.Final() || at.Sub(b.Ended) < time.Duration(v.Older)*time.Second:
			case b.OutTaken.IsZero():
				kept = append(kept, b)
			default:
				going = append(going, b)
			}
		}
		return going, kept, nil
	}
	var unsaid []string
	for _, id := range v.Boots {
		b, ok := s.Boots[id]
		switch {
		case !ok:
			return nil, nil, fmt.Errorf("boot %d: %w", id, ErrNotFound)
		case !b.State.Final():
			return nil, nil, fmt.Errorf("boot %d is %s, and may yet bring results; carte boot stop %d ends it: %w", id, b.State, id, ErrBusy)
		case !b.HasOut():
			return nil, nil, b.NoOut()
		case slices.ContainsFunc(going, func(x Boot) bool { return x.ID == id }):
			continue
		case b.OutTaken.IsZero() && !slices.Contains(v.Confirm, id):
			unsaid = append(unsaid, fmt.Sprintf("--confirm %d", id))
		}
		going = append(going, b)
	}
	if len(unsaid) > 0 {
		first := strings.TrimPrefix(unsaid[0], "--confirm ")
		return nil, nil, fmt.Errorf("nobody has taken home what boot %s left (carte boot out %s does); removing it cannot be undone: %s: %w", first, first, strings.Join(unsaid, " "), ErrConfirm)
	}
	return going, nil, nil
}

// NoOut is the error of a boot whose results are not here.
func (b Boot) NoOut() error {
	if !b.OutGone.IsZero() {
		return fmt.Errorf("what boot %d left was removed at %s; carte boot show %d has its list: %w", b.ID, b.OutGone.Format(time.RFC3339), b.ID, ErrNotFound)
	}
	return fmt.Errorf("boot %d left no results: %w", b.ID, ErrNotFound)
}

func (v ForgetOut) decide(d *draft) error {
	going, _, err := d.Forgets(v, d.at)
	if err != nil {
		return err
	}
	for _, b := range going {
		n := b.OutBytes()
		b.OutGone = d.at
		d.put(b)
		d.fact(b.Machine, b.ID, "boot %d: its %d results were removed, %s", b.ID, len(b.Results), Bytes(n))
	}
	return nil
}
