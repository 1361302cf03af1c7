package store

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/store/media"
)

// What boots bring home lies in results/BOOT, as plain files: it belongs to no image, and neither Collect nor Fsck looks at it. A boot's folder is there
// whole or not at all: it is filled in tmp, brought to the disk, and then given its name in one step, in which an older one of the same boot leaves it.

// The most that one boot brings home.
const (
	maxOutFiles = 10000     // as the lab has it
	outReserve  = 256 << 20 // bytes that stay free on the disk
	maxOutNotes = 20        // lines in the log of what was left out
)

func (d *Desk) outOf(boot int64) string {
	return filepath.Join(d.State.Dir, "results", strconv.FormatInt(boot, 10))
}

// Out keeps the files of a tar as what a boot left, durably, in the place of those of an earlier try, and notes them in its record. On an error what was
// there before is there still. lab.ErrRefused: the boot takes nothing home, or too much; lab.ErrInvalid and lab.ErrDamaged: see media.Unpack.
func (d *Desk) Out(ctx context.Context, boot lab.Boot, in io.Reader) error {
	if !boot.Plan.Gives(lab.Results) {
		return fmt.Errorf("boot %d takes no results home (clause %q): %w", boot.ID, lab.Results, lab.ErrRefused)
	}
	temp, err := os.MkdirTemp(d.State.Temp(), "out-*")
	if err != nil {
		return fmt.Errorf("results of boot %d: %w", boot.ID, full(err))
	}
	defer os.RemoveAll(temp)
	files, notes, err := media.Unpack(ctx, in, temp, maxOutFiles, outReserve)
	if err != nil {
		return fmt.Errorf("results of boot %d: nothing was kept: %w", boot.ID, full(err))
	}
	for _, what := range notes[:min(len(notes), maxOutNotes)] {
		d.Lab.Log(lab.Line{Machine: boot.Machine, Source: "store", Text: fmt.Sprintf("results of boot %d: %s", boot.ID, what)})
	}
	all := []lab.Result{}
	for _, f := range files {
		all = append(all, lab.Result{Path: lab.Clean(f.Path), Bytes: f.Bytes, Sum: f.Sum})
	}
	if err := d.settleOut(temp); err != nil {
		return fmt.Errorf("results of boot %d: %w", boot.ID, full(err))
	}
	d.homes.Lock() // until the record says so, too
	defer d.homes.Unlock()
	if err := d.placeOut(temp, d.outOf(boot.ID)); err != nil {
		return fmt.Errorf("results of boot %d: %w", boot.ID, full(err))
	}
	return d.Lab.Collected(ctx, boot.ID, all)
}

// settleOut brings the files of a folder to the disk.
func (d *Desk) settleOut(temp string) error {
	f, err := os.Open(temp)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Syncfs(int(f.Fd())), f.Close()); err != nil { // one for all files
		return err
	}
	d.step("results written")
	return nil
}

// placeOut gives a folder its name. An older one is at temp then.
func (d *Desk) placeOut(temp, home string) error {
	parent := filepath.Dir(home)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	err := os.Rename(temp, home)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, home, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return err
	}
	d.step("results placed")
	return errors.Join(syncDir(parent), syncDir(d.State.Dir))
}

// step lets tests stop between two steps.
func (d *Desk) step(name string) {
	if d.State.Chunks != nil {
		d.State.Chunks.step(name)
	}
}

// Results writes what a boot left, as a tar archive.
func (d *Desk) Results(ctx context.Context, boot int64, w io.Writer) error {
	s, err := d.Lab.Watch(ctx, 0)
	if err != nil {
		return err
	}
	b, ok := s.Boots[boot]
	if !ok {
		return fmt.Errorf("boot %d: %w", boot, lab.ErrNotFound)
	}
	d.homes.RLock()
	defer d.homes.RUnlock()
	home := d.outOf(boot)
	if _, err := os.Stat(home); errors.Is(err, fs.ErrNotExist) || !b.OutGone.IsZero() {
		return b.NoOut()
	}
	out := tar.NewWriter(w)
	err = filepath.WalkDir(home, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == home {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return tarFile(out, home, path, e)
	})
	if err != nil {
		return fmt.Errorf("results of boot %d: %w", boot, err)
	}
	return out.Close()
}

// tarFile writes one file below home.
func tarFile(out *tar.Writer, home, path string, e fs.DirEntry) error {
	st, err := e.Info()
	if err != nil {
		return err
	}
	to := ""
	if e.Type()&fs.ModeSymlink != 0 {
		if to, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(st, to)
	if err != nil {
		return err
	}
	name, err := filepath.Rel(home, path)
	if err != nil {
		return err
	}
	h.Name, h.Format = filepath.ToSlash(name), tar.FormatPAX
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	if e.IsDir() {
		h.Name += "/"
	}
	if err := out.WriteHeader(h); err != nil || !st.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(out, f)
	return err
}
