package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"carte/lab"
	"carte/tui/folder"
)

// takeFlags say under which names a bundle is taken.
type takeFlags struct {
	as     lab.TakeAs
	images []string // NAME=NEW
	kinds  []string // NAME=NEW
}

func (t *takeFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&t.as.Stack, "as", "", "take the stack under this name")
	f.StringArrayVar(&t.images, "rename", nil, "take an image under another name: debian=delft-debian; may be said more than once")
	f.StringVar(&t.as.Prefix, "prefix", "", "put this before the names of images that are something else here: delft-")
	f.StringArrayVar(&t.kinds, "kind", nil, "take a kind of the bundle under another name, or as one with the same clauses: course=delft-course")
}

// read makes the flags what the lab understands.
func (t *takeFlags) read() (as lab.TakeAs, err error) {
	as = t.as
	if as.Images, err = renames("--rename", t.images); err != nil {
		return as, err
	}
	as.Kinds, err = renames("--kind", t.kinds)
	return as, err
}

func renames(flag string, all []string) (map[string]string, error) {
	var m map[string]string
	for _, x := range all {
		was, is, ok := strings.Cut(x, "=")
		if !ok || was == "" || is == "" {
			return nil, fmt.Errorf("%s %q is not NAME=NEW: %w", flag, x, lab.ErrInvalid)
		}
		m = with(m, was, is)
	}
	return m, nil
}

// importStack takes a stack out of a bundle.
func (c *call) importStack(ctx context.Context, file string, t takeFlags) error {
	as, err := t.read()
	if err != nil {
		return err
	}
	r, of, err := c.source(ctx, file)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, is := r.(*folder.Reader); is {
		return fmt.Errorf("%s is a folder, and a bundle is one file; carte stack export NAME --as bundle makes one: %w", file, lab.ErrInvalid)
	}
	return c.with(ctx, func(d desk) error {
		p := c.meter("import a stack", of)
		got, err := d.ImportStack(ctx, r, as, p.to)
		p.end()
		if err != nil {
			return &kept{ofBundle(file, err), "no stack was made"}
		}
		s, err := d.Watch(ctx, 0)
		if err != nil {
			return err
		}
		l := takenList(s, got)
		if len(l.rows) == 0 {
			c.aside("this lab has all of these bytes already; nothing was added")
		}
		return c.show(l)
	})
}

// ofBundle names the file that an error is about, and what helps where its bytes are to blame.
func ofBundle(file string, err error) error {
	if file == "-" {
		file = "standard input"
	}
	if errors.Is(err, lab.ErrDamaged) {
		return fmt.Errorf("%s: %s; copy it again: %w", file, lab.Words(err), lab.ErrDamaged)
	}
	return fmt.Errorf("%s: %w", file, err)
}

func takenList(s lab.Snapshot, got lab.Taken) list {
	l := list{}
	doc := struct {
		Stacks   []stackDoc    `json:"stacks"`
		Versions []versionDoc  `json:"versions"`
		Kinds    []kindDoc     `json:"kinds"`
		Renamed  []lab.Renamed `json:"renamed"`
	}{[]stackDoc{}, []versionDoc{}, []kindDoc{}, append([]lab.Renamed{}, got.Renamed...)}
	was := func(what, is string) string {
		for _, r := range got.Renamed {
			if r.What == what && r.Is == is {
				return ", " + r.Was + " in the bundle"
			}
		}
		return ""
	}
	for _, k := range got.Kinds {
		doc.Kinds = append(doc.Kinds, kindDoc{k, true})
		l.rows = append(l.rows, []string{k.Name, "kind, new here: " + kindsWords(s) + was("kind", k.Name)})
	}
	for _, v := range got.Versions {
		doc.Versions = append(doc.Versions, versionOf(s, v))
		l.rows = append(l.rows, []string{v.Ref().String(), lab.Bytes(v.Bytes) + ", new here" + was("image", v.Image)})
	}
	for _, st := range got.Stacks {
		doc.Stacks = append(doc.Stacks, stackOf(s, st))
		l.names = append(l.names, st.Name)
		l.rows = append(l.rows, []string{st.Name, fmt.Sprintf("stack of %v%s", st.Layers, was("stack", st.Name))})
	}
	l.doc, l.empty = doc, "this lab has all of it already; nothing was changed"
	return l
}

// kindsWords say where a new kind stands.
func kindsWords(s lab.Snapshot) string {
	if s.KindsAt.File == "" {
		return "carte kind ls has it"
	}
	return "added to " + s.KindsAt.File
}
