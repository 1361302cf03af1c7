package store

import (
	"context"
	"errors"
	"io"
)

// exportDisk writes a stack as one disk that boots without carte.
func (d *Desk) exportDisk(ctx context.Context, name string, w io.Writer, progress func(done, of int64)) error {
	return errors.New("this carte writes no disks of stacks")
}
