package cli

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"carte/lab"
)

// bootOut takes home what a boot left in /carte/out: as files in a folder, or as the archive.
func (c *call) bootOut(ctx context.Context, word, to, file string, force bool) error {
	if to != "" && file != "" {
		return fmt.Errorf("either --to DIR or -o FILE: %w", lab.ErrInvalid)
	}
	return c.withBoot(ctx, word, func(d desk, _ lab.Snapshot, b lab.Boot) error {
		if len(b.Results) == 0 {
			return fmt.Errorf("boot %d left nothing in %s%s: %w", b.ID, lab.OutPlace, whyNone(b), lab.ErrNotFound)
		}
		if !b.HasOut() {
			return b.NoOut()
		}
		where := or(to, fmt.Sprintf("boot-%d", b.ID))
		if file != "" {
			where = file
			if _, done, err := c.toFile(file, force, func(w io.Writer) error { return d.Results(ctx, b.ID, w) }); err != nil || done {
				return err // standard output may go anywhere: that is not taken home
			}
		} else if err := unpack(where, func(w io.Writer) error { return d.Results(ctx, b.ID, w) }); err != nil {
			return err
		}
		if _, err := d.Say(ctx, lab.TookOut{Boot: b.ID, Sum: b.OutSum()}); err != nil {
			c.aside("the lab could not note that they were taken: %s", words(err))
		}
		return c.showOut(b, where)
	})
}

// whyNone says why a boot has no results, where that is known.
func whyNone(b lab.Boot) string {
	for _, a := range b.Plan.Agreed {
		if a.Clause == lab.Results && !a.Given {
			return ": " + a.Why
		}
	}
	if !b.State.Final() {
		return fmt.Sprintf(" yet; it is %s", b.State)
	}
	return ""
}

func (c *call) showOut(b lab.Boot, where string) error {
	l := list{doc: struct {
		Boot    int64        `json:"boot"`
		Where   string       `json:"where"`
		Results []lab.Result `json:"results"`
	}{b.ID, where, b.Results}}
	for _, r := range b.Results {
		l.names = append(l.names, r.Path)
		l.rows = append(l.rows, []string{r.Path, lab.Bytes(r.Bytes)})
	}
	c.aside("%s of boot %d in %s", plural(len(b.Results), "file"), b.ID, where)
	return c.show(l)
}

// unpack makes a folder of an archive that a machine has filled: nothing of it comes to lie anywhere else, nothing that is
// there is replaced, and no link is made.
func unpack(dir string, send func(io.Writer) error) error {
	if list, err := os.ReadDir(dir); err == nil && len(list) > 0 {
		return fmt.Errorf("%s is there already, and has something in it; --to DIR names another folder: %w", dir, lab.ErrRefused)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := os.CreateTemp(filepath.Dir(filepath.Clean(dir)), ".carte-out-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := send(f); err != nil { // before the folder has anything that may not be all
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := unpackInto(root, f); err != nil {
		return fmt.Errorf("%w; what is in %s is not all", err, dir)
	}
	return lasting(dir)
}

// lasting returns when the names in a folder, and its own, are on the disk: the lab takes what was taken home for safe. The
// files themselves are already.
func lasting(dir string) error {
	err := filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			err = syncFolder(at)
		}
		return err
	})
	return errors.Join(err, syncFolder(filepath.Dir(filepath.Clean(dir))))
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func unpackInto(root *os.Root, r io.Reader) error {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		if name == "." {
			continue
		}
		if !filepath.IsLocal(name) {
			return fmt.Errorf("the name %q leads out of the folder: %w", lab.Clean(h.Name), lab.ErrRefused)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeReg:
			err = unpackFile(root, name, in)
		default:
			err = fmt.Errorf("%q is neither a file nor a folder: %w", lab.Clean(h.Name), lab.ErrRefused)
		}
		if err != nil {
			return err
		}
	}
}

func unpackFile(root *os.Root, name string, r io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}
