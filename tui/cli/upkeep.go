package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/pflag"

	"carte/lab"
)

// upkeepCommands look after the store as a whole.
func (c *call) upkeepCommands() []entry {
	var dry bool
	return []entry{
		{
			use: "gc", action: "store.gc",
			long:    "Remove the manifests that no version and no boot refers to, and the chunks that no manifest lists. Nothing that is referred to is ever removed. See what would go with --dry-run first: what is gone must be imported again. It works beside a lab that runs, but not beside an import.",
			example: "  carte gc --dry-run\n  carte gc",
			flags:   func(f *pflag.FlagSet) { f.BoolVar(&dry, "dry-run", false, "change nothing, say what would go") },
			run: func(ctx context.Context, _ []string) error {
				return c.with(ctx, func(d desk) error { return c.collect(ctx, d, dry) })
			},
		},
		{
			use: "fsck", action: "store.fsck",
			long: "Hash every chunk in the store again. A damaged chunk of which there is another good copy is mended; the others are listed with the versions that they hurt, and the exit code is 1. A lab that runs asks its machines for them: one that has a chunk still, on its disk or in its cache, brings it with its next boot, and a later fsck finds it whole.",
			run: func(ctx context.Context, _ []string) error {
				return c.with(ctx, func(d desk) error { return c.fsck(ctx, d) })
			},
		},
	}
}

func (c *call) collect(ctx context.Context, d desk, dry bool) error {
	got, err := d.Collect(ctx, dry)
	if err != nil {
		return err
	}
	for _, n := range got.Notes {
		c.aside("%s", n)
	}
	l := list{doc: got, rows: [][]string{{lab.Bytes(got.Bytes), "freed", plural(got.Manifests, "manifest"), plural(got.Chunks, "chunk")}}}
	if got.Results > 0 {
		c.aside("what boots left takes %s, and stays; carte boot forget removes it", lab.Bytes(got.Results))
	}
	if dry {
		l.rows[0][1] = "would be freed"
		if got.Bytes > 0 {
			defer c.aside("nothing was removed; carte gc removes it")
		}
	}
	return c.show(l)
}

func (c *call) fsck(ctx context.Context, d desk) error {
	p := c.meter("fsck", 0)
	got, err := d.Fsck(ctx, p.toOf)
	p.end()
	if err != nil {
		return err
	}
	for _, n := range got.Notes {
		c.aside("%s", n)
	}
	c.aside("%s, %s read in %s; damaged %d, mended from the store %d, asked of machines %d", plural(got.Chunks, "chunk"), lab.Bytes(got.Bytes), took(got.Seconds), got.Damaged, got.Mended, got.Asked)
	l := list{doc: got, head: []string{"BROKEN", "ID", "WHY", "VERSIONS"}}
	hurt := map[string]bool{}
	for _, b := range got.Broken {
		versions := "none: nothing uses it"
		if len(b.Versions) > 0 {
			versions = fmt.Sprint(b.Versions)
		}
		for _, v := range b.Versions {
			hurt[v.String()] = true
		}
		l.names = append(l.names, b.ID.String())
		l.rows = append(l.rows, []string{b.What, b.ID.String()[:12], b.Why, versions})
	}
	if len(l.rows) == 0 {
		l.head = nil
	}
	return errors.Join(c.show(l), brokenBy(got, hurt))
}

// brokenBy says what is broken and what to do about it; nil when nothing is.
func brokenBy(got lab.Fscked, hurt map[string]bool) error {
	broken := got.Broken
	what := fmt.Sprintf("%d chunks or manifests are damaged or missing", len(broken))
	if len(broken) == 1 {
		what = fmt.Sprintf("1 %s is %s", broken[0].What, broken[0].Why)
	}
	names := make([]string, 0, len(hurt))
	for n := range hurt {
		names = append(names, n)
	}
	slices.Sort(names)
	switch {
	case len(broken) == 0:
		return nil
	case len(hurt) == 0:
		return fmt.Errorf("%s, and no version needs what is: carte gc: %w", what, lab.ErrDamaged)
	}
	mend := "import the same file again to mend it"
	if got.Asked > 0 {
		mend = "machines that have it bring it with their next boot; or " + mend
	}
	return fmt.Errorf("%s, which hurts %v; %s: %w", what, names, mend, lab.ErrDamaged)
}
