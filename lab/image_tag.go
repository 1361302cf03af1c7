package lab

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// TagImage gives a version a name beside its number, as in debian@stable. A tag belongs to one version of its image: given
// to another, it leaves the first. Remove takes it away from the version that has it; one that Ref numbers must be that one.
type TagImage struct {
	Ref    Ref    `json:"ref"` // without a number: the newest
	Tag    string `json:"tag"`
	Remove bool   `json:"remove,omitempty"`
}

func (v TagImage) decide(d *draft) error {
	if err := checkName("tag", v.Tag); err != nil {
		return err
	}
	if _, err := strconv.Atoi(v.Tag); err == nil {
		return fmt.Errorf("tag %q is a number, which versions have: %w", v.Tag, ErrInvalid)
	}
	x, err := d.Snapshot.Version(v.Ref)
	if err != nil {
		return err
	}
	im := d.Images[x.Image]
	switch at, has := im.Tags[v.Tag]; {
	case v.Remove && !has:
		return fmt.Errorf("image %s has no tag %q%s: %w", im.Name, v.Tag, among("; it has ", slices.Sorted(maps.Keys(im.Tags))), ErrNotFound)
	case v.Remove && v.Ref.Version != 0 && at != x.Number:
		return fmt.Errorf("tag %q is on %s, not on %s: %w", v.Tag, Ref{im.Name, at}, x.Ref(), ErrRefused)
	case !v.Remove && at == x.Number:
		return nil
	}
	im.Tags = maps.Clone(im.Tags)
	if v.Remove {
		if delete(im.Tags, v.Tag); len(im.Tags) == 0 {
			im.Tags = nil // as it is written down
		}
		d.put(im)
		d.fact(0, 0, "image %s: %s is no longer called %s", im.Name, im.Name, v.Tag)
		return nil
	}
	if im.Tags == nil {
		im.Tags = map[string]int{}
	}
	im.Tags[v.Tag] = x.Number
	d.put(im)
	d.fact(0, 0, "image %s is called %s", x.Ref(), v.Tag)
	return nil
}

// untag takes the tags of versions that are gone from an image.
func (d *draft) untag(image string) {
	im, ok := d.Images[image]
	if !ok {
		return
	}
	tags := maps.Clone(im.Tags)
	maps.DeleteFunc(tags, func(_ string, n int) bool { _, there := d.Versions[Ref{image, n}.String()]; return !there })
	if len(tags) < len(im.Tags) {
		if im.Tags = tags; len(tags) == 0 {
			im.Tags = nil // as it is written down
		}
		d.put(im)
	}
}

// TagsOf lists the tags of a version, sorted.
func (s Snapshot) TagsOf(v Version) (tags []string) {
	for _, t := range slices.Sorted(maps.Keys(s.Images[v.Image].Tags)) {
		if s.Images[v.Image].Tags[t] == v.Number {
			tags = append(tags, t)
		}
	}
	return tags
}

// ParseRef reads name, name@3, or name@TAG, which is the number that the tag stands for just now.
func (s Snapshot) ParseRef(text string) (Ref, error) {
	name, tag, tagged := strings.Cut(text, "@")
	if n, ok := s.Images[name].Tags[tag]; ok && tagged {
		return Ref{name, n}, nil
	}
	ref, err := ParseRef(text)
	if im, ok := s.Images[name]; err != nil && ok && tagged {
		tags := "has no tags yet"
		if len(im.Tags) > 0 {
			tags = among("has the tags ", slices.Sorted(maps.Keys(im.Tags)))
		}
		return Ref{}, fmt.Errorf("%q: a version is a number from 1, as in %s@3, or a tag, and %s %s: %w", text, name, name, tags, ErrInvalid)
	}
	return ref, err
}

// RollbackImage makes the bytes of an older version the newest, as a version of its own: nothing is taken away, and what
// floats on the image takes it. A boot that changes the image meanwhile cannot hide it; see AddVersion.Back.
type RollbackImage struct {
	Image   string `json:"image"`
	To      int    `json:"to"`
	Message string `json:"message,omitempty"`
	Author  string `json:"author,omitempty"`
}

func (v RollbackImage) decide(d *draft) error {
	if v.To < 1 {
		return fmt.Errorf("image %s: to which version? --to 3: %w", v.Image, ErrInvalid)
	}
	old, err := d.Snapshot.Version(Ref{v.Image, v.To})
	if err != nil {
		return err
	}
	newest, err := d.Snapshot.Version(Ref{Name: v.Image})
	if err != nil {
		return err
	}
	if newest.same(old) {
		return fmt.Errorf("%s, the newest, is as %s already: %w", newest.Ref(), old.Ref(), ErrRefused)
	}
	im, n := d.Images[v.Image], old
	n.Number, n.Stored, n.Parent, n.Author = 0, 0, old.Number, v.Author
	n.Message = or(Clean(v.Message), "as "+old.Ref().String())
	return AddVersion{Version: n, Kind: im.Kind, Form: im.Form, Exact: true}.decide(d)
}
