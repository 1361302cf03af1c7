package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/ext4"
	"carte/store/media"
)

// The most bytes of a kernel, and of its initial RAM disk, that are handed to a machine.
const (
	maxKernel = 256 << 20
	maxInitrd = 1 << 30
)

// Kernel returns the kernel and, where it has one, the initial RAM disk of a kernel image. Every byte comes from a chunk that was hashed.
func (d *Desk) Kernel(ctx context.Context, root chunk.ID, size int64) (kernel, initrd []byte, err error) {
	r, err := d.State.Chunks.Reader(root)
	if err != nil {
		return nil, nil, err
	}
	if r.Size() != size {
		return nil, nil, fmt.Errorf("manifest %v is of %d bytes, want %d: %w", root, r.Size(), size, lab.ErrDamaged)
	}
	fs, err := ext4.Open(r, size)
	if err != nil {
		return nil, nil, err
	}
	if kernel, err = fs.ReadFile("/boot/kernel", maxKernel); err != nil {
		return nil, nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if initrd, err = fs.ReadFile("/boot/initrd", maxInitrd); err != nil && !errors.Is(err, lab.ErrNotFound) {
		return nil, nil, err
	}
	return kernel, initrd, nil
}

// Back makes what a boot changed in an image, a tar over the version that it was given with deletions as in a layer of an OCI image, the image's next
// version. Unchanged files stay where they are, and only chunks that are new are stored. Where nothing differs no version is made, and the answer names the
// one that has these bytes. A refusal names the clause, and comes before the tar is read. Said again it says the same.
func (d *Desk) Back(ctx context.Context, boot lab.Boot, image string, in io.Reader) (lab.Kept, error) {
	unkept := func(err error) (lab.Kept, error) {
		return lab.Kept{}, fmt.Errorf("boot %d: %s: no version was made: %w", boot.ID, image, full(err))
	}
	s, err := d.Lab.Watch(ctx, 0)
	if err != nil {
		return lab.Kept{}, err
	}
	if now, ok := s.Boots[boot.ID]; ok {
		boot = now
	}
	l, err := s.MayWriteBack(boot, image)
	if err != nil {
		return lab.Kept{}, err
	}
	if l.Form != lab.FormTree && l.Form != lab.FormFiles {
		return unkept(fmt.Errorf("a %s is not written back by files: %w", l.Form, lab.ErrRefused))
	}
	base, ok := s.Versions[l.Ref.String()]
	if !ok || base.Root != l.Root {
		return unkept(fmt.Errorf("%s, which it was made from, was removed: %w", l.Ref, lab.ErrNotFound))
	}
	last := base // that the boot wrote back itself, if it did
	for _, ref := range boot.Wrote {
		if v, ok := s.Versions[ref.String()]; ok && ref.Name == image {
			last = v
		}
	}
	files, changed, err := d.changed(ctx, base, in)
	if err != nil {
		return unkept(err)
	}
	defer files.Close()
	if !changed && last.Root == base.Root {
		return lab.Kept{Ref: last.Ref(), Same: true}, nil
	}
	kept, err := d.keepBack(ctx, boot, base, last, l.Form, files)
	if err != nil {
		return unkept(err)
	}
	return kept, nil
}

// changed are the files of a version with a tar laid over them. Close them.
func (d *Desk) changed(ctx context.Context, base lab.Version, in io.Reader) (*media.Files, bool, error) {
	r, err := d.State.Chunks.Reader(base.Root)
	if err != nil {
		return nil, false, err
	}
	files, err := media.OpenFiles(ctx, r, base.Bytes)
	if err != nil {
		return nil, false, fmt.Errorf("read %s: %w", base.Ref(), err)
	}
	changed, err := files.Change(ctx, in, d.State.Temp())
	if err != nil {
		return nil, false, errors.Join(err, files.Close())
	}
	return files, changed, nil
}

// keepBack stores the file system that the files make, laid out as the version base that they come from, and makes it the next, unless last is the same.
func (d *Desk) keepBack(ctx context.Context, boot lab.Boot, base, last lab.Version, form lab.Form, files *media.Files) (lab.Kept, error) {
	r, err := d.State.Chunks.Reader(base.Root)
	if err != nil {
		return lab.Kept{}, err
	}
	im, err := files.Build(ctx, media.TreeOptions{Label: base.Image[:min(len(base.Image), 16)], UUID: nameID(base.Image)}, r, base.Bytes)
	if err != nil {
		return lab.Kept{}, err
	}
	m, found, stats, err := d.State.Chunks.Keep(ctx, Input{At: im, Size: im.Size})
	if err != nil {
		return lab.Kept{}, err
	}
	root := m.Root()
	defer d.State.Chunks.Settle(root)
	if root == last.Root {
		return lab.Kept{Ref: last.Ref(), Same: true}, nil
	}
	v := lab.AddVersion{Version: lab.Version{
		Image: base.Image, Root: root, Bytes: m.Size, Content: m.Content(), Stored: stats.New, FileSystems: fileSystems(found), Offers: base.Offers, Place: base.Place,
	}, Form: form}
	if _, err := describe(files, &v, false); err != nil { // a manifest that somebody has spoilt is no reason to lose their work
		v.Offers, v.Place, v.Inside = base.Offers, base.Place, base.Inside
		d.Lab.Log(lab.Line{Machine: boot.Machine, Source: "store", Text: lab.Clean(fmt.Sprintf("%s as boot %d wrote it back: %v; it has the clauses of %s", base.Image, boot.ID, err, base.Ref()))})
	}
	v.Found, v.Inside.UUIDs = lab.Clean("ext4, "+v.Found), base.Inside.UUIDs
	said, err := d.Lab.Say(ctx, lab.WroteBack{AddVersion: v, Boot: boot.ID})
	if err != nil {
		return lab.Kept{}, err
	}
	if len(said.Versions) > 0 {
		return lab.Kept{Ref: said.Versions[0].Ref()}, nil
	}
	newest, err := d.version(ctx, lab.Ref{Name: base.Image}) // another boot has brought the same
	return lab.Kept{Ref: newest.Ref(), Same: true}, err
}
