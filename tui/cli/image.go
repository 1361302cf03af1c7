package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/spf13/pflag"

	"carte/lab"
	"carte/tui/action"
	"carte/tui/folder"
)

func (c *call) imageCommands() []entry {
	var i lab.Import
	var file, confirm string
	var force bool
	return []entry{
		{
			use: "image ls", help: "list the images",
			run: func(ctx context.Context, _ []string) error { return c.look(ctx, c.listImages) },
		},
		{
			use: "image show IMAGE", help: "show an image and its versions",
			run: func(ctx context.Context, args []string) error {
				return c.look(ctx, func(s lab.Snapshot) error { return c.showImage(s, args[0]) })
			},
		},
		{
			use: "image import FILE", action: "image.import",
			long: "Import a file, a folder, or standard input with -, as an image; under a name that exists it is the next version. Raw, gz, xz, zst, bz2 and qcow2 are known by their content. What the file systems in it do not need is neither stored nor ever written, unless --whole is given. Interrupted, nothing of it is visible; the same bytes again store nothing.\n\n" +
				"Of a tar archive or a folder, carte makes an ext4 file system: with --form tree the root of a Linux system, with --form files just those files, to lie over one. An archive may be packed as above, or be one of docker save or an OCI layout, whose layers become one tree. Owners are kept by number, as are modes, times, hard links, devices, holes, extended attributes and access lists. Names that are absolute or lead out of the tree, and members that come twice, are refused. In a folder, no link is followed, and a file that may not be read is an error. The next version of a tree leaves unchanged files where they lie, so only what differs is new; the UUID follows from the image's name.",
			example: "  carte image import debian.qcow2 --name debian\n  zcat disk.gz | carte image import - --name debian --message 'new kernel'\n  carte image import root.tar.xz --name debian-tree --form tree\n  docker save alpine | carte image import - --name alpine --form tree\n  carte image import ./rootfs --name mine --size 4G",
			flags: func(f *pflag.FlagSet) {
				f.Var(notEmpty{&i.Name, "NAME"}, "name", "the image's name (default: the file's, without its endings)")
				f.StringVar(&i.Kind, "kind", "", "machine, system, user, project or temporary (default: the image's, or system; of the form files: user)")
				f.StringVar((*string)(&i.Form), "form", "", "disk, tree or files (default: the image's, or by the file's name; of a folder or a .tar: tree)")
				f.StringVar(&i.Message, "message", "", "what is new in this version")
				f.Var(size{&i.Size}, "size", "size of the file system that is made of a tar or folder: 4G (default: what the files need and a quarter more, at least 256 MiB more; of a next version: as before, if they fit)")
				f.BoolVar(&i.Whole, "whole", false, "keep free space, too: every byte as it is in the file")
			},
			run: func(ctx context.Context, args []string) error { return c.importImage(ctx, args[0], i) },
		},
		{
			use: "image verify [IMAGE...]", help: "hash every byte of images again; without a name, of all",
			run: func(ctx context.Context, args []string) error {
				return c.with(ctx, func(d desk) error { return c.verify(ctx, d, args) })
			},
		},
		{
			use: "image export IMAGE -o FILE", action: "image.export",
			flags: func(f *pflag.FlagSet) {
				f.StringVarP(&file, "output", "o", "", "file to write, or - for standard output (needed)")
				f.BoolVar(&force, "force", false, "replace the file if it is there")
			},
			run: func(ctx context.Context, args []string) error {
				ref, err := lab.ParseRef(args[0])
				if err != nil {
					return err
				}
				return c.with(ctx, func(d desk) error { return c.export(ctx, d, ref, file, force) })
			},
		},
		{
			use: "image rm IMAGE", action: "image.rm",
			flags: func(f *pflag.FlagSet) { f.StringVar(&confirm, "confirm", "", "the name, once more") },
			run: func(ctx context.Context, args []string) error {
				ref, err := lab.ParseRef(args[0])
				if err != nil {
					return err
				}
				return c.confirmed(confirm, func(typed string) error {
					return c.say(ctx, lab.RemoveImage{Ref: ref, Confirm: typed}, func(lab.Changed, lab.Snapshot) error {
						return c.show(list{doc: goneDoc{ref.String()}, names: []string{ref.String()}, rows: [][]string{{ref.String(), "removed"}}})
					})
				})
			},
		},
	}
}

func (c *call) listImages(s lab.Snapshot) error {
	docs := []imageDoc{}
	var stored, spared int64
	l := list{head: []string{"NAME", "KIND", "FORM", "VERSION", "SIZE", "FILE SYSTEMS", "CONTENT", "STORED", "SAVED", "USED BY"}, empty: "no images yet: carte image import FILE --name NAME"}
	for _, i := range sortedImages(s) {
		d := imageOf(s, i)
		docs = append(docs, d)
		l.names = append(l.names, i.Name)
		newest, sizes := "—", sizesOf(versionDoc{})
		for _, v := range d.Versions {
			newest, sizes = "@"+strconv.Itoa(v.Number), sizesOf(v)
		}
		stored, spared = stored+d.Stored, spared+d.Saved
		l.rows = append(l.rows, slices.Concat([]string{i.Name, i.Kind, string(i.Form), newest}, sizes, []string{lab.Bytes(d.Stored), lab.Bytes(d.Saved), plural(len(d.Stacks), "stack")}))
	}
	l.doc = struct {
		Images []imageDoc `json:"images"`
		Stored int64      `json:"stored_bytes"`
		Saved  int64      `json:"saved_bytes"`
	}{docs, stored, spared}
	if c.term.Table && len(docs) > 0 { // for a person; scripts add up for themselves
		l.rows = append(l.rows, []string{"total", "", "", "", "", "", "", lab.Bytes(stored), lab.Bytes(spared), ""})
	}
	return c.show(l)
}

// sizesOf are the three sizes of a version: the disk, its file systems, and what they hold.
func sizesOf(v versionDoc) []string {
	systems := "—"
	if v.Systems > 0 {
		systems = lab.Bytes(v.Systems)
	}
	return []string{lab.Bytes(v.Bytes), systems, lab.Bytes(v.Content)}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (c *call) showImage(s lab.Snapshot, name string) error {
	ref, err := lab.ParseRef(name)
	if err != nil {
		return err
	}
	v, err := s.Version(ref)
	if err != nil {
		return err
	}
	im := imageOf(s, s.Images[ref.Name])
	if ref.Version != 0 {
		im.Versions = []versionDoc{versionOf(v)}
	}
	l := list{doc: im, head: []string{"VERSION", "MADE", "SIZE", "FILE SYSTEMS", "CONTENT", "STORED", "SAVED", "ROOT", "FOUND", "MESSAGE"}}
	for _, v := range im.Versions {
		l.names = append(l.names, v.Ref.String())
		made := ""
		if v.At != nil {
			made = v.At.Local().Format("2006-01-02 15:04")
		}
		l.rows = append(l.rows, slices.Concat([]string{v.Ref.String(), made}, sizesOf(v), []string{lab.Bytes(v.Stored), lab.Bytes(v.Saved), v.Root[:12], v.Found, v.Message}))
	}
	return c.show(l)
}

// importedDoc is the document of an import.
type importedDoc struct {
	Version versionDoc `json:"version"`
	Same    bool       `json:"same"`
	Format  string     `json:"format"`
	New     int64      `json:"new_stored_bytes"`
	Mended  int        `json:"mended_chunks"`
	Seconds float64    `json:"seconds"`

	Warnings []string `json:"warnings,omitempty"`
}

func (c *call) importImage(ctx context.Context, file string, i lab.Import) error {
	r, of, err := c.source(file)
	if err != nil {
		return err
	}
	defer r.Close()
	i.File = file
	if i.Name == "" {
		if file == "-" {
			return fmt.Errorf("standard input has no name: --name NAME: %w", lab.ErrInvalid)
		}
		if _, guess, err := action.ParseImport(filepath.Base(absolute(file))); err == nil {
			i.Name = guess.Name
		} else {
			return fmt.Errorf("%s: its name makes no image's name: --name NAME: %w", file, lab.ErrInvalid)
		}
	}
	if ref, err := lab.ParseRef(i.Name); err != nil {
		return fmt.Errorf("--name: %w", err)
	} else if ref.Version != 0 {
		return fmt.Errorf("--name %q: an image's name without a version; versions are counted by carte: %w", i.Name, lab.ErrInvalid)
	}
	if me, err := user.Current(); err == nil {
		i.Author = me.Username
	}
	return c.with(ctx, func(d desk) error {
		s, err := d.Watch(ctx, 0)
		if err != nil {
			return err
		}
		have := s.Images[i.Name]
		guess := action.FormByName(file)
		if _, ok := r.(*folder.Reader); ok {
			guess = lab.FormTree
		}
		i.Form = lab.Form(or(string(i.Form), or(string(have.Form), string(guess))))
		i.Kind = or(i.Kind, or(have.Kind, action.KindByForm(i.Form)))
		p := c.meter("import "+i.Name, of)
		got, err := d.Import(ctx, r, i, p.to)
		p.end()
		if err != nil {
			return &kept{err, "nothing of " + i.Name + " was kept"}
		}
		if f, ok := r.(*folder.Reader); ok {
			for _, left := range f.Left {
				got.Warnings = append(got.Warnings, "left out: "+left)
			}
		}
		for _, w := range got.Warnings {
			c.aside("warning: %s", lab.Clean(w))
		}
		v := got.Version
		result := fmt.Sprintf("%s from %s, %s, %s new in the store%s, %s", lab.Bytes(v.Bytes), got.Format, or(v.Found, "nothing known inside"), lab.Bytes(got.New), mended(got), took(got.Seconds))
		if got.Same {
			result = already(got)
		}
		return c.show(list{doc: importedDoc{versionOf(v), got.Same, got.Format, got.New, got.Mended, got.Seconds, got.Warnings}, names: []string{v.Ref().String()}, rows: [][]string{{v.Ref().String(), result}}})
	})
}

// already says that nothing came of an import but, where the store was damaged, that it is whole again.
func already(got lab.Imported) string {
	if got.Mended > 0 {
		return fmt.Sprintf("has these bytes already; %s new in the store%s", lab.Bytes(got.New), mended(got))
	}
	return "has these bytes already; nothing was stored"
}

// mended says what an import has mended, to go on with.
func mended(got lab.Imported) string {
	if got.Mended == 0 {
		return ""
	}
	return ", mended " + plural(got.Mended, "damaged chunk")
}

// source opens what is to be imported, and says how long it is, 0 when nobody knows.
func (c *call) source(file string) (io.ReadCloser, int64, error) {
	if file == "-" {
		if c.term.Asks {
			return nil, 0, fmt.Errorf("standard input is a terminal; pipe the image into it: %w", lab.ErrInvalid)
		}
		return io.NopCloser(c.term.In), 0, nil
	}
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, fmt.Errorf("%s: %w", file, lab.ErrNotFound)
	}
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.IsDir() {
		return f, st.Size(), nil
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, 0, err
	}
	r, err := folder.Open(file)
	return r, 0, err
}

// absolute is a path that ends with the name of what it leads to, also for "." and "..".
func absolute(file string) string {
	if path, err := filepath.Abs(file); err == nil {
		return path
	}
	return file
}

func (c *call) verify(ctx context.Context, d desk, names []string) error {
	s, err := d.Watch(ctx, 0)
	if err != nil {
		return err
	}
	var refs []lab.Ref
	for _, name := range names {
		ref, err := lab.ParseRef(name)
		if err != nil {
			return err
		}
		if _, err := s.Version(ref); err != nil {
			return err
		}
		if ref.Version != 0 {
			refs = append(refs, ref)
			continue
		}
		for _, v := range s.VersionsOf(ref.Name) {
			refs = append(refs, v.Ref())
		}
	}
	if len(names) == 0 {
		for _, i := range sortedImages(s) {
			for _, v := range s.VersionsOf(i.Name) {
				refs = append(refs, v.Ref())
			}
		}
	}
	type doc struct {
		Ref   lab.Ref `json:"ref"`
		OK    bool    `json:"ok"`
		Error string  `json:"error,omitempty"`
	}
	docs := []doc{}
	l := list{head: []string{"VERSION", "RESULT"}, empty: "no images to verify"}
	var bad []error
	for _, ref := range refs {
		p := c.meter("verify "+ref.String(), 0)
		err := d.Verify(ctx, ref, p.toOf)
		p.end()
		x, result := doc{Ref: ref, OK: err == nil}, "ok"
		if err != nil {
			if !errors.Is(err, lab.ErrDamaged) {
				return err
			}
			x.Error, result = words(err), words(err)
			bad = append(bad, err)
		}
		docs = append(docs, x)
		l.names = append(l.names, ref.String())
		l.rows = append(l.rows, []string{ref.String(), result})
	}
	l.doc = struct {
		Versions []doc `json:"versions"`
	}{docs}
	return errors.Join(c.show(l), errors.Join(bad...))
}
