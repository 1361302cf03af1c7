package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"carte/lab"
)

func (c *call) imageCommands() []entry {
	var i importing
	var file, confirm, to, message string
	var force, remove bool
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
			use: "image import FILE", action: "image.import", makes: true, // or, with --kernel, NAME
			long: "Import a file, a folder, or standard input with -, as an image; under a name that exists it is the next version. Raw, gz, xz, zst, bz2 and qcow2 are known by their content. What the file systems in it do not need is neither stored nor ever written, unless --whole is given. Interrupted, nothing of it is visible; the same bytes again store nothing.\n\n" +
				"Of a tar archive or a folder, carte makes an ext4 file system: with --form tree the root of a Linux system, with --form files just those files, to lie over one. An archive may be packed as above, or be one of docker save or an OCI layout, whose layers become one tree. Owners are kept by number, as are modes, times, hard links, devices, holes, extended attributes and access lists. Names that are absolute or lead out of the tree, and members that come twice, are refused. In a folder, no link is followed, and a file that may not be read is an error. The next version of a tree leaves unchanged files where they lie, so only what differs is new; the UUID follows from the image's name.\n\n" +
				"With --form kernel it becomes what starts a tree, or runs alone in memory: of a Linux kernel with its initrd and modules, given by --kernel, --initrd and --modules beside the image's name; of a tar with boot/kernel, boot/initrd and lib/modules; or of one multiboot or ELF file.\n\n" +
				"An image says which clauses it offers in a small file inside it, /carte/image.toml, or with --offer; carte kind ls tells what they mean.",
			example: "  carte image import debian.qcow2 --name debian\n  zcat disk.gz | carte image import - --name debian --message 'new kernel'\n  carte image import root.tar.xz --name debian-tree --form tree\n  docker save alpine | carte image import - --name alpine --form tree\n  carte image import ./rootfs --name mine --size 4G\n  carte image import hpt-2 --form kernel --kernel vmlinuz --initrd initrd.img --modules /lib/modules/6.12.9\n  carte image import ./rq --kind project --offer autostart=required\n  carte image import scratch.tar --kind temporary --for 8h",
			flags:   i.flags,
			run:     func(ctx context.Context, args []string) error { return c.importImage(ctx, args[0], i) },
		},
		{
			use: "image log IMAGE", help: "show how an image came to be what it is: its versions, the newest first, with their tags",
			run: func(ctx context.Context, args []string) error {
				return c.look(ctx, func(s lab.Snapshot) error { return c.logImage(s, args[0]) })
			},
		},
		{
			use: "image tag IMAGE TAG", action: "image.tag",
			example: "  carte image tag debian@3 stable\n  carte stack new hpt --system debian@stable",
			flags:   func(f *pflag.FlagSet) { f.BoolVar(&remove, "remove", false, "take the tag away") },
			run: func(ctx context.Context, args []string) error {
				return c.tagImage(ctx, args[0], args[1], remove)
			},
		},
		{
			use: "image rollback IMAGE --to VERSION", action: "image.rollback",
			flags: func(f *pflag.FlagSet) {
				f.StringVar(&to, "to", "", "the version whose bytes are to be the newest: 3, or a tag (needed)")
				f.StringVar(&message, "message", "", "why")
			},
			run: func(ctx context.Context, args []string) error { return c.rollback(ctx, args[0], to, message) },
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
				return c.with(ctx, func(d desk) error {
					s, err := d.Watch(ctx, 0)
					if err != nil {
						return err
					}
					ref, err := s.ParseRef(args[0])
					if err != nil {
						return err
					}
					return c.export(ctx, d, ref, file, force)
				})
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
					return c.with(ctx, seeing(ctx, func(d desk, s lab.Snapshot) error { return c.removeImage(ctx, d, s, ref, typed) }))
				})
			},
		},
	}
}

// removeImage removes an image or a version of it, and says which tags went with that.
func (c *call) removeImage(ctx context.Context, d desk, s lab.Snapshot, ref lab.Ref, typed string) error {
	if _, _, err := d.say(ctx, lab.RemoveImage{Ref: ref, Confirm: typed}); err != nil {
		return err
	}
	row := []string{ref.String(), "removed"}
	var tags []string
	for tag, at := range s.Images[ref.Name].Tags {
		if ref.Version == 0 || ref.Version == at {
			tags = append(tags, tag)
		}
	}
	if slices.Sort(tags); len(tags) > 0 {
		row = append(row, "its tags went with it: "+strings.Join(tags, ", "))
	}
	return c.show(list{doc: goneDoc{ref.String()}, names: row[:1], rows: [][]string{row}})
}

// kindWords is an image's kind, and how long it lives.
func kindWords(s lab.Snapshot, i lab.Image) string {
	switch {
	case !i.Dies.IsZero() && len(s.VersionsOf(i.Name)) == 0:
		return i.Kind + ", died " + i.Dies.Local().Format("2006-01-02 15:04")
	case !i.Dies.IsZero():
		return i.Kind + " until " + i.Dies.Local().Format("2006-01-02 15:04")
	case i.Owner != "":
		return i.Kind + " of " + i.Owner
	}
	return i.Kind
}

func (c *call) listImages(s lab.Snapshot) error {
	docs := []imageDoc{}
	var stored, spared int64
	l := list{head: []string{"NAME", "KIND", "FORM", "VERSION", "SIZE", "FILE SYSTEMS", "CONTENT", "STORED", "SAVED", "USED BY", "CONTRACT"}, empty: "no images yet: carte image import FILE --name NAME"}
	for _, i := range sortedImages(s) {
		d := imageOf(s, i)
		docs = append(docs, d)
		l.names = append(l.names, i.Name)
		newest, badge, sizes := "—", "—", sizesOf(versionDoc{})
		for _, v := range d.Versions {
			newest, sizes = "@"+strconv.Itoa(v.Number), sizesOf(v)
			_, badge = v.Badge.words()
		}
		stored, spared = stored+d.Stored, spared+d.Saved
		l.rows = append(l.rows, slices.Concat([]string{i.Name, kindWords(s, i), string(i.Form), newest}, sizes, []string{lab.Bytes(d.Stored), lab.Bytes(d.Saved), plural(len(d.Stacks), "stack"), badge}))
	}
	l.doc = struct {
		Images []imageDoc `json:"images"`
		Stored int64      `json:"stored_bytes"`
		Saved  int64      `json:"saved_bytes"`
	}{docs, stored, spared}
	if c.term.Table && len(docs) > 0 { // for a person; scripts add up for themselves
		l.rows = append(l.rows, []string{"total", "", "", "", "", "", "", lab.Bytes(stored), lab.Bytes(spared), "", ""})
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
	ref, err := s.ParseRef(name)
	if err != nil {
		return err
	}
	v, err := s.Version(ref)
	if err != nil {
		return err
	}
	im := imageOf(s, s.Images[ref.Name])
	if ref.Version != 0 {
		im.Versions = []versionDoc{versionOf(s, v)}
	}
	if c.term.Table && !c.json && !c.quiet { // a script has the document
		rows := filled(imageRows(s, s.Images[ref.Name], v))
		if err := aligned(c.term.Out, nil, rows); err != nil {
			return err
		}
		fmt.Fprintln(c.term.Out)
	}
	l := list{doc: im, head: []string{"VERSION", "MADE", "SIZE", "FILE SYSTEMS", "CONTENT", "STORED", "SAVED", "ROOT", "FOUND", "CONTRACT", "MESSAGE"}}
	for _, v := range im.Versions {
		l.names = append(l.names, v.Ref.String())
		badge, _ := v.Badge.words()
		made := ""
		if v.At != nil {
			made = v.At.Local().Format("2006-01-02 15:04")
		}
		l.rows = append(l.rows, slices.Concat([]string{v.Ref.String(), made}, sizesOf(v), []string{lab.Bytes(v.Stored), lab.Bytes(v.Saved), v.Root[:12], v.Found, badge, v.Message}))
	}
	return c.show(l)
}

// imageRows are what defines an image, as far as it goes by its versions by this one.
func imageRows(s lab.Snapshot, i lab.Image, v lab.Version) [][]string {
	var clauses []string
	for _, x := range lab.Clauses {
		if need, ok := v.Offers[x.Clause]; ok {
			clauses = append(clauses, fmt.Sprintf("%s (%s)", x.Clause, need))
		}
	}
	lives := ""
	if !i.Dies.IsZero() {
		lives = "until " + i.Dies.Local().Format("2006-01-02 15:04")
	} else if i.Owner != "" {
		lives = "with " + i.Owner
	}
	return [][]string{
		{"name", i.Name}, {"kind", i.Kind}, {"form", string(i.Form)}, {"version", v.Ref().String()}, {"tags", strings.Join(s.TagsOf(v), ", ")},
		{"place", v.Place}, {"clauses", strings.Join(clauses, ", ")}, {"lives", lives}, {"used by", strings.Join(imageOf(s, i).Stacks, ", ")},
	}
}

func (c *call) verify(ctx context.Context, d desk, names []string) error {
	s, err := d.Watch(ctx, 0)
	if err != nil {
		return err
	}
	var refs []lab.Ref
	for _, name := range names {
		ref, err := s.ParseRef(name)
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
