package lab

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// OwnKinds are all kinds that a lab has beside the table of Kinds.
type OwnKinds []Kind

func (c OwnKinds) apply(d *draft) { d.OwnKinds = c }

// KindsAt says where a lab's own kinds are written, and whether what stands there is in force.
type KindsAt struct {
	File    string `json:"file"`
	Trouble string `json:"trouble,omitempty"` // why not all that it says is; empty: it is
}

func (c KindsAt) apply(d *draft) { d.KindsAt = c }

// TakeKinds puts kinds in force as the lab's own, in the place of those that were. An image keeps its contract: where one is of
// a kind that would go, or that would live otherwise, nothing is changed, and KindsAt.Trouble says so; as it does where the
// file cannot be read, which is wrong then. It returns that trouble.
func (l *Lab) TakeKinds(ctx context.Context, own []Kind, wrong error) (trouble string, err error) {
	_, err = l.do(ctx, func(d *draft) error {
		at := KindsAt{File: d.KindsAt.File}
		if wrong == nil {
			wrong = d.mayHave(own)
		}
		switch {
		case wrong != nil:
			at.Trouble = reason(wrong)
			trouble = at.Trouble
		case !slices.Equal(own, d.OwnKinds):
			d.put(OwnKinds(own))
			d.fact(0, 0, "kinds of the lab's own: %s", or(kindNames(own), "none"))
		}
		if at != d.KindsAt {
			d.put(at)
		}
		return nil
	})
	return trouble, err
}

func kindNames(all []Kind) string {
	var names []string
	for _, k := range all {
		names = append(names, k.Name)
	}
	return strings.Join(names, ", ")
}

// mayHave refuses kinds of the lab's own that its images could not keep to.
func (s Snapshot) mayHave(own []Kind) error {
	if err := CheckKinds(own); err != nil {
		return err
	}
	if why := s.orphans(own); why != "" {
		return fmt.Errorf("%s: %w", why, ErrRefused)
	}
	for _, k := range own {
		was, err := s.KindOf(k.Name)
		if err != nil || was.Lifetime == k.Lifetime {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(s.Images)) {
			if s.Images[name].Kind == k.Name {
				return k.broken(ClauseLifetime, "image %s is of kind %s, which cannot get another lifetime; a kind of another name can have it", name, k.Name)
			}
		}
	}
	return nil
}

// orphans says which images would be of no kind; empty: none.
func (s Snapshot) orphans(own []Kind) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(s.Images)) {
		is := func(k Kind) bool { return k.Name == s.Images[name].Kind }
		if !slices.ContainsFunc(Kinds, is) && !slices.ContainsFunc(own, is) {
			all = append(all, fmt.Sprintf("image %s is of kind %s", name, s.Images[name].Kind))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return among("", all) + ", and no [[kind]] has that name; put it back, or carte image rm takes the image away"
}
