package power

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"carte/lab"
)

// Sweep removes from a QEMU.Dir the disks of machines that were forgotten. A machine's
// number is never given to another. Call it before Run.
func Sweep(dir string, keep map[int64]lab.Machine) error {
	folders, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, f := range folders {
		id, notOurs := strconv.ParseInt(f.Name(), 10, 64)
		if _, known := keep[id]; !known && notOurs == nil {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, f.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("remove the disks of forgotten machines: %w", err)
	}
	return nil
}
