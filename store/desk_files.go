package store

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"

	"carte/lab"
	"carte/store/media"
)

// madeOfFiles says that an import is made of files: a tar, whatever it is packed in, for a form that is a file system.
func madeOfFiles(src *media.Source, i lab.Import) (bool, error) {
	tar := strings.HasPrefix(src.Format, "tar")
	switch {
	case tar && i.Form != lab.FormTree && i.Form != lab.FormFiles:
		return false, fmt.Errorf("a tar archive is no %s; carte makes a file system of it: --form tree for a system's root, --form files for some files over one: %w", i.Form, lab.ErrInvalid)
	case tar && i.Whole:
		return false, fmt.Errorf("a file system is made of a tar archive, so there is nothing to keep whole: leave --whole out: %w", lab.ErrInvalid)
	case !tar && i.Size != 0:
		return false, fmt.Errorf("--size is for a file system that is made of a tar archive or a folder; this is one already, or a disk: %w", lab.ErrInvalid)
	case !tar && i.Form == lab.FormFiles:
		return false, fmt.Errorf("the form files is made of a tar archive or a folder, and this is %s: %w", src.Format, lab.ErrInvalid)
	}
	return tar, nil
}

// files makes a file system of a tar. The file system is read from the files until they are closed.
func (d *Desk) files(ctx context.Context, src *media.Source, i lab.Import, in *Input) (*media.Files, error) {
	files, err := media.ReadFiles(ctx, told{src, in.Progress}, d.State.Temp())
	if err != nil {
		return nil, err
	}
	opt := media.TreeOptions{Label: i.Name[:min(len(i.Name), 16)], UUID: nameID(i.Name), Size: i.Size}
	var parent io.ReaderAt
	var size int64
	if v, err := d.version(ctx, lab.Ref{Name: i.Name}); err == nil {
		if r, err := d.State.Chunks.Reader(v.Root); err == nil {
			parent, size = r, v.Bytes
		}
	}
	im, err := files.Build(ctx, opt, parent, size)
	if err != nil {
		files.Close()
		return nil, err
	}
	in.At, in.Size = im, im.Size
	return files, nil
}

// tell says what the files are, and what is odd about them.
func tell(files *media.Files, form lab.Form) (found string, warnings []string) {
	facts := files.Facts()
	if found = facts.Count(); form == lab.FormTree {
		found, warnings = facts.String(), facts.Warnings()
	}
	return found, append(warnings, files.Notes...)
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
func (d *Desk) twins(ctx context.Context, v lab.AddVersion, facts media.Facts) (all []string, err error) {
	mine := uuids(facts)
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
		r, err := d.State.Chunks.Reader(other.Root)
		if err != nil {
			continue // fsck says so
		}
		have, err := media.Sniff(r, other.Bytes)
		if err != nil {
			continue
		}
		for _, id := range uuids(have) {
			if slices.Contains(mine, id) {
				all = append(all, fmt.Sprintf("a file system here has the id %s, and so has %s: on one disk a system mounts either of them", id, other.Ref()))
			}
		}
	}
	slices.Sort(all)
	return all, nil
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
