package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"carte/lab"
)

// ExportStack writes a stack as a bundle or as a disk.
func (d *Desk) ExportStack(ctx context.Context, name, as string, w io.Writer, progress func(done, of int64)) error {
	switch as {
	case "bundle":
		return errors.New("this carte writes no bundles")
	case "disk":
		return d.exportDisk(ctx, name, w, progress)
	}
	return fmt.Errorf("a stack is exported as bundle or as disk, not as %q: %w", as, lab.ErrInvalid)
}

// ImportStack reads a bundle.
func (d *Desk) ImportStack(ctx context.Context, r io.Reader, progress func(done int64)) (lab.Changed, error) {
	return lab.Changed{}, errors.New("this carte reads no bundles")
}
