package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"carte/lab"
)

// dropOuts removes the folders of results that the lab has forgotten. The records say so first: a stop before this, or in it, loses nothing that they
// promise, and the next call goes on. A folder of which no record says so stays.
func (d *Desk) dropOuts(ctx context.Context) error {
	d.homes.Lock() // first: what comes home just now has its record, and nothing is removed that came after the record was read
	defer d.homes.Unlock()
	s, err := d.Lab.Watch(ctx, 0)
	if err != nil {
		return err
	}
	all, err := os.ReadDir(filepath.Join(d.State.Dir, "results"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("results: %w", err)
	}
	for _, e := range all {
		id, err := strconv.ParseInt(e.Name(), 10, 64)
		if b, ok := s.Boots[id]; err != nil || !ok || b.OutGone.IsZero() {
			continue
		}
		if err := d.dropOut(id); err != nil {
			return fmt.Errorf("results of boot %d, which are forgotten: %w; carte gc removes what is left of them", id, err)
		}
	}
	return nil
}

// dropOut takes a folder from its place in one step, and then its files from the disk.
func (d *Desk) dropOut(boot int64) error {
	temp, err := os.MkdirTemp(d.State.Temp(), "gone-*")
	if err != nil {
		return full(err)
	}
	if err := os.Rename(d.outOf(boot), filepath.Join(temp, "out")); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	d.step("results taken away")
	return os.RemoveAll(temp)
}

// forgotten ends a verb that makes the lab forget results.
func (d *Desk) forgotten(ctx context.Context, v lab.Verb) error {
	if _, ok := v.(lab.ForgetOut); !ok {
		return nil
	}
	d.step("results forgotten")
	return d.dropOuts(ctx)
}
