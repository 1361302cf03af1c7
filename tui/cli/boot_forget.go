package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"carte/lab"
)

// outsDoc is how much room results take.
type outsDoc struct {
	Boots   int   `json:"boots"`
	Bytes   int64 `json:"size_bytes"`
	Untaken int   `json:"untaken_boots"` // whose results nobody has taken home
}

func (o *outsDoc) add(b lab.Boot) {
	o.Boots++
	o.Bytes += b.OutBytes()
	o.Untaken += btoi(b.OutTaken.IsZero())
}

func (o outsDoc) String() string {
	text := fmt.Sprintf("%s of %s", lab.Bytes(o.Bytes), plural(o.Boots, "boot"))
	if o.Untaken > 0 {
		text += fmt.Sprintf(", %d not taken home yet", o.Untaken)
	}
	return text
}

// outDoc is what one boot left.
type outDoc struct {
	Boot    int64      `json:"boot"`
	Stack   string     `json:"stack"`
	Machine string     `json:"machine"`
	Files   int        `json:"files"`
	Bytes   int64      `json:"size_bytes"`
	Ended   *time.Time `json:"ended,omitempty"`
	Taken   *time.Time `json:"taken,omitempty"`
}

func outOf(s lab.Snapshot, b lab.Boot) outDoc {
	return outDoc{b.ID, b.Plan.Stack, machineName(s, b.Machine), len(b.Results), b.OutBytes(), stamp(b.Ended), stamp(b.OutTaken)}
}

func (o outDoc) row(word string) []string {
	return []string{strconv.FormatInt(o.Boot, 10), o.Stack, o.Machine, plural(o.Files, "file"), lab.Bytes(o.Bytes), word}
}

// listOuts lists the boots whose results are here.
func (c *call) listOuts(s lab.Snapshot) error {
	docs := []outDoc{}
	l := list{head: []string{"BOOT", "STACK", "MACHINE", "FILES", "SIZE", "TAKEN"}, empty: "no boot has left results"}
	var sum outsDoc
	for _, b := range s.Outs() {
		sum.add(b)
		x := outOf(s, b)
		docs = append(docs, x)
		taken := "not yet"
		if !b.OutTaken.IsZero() {
			taken = b.OutTaken.Format(time.RFC3339)
		}
		l.names = append(l.names, strconv.FormatInt(b.ID, 10))
		l.rows = append(l.rows, x.row(taken))
	}
	l.doc = struct {
		Results []outDoc `json:"results"`
		Sum     outsDoc  `json:"sum"`
	}{docs, sum}
	if sum.Boots > 0 {
		c.aside("%s", sum)
	}
	return c.show(l)
}

// forgetOut removes what boots left.
func (c *call) forgetOut(ctx context.Context, args []string, older string, confirm []int64, dry bool) error {
	v := lab.ForgetOut{Confirm: confirm}
	if older != "" {
		d, ok := span(older)
		if !ok || d < time.Second {
			return fmt.Errorf("--older %q: the age of what goes, as in 90d or 12h: %w", older, lab.ErrInvalid)
		}
		v.Older = int64(d / time.Second)
	}
	return c.with(ctx, func(d desk) error {
		s, err := d.Watch(ctx, 0)
		if err != nil {
			return err
		}
		for _, word := range args {
			id, err := strconv.ParseInt(word, 10, 64) // not a machine: its newest boot is another one soon
			if err != nil {
				return fmt.Errorf("%q is not the number of a boot; carte boot out lists those that left something: %w", word, lab.ErrInvalid)
			}
			v.Boots = append(v.Boots, id)
		}
		going, kept, err := s.Forgets(v, c.term.Now())
		if err != nil {
			return err
		}
		if !dry {
			changed, err := d.Say(ctx, v)
			if err != nil {
				return err
			}
			going = slices.DeleteFunc(going, func(b lab.Boot) bool { // as the lab has it, whose clock counts
				return !slices.ContainsFunc(changed.Boots, func(x lab.Boot) bool { return x.ID == b.ID })
			})
		}
		return c.showForgotten(s, going, kept, dry)
	})
}

func (c *call) showForgotten(s lab.Snapshot, going, kept []lab.Boot, dry bool) error {
	doc := struct {
		Dry     bool     `json:"dry_run"`
		Removed []outDoc `json:"removed"`
		Kept    []outDoc `json:"kept"` // old enough, and nobody has taken it home
		Bytes   int64    `json:"freed_bytes"`
	}{dry, []outDoc{}, []outDoc{}, 0}
	l := list{empty: "nothing is that old and was taken home"}
	word := "removed"
	if dry {
		word = "would go"
	}
	for _, b := range going {
		x := outOf(s, b)
		doc.Removed, doc.Bytes = append(doc.Removed, x), doc.Bytes+x.Bytes
		l.names = append(l.names, strconv.FormatInt(b.ID, 10))
		l.rows = append(l.rows, x.row(word))
	}
	for _, b := range kept {
		x := outOf(s, b)
		doc.Kept = append(doc.Kept, x)
		l.rows = append(l.rows, x.row(fmt.Sprintf("stays: nobody has taken it home; carte boot out %d", b.ID)))
	}
	l.doc = doc
	if err := c.show(l); err != nil {
		return err
	}
	if len(going) > 0 {
		c.aside("%s %s", lab.Bytes(doc.Bytes), map[bool]string{false: "freed", true: "would be freed; nothing was removed"}[dry])
	}
	return nil
}
