package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"carte/lab"
	"carte/lab/text"
	"carte/store/media"
)

// describe says in v what the files of an image are, and what they say of themselves; what v says already wins. Files that are to become a kernel image
// are made so first, where fresh is set. It returns what is odd about them.
func describe(files *media.Files, v *lab.AddVersion, fresh bool) (warnings []string, err error) {
	m, _, err := files.Manifest(v.Form)
	if err != nil {
		return nil, err
	}
	if m.Offers != nil {
		asked := v.Offers
		v.Offers = maps.Clone(m.Offers)
		maps.Copy(v.Offers, asked)
		if err := v.Offers.Check(); err != nil {
			return nil, err
		}
	}
	v.Place = cmp.Or(v.Place, m.Place)
	if v.Form == lab.FormKernel {
		v.Cmdline = m.Kernel.Cmdline
	}
	roots := media.PlacedRoots(m.Kernel.Cmdline)
	defer func() {
		if err == nil && v.Form != lab.FormKernel && m.Kernel != (text.KernelPart{}) {
			warnings = append(warnings, fmt.Sprintf("its manifest has a part [kernel], which is read in a kernel image alone; this is of the form %s", v.Form))
		}
	}()
	switch v.Form {
	case lab.FormKernel:
		var k media.KernelFacts
		if fresh {
			if k, err = files.Kernel(m.Kernel.Starts); err != nil {
				return nil, err
			}
			v.Found, warnings = lab.Clean(k.String()), k.Warnings()
		}
		v.Inside = files.Inside(v.Form)
		v.Inside.Serial = k.Serial
		if v.Inside.Starts == "" {
			return nil, fmt.Errorf("there is no /boot/kernel in it that anything can start: %w", lab.ErrInvalid)
		}
	case lab.FormTree:
		facts := files.Facts()
		v.Found, warnings, v.Inside = facts.String(), facts.Warnings(), files.Inside(v.Form)
		roots = append(roots, files.Roots()...)
	default:
		v.Found, v.Inside = files.Facts().Count(), files.Inside(v.Form)
		if _, offers := v.Offers[lab.Autostart]; offers && v.Inside.Idle != "" {
			warnings = append(warnings, "it offers autostart, and "+v.Inside.Idle+": nothing would start")
		}
	}
	return append(warnings, placed(roots)...), nil
}

// placed warns of disks that a kernel's command line names by their place.
func placed(roots []string) []string {
	if len(roots) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("the kernel's command line names the root by its place (root=%s), which another machine has elsewhere: root=UUID= is found everywhere; where carte starts a tree, it says the root itself", lab.Clean(strings.Join(roots, ", ")))}
}

// inspect says in v what is in a version that is stored, as far as that is not known yet, and returns what is odd about it.
func (d *Desk) inspect(ctx context.Context, v *lab.AddVersion, facts media.Facts) (warnings []string, err error) {
	defer func() { v.Inside.UUIDs = uuids(facts) }()
	if v.Found != "" { // it was made of files
		return nil, nil
	}
	r, err := d.State.Chunks.Reader(v.Root)
	if err != nil {
		return nil, err
	}
	if v.Form == lab.FormDisk {
		in, roots, err := media.DiskInside(ctx, r, facts)
		v.Inside = in
		return placed(roots), err
	}
	files, err := media.OpenFiles(ctx, r, v.Bytes)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, lab.ErrInvalid) && v.Form != lab.FormKernel:
		return nil, nil // what is not known is left empty
	case err != nil:
		return nil, fmt.Errorf("look into %s: %w", v.Image, err)
	}
	defer files.Close()
	warnings, err = describe(files, v, false)
	if v.Form == lab.FormKernel {
		v.Found = ""
	}
	return slices.Concat(warnings, files.Notes), err
}
