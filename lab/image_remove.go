package lab

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// RemoveImage removes one version, or the image with all of them. Confirm repeats what is removed.
type RemoveImage struct {
	Ref     Ref    `json:"ref"`
	Confirm string `json:"confirm"`
}

func (v RemoveImage) decide(d *draft) error {
	if _, err := d.Snapshot.Version(v.Ref); err != nil && (v.Ref.Version != 0 || d.Images[v.Ref.Name].Name == "") {
		return err
	}
	all := d.VersionsOf(v.Ref.Name)
	going := slices.DeleteFunc(slices.Clone(all), func(x Version) bool { return v.Ref.Version != 0 && x.Number != v.Ref.Version })
	if err := d.Removable(v.Ref); err != nil {
		return err
	}
	var gone []Change
	for _, x := range going {
		gone = append(gone, Gone{TableVersions, x.Ref().String()})
	}
	if v.Confirm != v.Ref.String() {
		return fmt.Errorf("removing %s cannot be undone; repeat its name: --confirm %s: %w", v.Ref, v.Ref, ErrConfirm)
	}
	if len(going) == len(all) {
		gone = append(gone, Gone{TableImages, v.Ref.Name})
	}
	d.put(gone...)
	d.untag(v.Ref.Name)
	d.fact(0, 0, "image %s removed", v.Ref)
	return nil
}

// Removable says why a version, or an image with all of its versions, cannot be removed: what needs it, and what takes it out
// there.
func (s Snapshot) Removable(ref Ref) error {
	all := s.VersionsOf(ref.Name)
	if len(all) == 0 || ref.Version != 0 && s.Versions[ref.String()].Number == 0 {
		return nil
	}
	stacks, boots := s.usersOf(ref, ref.Version == 0 || len(all) == 1)
	switch {
	case len(stacks) > 0:
		return fmt.Errorf("%s is needed by %s; take it out there first: carte stack edit %s, or carte stack rm %s: %w", ref, few("stack", stacks), stacks[0], stacks[0], ErrBusy)
	case len(boots) > 0:
		return fmt.Errorf("%s is needed by %s; wait for its end, or carte boot stop %s: %w", ref, few("boot", boots), boots[0], ErrBusy)
	}
	return nil
}

// few names some things of a sort, and counts the others.
func few(what string, names []string) string {
	const most = 3
	if len(names) > 1 {
		what += "s"
	}
	if len(names) > most+1 {
		return fmt.Sprintf("%s %s and %d more", what, strings.Join(names[:most], ", "), len(names)-most)
	}
	return what + " " + strings.Join(names, ", ")
}

// usersOf names what needs a version, or with Version 0 any of an image: stacks that pin it (or float on the image, when all
// versions go), and boots that are not over.
func (s Snapshot) usersOf(ref Ref, all bool) (stacks, boots []string) {
	is := func(x Ref) bool {
		return x.Name == ref.Name && (x.Version == ref.Version || ref.Version == 0 && s.Versions[x.String()].Number != 0)
	}
	for _, st := range s.SortedStacks() {
		if slices.ContainsFunc(st.Layers, func(l Ref) bool { return is(l) || l == Ref{Name: ref.Name} && all }) {
			stacks = append(stacks, st.Name)
		}
	}
	for _, b := range s.SortedBoots() {
		if b.State.Final() {
			continue
		}
		c := b.Plan.Capture
		if c != nil && is(Ref{c.Image, c.Base}) || slices.ContainsFunc(b.Plan.Layers, func(l PlanLayer) bool { return is(l.Ref) }) {
			boots = append(boots, strconv.FormatInt(b.ID, 10))
		}
	}
	return stacks, boots
}
