package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"carte/lab"
	"carte/store/media"
)

// exportDisk writes a stack as one disk that boots without carte, from BIOS and from UEFI: its layers merged into one file system, as a machine that has
// no name in this lab would compose them, started by its own kernel. A stack whose system is a disk is that disk. The same plan gives the same bytes with
// the same tools on this computer. Nothing is written before it is known that the disk can be made. lab.ErrRefused: it cannot, and why.
func (d *Desk) exportDisk(ctx context.Context, name string, w io.Writer, progress func(done, of int64)) (notes []string, err error) {
	s, err := d.Lab.Watch(ctx, 0)
	if err != nil {
		return nil, err
	}
	alone := lab.Machine{Name: name}
	if _, err := s.Find(name); err == nil { // a machine's own image does not go out with a stack
		alone.Name = name + "-disk"
	}
	p, err := s.ResolveOn(name, alone, nil)
	if err != nil {
		return nil, err
	}
	if p.Form == lab.FormDisk {
		return nil, d.Export(ctx, p.Layers[0].Ref, w, progress)
	}
	disk, err := d.bootDisk(ctx, s, p)
	if err != nil {
		return nil, fmt.Errorf("export stack %s as a disk: nothing was written: %w", name, err)
	}
	if err := copyOut(ctx, disk, disk.Size, w, progress); err != nil {
		return nil, fmt.Errorf("export stack %s as a disk: %w", name, err)
	}
	return disk.Notes, nil
}

// bootDisk makes the disk of a tree's plan; nothing of it is written down yet.
func (d *Desk) bootDisk(ctx context.Context, s lab.Snapshot, p lab.Plan) (*media.BootDisk, error) {
	if p.Form != lab.FormTree {
		return nil, fmt.Errorf("it runs in memory and has no file system that a disk could hold; as a bundle it can go to another lab: %w", lab.ErrRefused)
	}
	for _, l := range p.Layers {
		if arch := s.Versions[l.Ref.String()].Inside.Arch; arch != "" && arch != "amd64" {
			return nil, fmt.Errorf("%s is for %s, and carte makes disks that start on amd64: %w", l.Ref, arch, lab.ErrRefused)
		}
	}
	tools, err := media.FindBootTools()
	if err != nil {
		return nil, err
	}
	m, err := d.merge(ctx, p)
	if err != nil {
		return nil, err
	}
	_, own := p.Kernel()
	k, err := m.Kernel(media.KernelOptions{Own: own, Name: p.Stack, Init: d.agent})
	if err != nil {
		return nil, err
	}
	disk, err := tools.Disk(ctx, m, k, media.BootOptions{Name: p.Stack, Seed: p.Digest, Cmdline: p.Cmdline, Temp: d.State.Temp()})
	if err != nil {
		return nil, err
	}
	disk.Notes = append(k.Notes, disk.Notes...)
	for _, l := range p.Layers {
		if l.Place == lab.ProjectPlace && p.Gives(lab.Autostart) {
			disk.Notes = append(disk.Notes, fmt.Sprintf("without carte nobody starts %s/run of %s by itself", lab.ProjectPlace, l.Ref))
		}
	}
	return disk, nil
}

// agent gives the program that an initrd is made of.
func (d *Desk) agent() ([]byte, error) {
	if d.Agent == nil {
		return nil, errors.New("nobody has handed it over")
	}
	return d.Agent()
}

// merge lays the plan's layers over one another, and its files over all.
func (d *Desk) merge(ctx context.Context, p lab.Plan) (m *media.Merged, err error) {
	for i, l := range p.Layers {
		r, err := d.State.Chunks.Reader(l.Root)
		switch {
		case err != nil:
		case i == 0:
			m, err = media.Merge(ctx, r, l.Bytes)
		default:
			err = m.Over(ctx, r, l.Bytes, l.Place)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.Ref, err)
		}
	}
	for _, f := range p.Files {
		mode := f.Mode
		if mode == 0 {
			mode = 0o644
		}
		if err := m.Put(f.Path, mode, []byte(f.Text)); err != nil {
			return nil, fmt.Errorf("file %s: %w", f.Path, err)
		}
	}
	return m, nil
}

// copyOut writes all of r; into a plain file that is empty, without its zeros.
func copyOut(ctx context.Context, r io.ReaderAt, size int64, w io.Writer, progress func(done, of int64)) error {
	f, _ := w.(*os.File)
	if f != nil {
		if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() || st.Size() != 0 || appends(f) {
			f = nil
		}
	}
	buf, zeros := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), size-at)]
		n, err := r.ReadAt(b, at)
		if n < len(b) {
			return fmt.Errorf("at byte %d: %w", at, errors.Join(err, io.ErrUnexpectedEOF))
		}
		switch zero := bytes.Equal(b, zeros[:n]); {
		case f == nil:
			_, err = w.Write(b)
		case zero:
			err = nil
		default:
			_, err = f.WriteAt(b, at)
		}
		if err != nil && err != io.EOF {
			return err
		}
		if at += int64(n); progress != nil {
			progress(at, size)
		}
	}
	if f == nil {
		return nil
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	_, err := f.Seek(0, io.SeekEnd)
	return err
}
