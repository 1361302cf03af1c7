package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"carte/lab"
)

// export writes an image to a file that appears when it is whole, or to standard output.
func (c *call) export(ctx context.Context, d desk, ref lab.Ref, file string, force bool) error {
	switch {
	case file == "":
		return fmt.Errorf("where to? -o FILE, or -o - for standard output: %w", lab.ErrInvalid)
	case file == "-" && c.term.Table:
		return fmt.Errorf("standard output is a terminal; an image would not look well there: -o FILE: %w", lab.ErrInvalid)
	case file == "-" && c.json:
		return fmt.Errorf("the image and the JSON document cannot both go to standard output: %w", lab.ErrInvalid)
	}
	s, err := d.Watch(ctx, 0)
	if err != nil {
		return err
	}
	v, err := s.Version(ref)
	if err != nil {
		return err
	}
	p := c.meter("export "+v.Ref().String(), v.Bytes)
	defer p.end()
	if file == "-" {
		return d.Export(ctx, v.Ref(), c.term.Out, p.toOf)
	}
	if err := checkOutput(file, force); err != nil {
		return err
	}
	err = whole(file, func(f *os.File) error {
		w := &sparse{f: f}
		if err := d.Export(ctx, v.Ref(), w, p.toOf); err != nil {
			return err
		}
		return w.end()
	})
	if err != nil {
		return err
	}
	p.end()
	return c.show(list{
		doc: struct {
			Version versionDoc `json:"version"`
			File    string     `json:"file"`
		}{versionOf(s, v), file},
		names: []string{file}, rows: [][]string{{v.Ref().String(), lab.Bytes(v.Bytes) + " in " + file}},
	})
}

// checkOutput refuses a file that cannot be made, before anything is read.
func checkOutput(file string, force bool) error {
	st, err := os.Lstat(file)
	switch {
	case err == nil && st.IsDir():
		return fmt.Errorf("%s is a folder; name a file in it: %w", file, lab.ErrRefused)
	case err == nil && !force:
		return fmt.Errorf("%s is there already; --force replaces it: %w", file, lab.ErrRefused)
	}
	if _, err := os.Stat(filepath.Dir(file)); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the folder %s: %w", filepath.Dir(file), lab.ErrNotFound)
	}
	return nil
}

// whole makes a file that is there only once it is complete and on the disk.
func whole(file string, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".carte-export-*")
	if err != nil {
		var why *os.PathError // whose path is a name that nobody knows
		if errors.As(err, &why) {
			err = why.Err
		}
		return fmt.Errorf("no file can be made in %s: %w", filepath.Dir(file), err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(write(f), f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(file))
}

// sparse leaves holes in a new file where zeros would be.
type sparse struct {
	f  *os.File
	at int64
}

var noBytes [64 << 10]byte

func (s *sparse) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		part := p[:min(len(p), len(noBytes))]
		if !bytes.Equal(part, noBytes[:len(part)]) {
			if _, err := s.f.WriteAt(part, s.at); err != nil {
				return n, err
			}
		}
		s.at += int64(len(part))
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}

// end gives the file its full length.
func (s *sparse) end() error { return s.f.Truncate(s.at) }

var _ io.Writer = (*sparse)(nil)
