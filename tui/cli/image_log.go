package cli

import (
	"context"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"carte/lab"
)

// logImage lists an image's versions, the newest first.
func (c *call) logImage(s lab.Snapshot, name string) error {
	ref, err := s.ParseRef(name)
	if err == nil {
		_, err = s.Version(ref)
	}
	if err != nil {
		return err
	}
	im := imageOf(s, s.Images[ref.Name])
	slices.Reverse(im.Versions)
	l := list{head: []string{"VERSION", "MADE", "BY", "FROM", "NEW", "ROOT", "TAGS", "USED BY", "MESSAGE"}}
	for _, v := range im.Versions {
		made, from := "", ""
		if v.At != nil {
			made = v.At.Local().Format("2006-01-02 15:04")
		}
		if v.Parent != 0 {
			from = "@" + strconv.Itoa(v.Parent)
		}
		l.names = append(l.names, v.Ref.String())
		l.rows = append(l.rows, []string{v.Ref.String(), made, v.Author, from, lab.Bytes(v.Stored), v.Root[:12], strings.Join(v.Tags, ", "), strings.Join(usersOf(s, v.Ref), ", "), v.Message})
	}
	l.doc = im
	return c.show(l)
}

// usersOf names the stacks that take a version just now: those that pin it, and where it is the newest those that float.
func usersOf(s lab.Snapshot, ref lab.Ref) (names []string) {
	for _, st := range s.SortedStacks() {
		for _, r := range st.Layers {
			if v, err := s.Version(r); err == nil && v.Ref() == ref {
				names = append(names, st.Name)
			}
		}
	}
	return names
}

// tagImage gives a version a tag or takes it away, and says from where.
func (c *call) tagImage(ctx context.Context, name, tag string, remove bool) error {
	return c.with(ctx, seeing(ctx, func(d desk, s lab.Snapshot) error {
		ref, err := s.ParseRef(name)
		if err != nil {
			return err
		}
		was := lab.Ref{Name: ref.Name, Version: s.Images[ref.Name].Tags[tag]} // without a number: nowhere
		if _, s, err = d.say(ctx, lab.TagImage{Ref: ref, Tag: tag, Remove: remove}); err != nil {
			return err
		}
		if remove {
			ref = was
		}
		v, err := s.Version(ref)
		if err != nil {
			return err
		}
		row := []string{v.Ref().String(), or(strings.Join(s.TagsOf(v), ", "), "no tags")}
		switch {
		case remove:
			row = append(row, tag+" taken away")
		case was.Version != 0 && was != v.Ref():
			row = append(row, fmt.Sprintf("%s moved from %s", tag, was))
		}
		return c.show(list{doc: imageOf(s, s.Images[ref.Name]), names: row[:1], rows: [][]string{row}})
	}))
}

// rollback makes the bytes of an older version the newest.
func (c *call) rollback(ctx context.Context, name, to, message string) error {
	if to == "" {
		return fmt.Errorf("roll %s back to which version? --to 3; carte image log %s lists them: %w", name, name, lab.ErrInvalid)
	}
	v := lab.RollbackImage{Image: name, Message: message}
	if me, err := user.Current(); err == nil {
		v.Author = me.Username
	}
	return c.with(ctx, seeing(ctx, func(d desk, s lab.Snapshot) error {
		ref, err := s.ParseRef(name + "@" + strings.TrimPrefix(to, name+"@"))
		if err != nil {
			return err
		}
		v.To = ref.Version
		ch, s, err := d.say(ctx, v)
		if err != nil {
			return err
		}
		x := ch.Versions[len(ch.Versions)-1]
		return c.show(list{doc: imageOf(s, s.Images[name]), names: []string{x.Ref().String()}, rows: [][]string{{x.Ref().String(), "has the bytes of " + ref.String()}}})
	}))
}
