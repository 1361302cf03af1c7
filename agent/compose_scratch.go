package agent

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/ext4"
)

// mountUpper mounts what takes the changes: the partition scratch of d, made anew, or memory where there is none.
func (h host) mountUpper(c *composition, d blockdev, scratch []string, o lab.Orders) error {
	if len(scratch) == 0 {
		if err := c.mount("tmpfs", upperAt, "tmpfs", 0, "size=50%,mode=0755"); err != nil {
			return fmt.Errorf("memory for changes: %w", err)
		}
		return nil
	}
	part := scratch[0]
	err := makeScratch(part, h.line("block", d.name, filepath.Base(part), "dev"), o.Compose.Scratch.Bytes, o.Disk)
	if err == nil {
		err = c.mount(part, upperAt, "ext4", unix.MS_NOATIME, "")
	}
	if err != nil {
		return fmt.Errorf("%s of disk %s: %w", scratchPartition, o.Disk, err)
	}
	return nil
}

// makeScratch makes an empty file system in a partition where there may be anything. Its old content stays where it lay, which
// costs nothing whatever the size: bitmaps and directories are written, blocks and inodes that are free are not looked at, and a
// journal is replayed only after a crash, which this file system never survives: it is made anew for every boot.
func makeScratch(part, number string, bytes int64, id lab.DiskID) (err error) {
	d, err := openDevice(part, number)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	opt := ext4.Options{Label: scratchPartition, UUID: guid("scratch", id), Size: min(bytes, ext4.MaxSize) &^ (ext4.BlockSize - 1)}
	if err := ext4.Empty(io.NewOffsetWriter(d, 0), opt); err != nil {
		return err
	}
	return d.Sync()
}
