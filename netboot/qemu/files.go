package qemu

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"carte/lab"
)

// prepare makes the files of a machine that are not there yet. What is there stays
// as it is: a disk keeps its bytes and its size, whatever s.Disk says.
func prepare(t Tools, s Spec) error {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return fmt.Errorf("folder of virtual machine %s: %w", s.Name, err)
	}
	if s.Disk > 0 {
		// Sparse: it takes room only where something was written.
		err := makeFile(filepath.Join(s.Dir, diskFile), func(f *os.File) error { return f.Truncate(s.Disk) })
		if err != nil {
			return fmt.Errorf("disk of virtual machine %s: %w", s.Name, err)
		}
	}
	if !s.UEFI {
		return nil
	}
	if t.Code == "" {
		return fmt.Errorf("virtual machine %s has UEFI firmware, and OVMF is not installed: %s: %w", s.Name, Install, lab.ErrNotFound)
	}
	err := makeFile(filepath.Join(s.Dir, varsFile), func(f *os.File) error {
		src, err := os.Open(t.Vars)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, src)
		return errors.Join(err, src.Close())
	})
	if err != nil {
		return fmt.Errorf("UEFI variables of virtual machine %s: %w", s.Name, err)
	}
	return nil
}

// makeFile makes path with what fill writes, whole or not at all, unless it exists.
func makeFile(path string, fill func(*os.File) error) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), path)
}
