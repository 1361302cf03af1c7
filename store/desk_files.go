package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"carte/lab"
	"carte/store/media"
)

// What an import is made of, where it is no file system or disk already.
const (
	madeOfTar     = "tar"     // of files, whatever the tar is packed in
	madeOfProgram = "program" // of one file that is a kernel
)

// errEmptyTree refuses a system of which there is nothing.
var errEmptyTree = fmt.Errorf("there is nothing in it, and a tree has at least a system's init: %w", lab.ErrInvalid)

// madeOf says what an import is made of; empty: it is kept as it is.
func madeOf(src *media.Source, i lab.Import) (string, error) {
	tar := strings.HasPrefix(src.Format, "tar")
	switch {
	case tar && i.Form == lab.FormDisk:
		return "", fmt.Errorf("a tar archive is no %s; carte makes a file system of it: --form tree for a system's root, --form files for some files over one, --form kernel for a kernel and its modules: %w", i.Form, lab.ErrInvalid)
	case tar && i.Whole:
		return "", fmt.Errorf("a file system is made of a tar archive, so there is nothing to keep whole: leave --whole out: %w", lab.ErrInvalid)
	case tar:
		return madeOfTar, nil
	}
	if i.Form == lab.FormTree { // the end of a tar is two sectors of zeros, and where nothing is before it, nobody sees that it is one
		head, err := src.Head(128 << 10)
		if err == nil && len(head) < 128<<10 && len(bytes.Trim(head, "\x00")) == 0 {
			err = errEmptyTree
		}
		if err != nil {
			return "", err
		}
	}
	if i.Form == lab.FormKernel {
		head, err := src.Head(128 << 10)
		if err != nil {
			return "", err
		}
		if _, ok := media.SniffProgram(head); ok {
			return madeOfProgram, nil
		}
	}
	if i.Form == lab.FormDisk && i.Size == 0 {
		if err := noKernel(src, i); err != nil {
			return "", err
		}
	}
	switch {
	case i.Size != 0:
		return "", fmt.Errorf("--size is for a file system that is made of a tar archive or a folder; this is one already, or a disk: %w", lab.ErrInvalid)
	case i.Form == lab.FormFiles:
		return "", fmt.Errorf("the form files is made of a tar archive or a folder, and this is %s: %w", src.Format, lab.ErrInvalid)
	}
	return "", nil
}

// noKernel refuses what would become a disk because nobody said what it is, and is the file of a kernel: nothing starts from such a disk.
func noKernel(src *media.Source, i lab.Import) error {
	head, err := src.Head(128 << 10)
	if err != nil {
		return err
	}
	p, ok := media.BareProgram(head)
	if !ok {
		return nil
	}
	what := "a program for a boot loader (" + p.Format + ")"
	if p.Starts == "linux" {
		what = strings.TrimSpace("a Linux kernel, "+p.Release) + " (" + p.Format + ")"
	}
	return fmt.Errorf("it is %s and no disk: carte image import %s --name %s --form kernel makes a kernel image of it, and with --kernel and --modules one that has its modules: %w",
		lab.Clean(what), cmp.Or(i.File, "-"), i.Name, lab.ErrInvalid)
}

// maxProgram is the most bytes of a kernel that comes as one file, and filesRoom what files and kernels have free: nobody
// writes to them where they lie, so this is for their next versions.
const (
	maxProgram = 1 << 30
	filesRoom  = 16 << 20
)

// files makes a file system of what an import is made of, says in v what is in it, and returns what is odd about it. The file system is read from the
// files until they are closed.
func (d *Desk) files(ctx context.Context, src *media.Source, i lab.Import, made string, in *Input, v *lab.AddVersion) (files *media.Files, warnings []string, err error) {
	from := told{src, in.Progress}
	if made == madeOfProgram {
		files, err = media.ReadFile(ctx, from, "boot/kernel", d.State.Temp(), maxProgram)
	} else {
		files, err = media.ReadFiles(ctx, from, d.State.Temp())
	}
	if err != nil {
		return nil, nil, err
	}
	if v.Form == lab.FormTree && files.Empty() {
		return nil, nil, errors.Join(errEmptyTree, files.Close())
	}
	if warnings, err = describe(files, v, true); err != nil {
		return nil, nil, errors.Join(err, files.Close())
	}
	opt := media.TreeOptions{Label: i.Name[:min(len(i.Name), 16)], UUID: nameID(i.Name), Size: i.Size}
	if i.Form != lab.FormTree {
		opt.Room = filesRoom
	}
	var parent io.ReaderAt
	var size int64
	if v, err := d.version(ctx, lab.Ref{Name: i.Name}); err == nil {
		if r, err := d.State.Chunks.Reader(v.Root); err == nil {
			parent, size = r, v.Bytes
		}
	}
	im, err := files.Build(ctx, opt, parent, size)
	if err != nil {
		return nil, nil, errors.Join(err, files.Close())
	}
	in.At, in.Size = im, im.Size
	return files, append(warnings, files.Notes...), nil
}

// told tells how far reading is.
type told struct {
	r    io.Reader
	tell func(int64)
}

func (t told) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.tell(0)
	return n, err
}

// nameID is the UUID of an image's file system: the same for all versions of one name, and never that of another name.
func nameID(name string) [16]byte {
	sum := sha256.Sum256([]byte("carte file system " + name))
	id := [16]byte(sum[:16])
	id[6], id[8] = id[6]&0xf|0x80, id[8]&0x3f|0x80 // version 8, RFC 9562
	return id
}

// twins says which other images have a file system with the same UUID: an operating system that finds both mounts either.
func (d *Desk) twins(ctx context.Context, v lab.AddVersion) (all []string, err error) {
	mine := v.Inside.UUIDs
	if len(mine) == 0 {
		return nil, nil
	}
	s, err := d.Lab.Watch(ctx, 0)
	if err != nil {
		return nil, err
	}
	for _, im := range s.Images {
		other, err := s.Version(lab.Ref{Name: im.Name})
		if im.Name == v.Image || err != nil {
			continue
		}
		for _, id := range d.idsOf(other) {
			if slices.Contains(mine, id) {
				all = append(all, fmt.Sprintf("a file system here has the id %s, and so has %s: on one disk a system mounts either of them", id, other.Ref()))
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

// idsOf are the ids of the file systems in a version; of one that came before they were noted, they are looked up.
func (d *Desk) idsOf(v lab.Version) []string {
	if len(v.Inside.UUIDs) > 0 {
		return v.Inside.UUIDs
	}
	r, err := d.State.Chunks.Reader(v.Root)
	if err != nil {
		return nil // fsck says so
	}
	have, err := media.Sniff(r, v.Bytes)
	if err != nil {
		return nil
	}
	return uuids(have)
}

// uuids are the ids of the file systems on a disk.
func uuids(f media.Facts) (all []string) {
	for _, x := range append([]media.Part{{FS: f.Whole}}, f.Parts...) {
		if x.FS.UUID != "" && (strings.HasPrefix(x.FS.Type, "ext") || x.FS.Type == "xfs" || x.FS.Type == "btrfs") {
			all = append(all, x.FS.UUID)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
