package agent

import (
	"bytes"
	"fmt"
)

// Types of files in an archive, as in stat(2).
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioChar = 0o020000
)

// A cpio is an archive that a kernel unpacks into its first root, in the "new ASCII" format of the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst. A directory comes before what is in it. Several archives may
// follow one another.
type cpio struct {
	bytes.Buffer
	inodes uint32
}

func (w *cpio) dir(name string) { w.entry(name, cpioDir|0o755, 0, 0, nil) }

func (w *cpio) file(name string, mode uint32, data []byte) { w.entry(name, cpioFile|mode, 0, 0, data) }

// node is a character device.
func (w *cpio) node(name string, mode uint32, major, minor int) {
	w.entry(name, cpioChar|mode, major, minor, nil)
}

// end ends the archive.
func (w *cpio) end() {
	w.inodes = 0
	w.entry("TRAILER!!!", 0, 0, 0, nil)
}

// entry writes the magic number and thirteen fields of eight hexadecimal digits: inode, mode, owner, group, links, time, length,
// the device that holds it (two), the device that it is (two), the length of the name with its zero byte, and a sum that is not
// used; then name and data, each up to a multiple of four bytes.
func (w *cpio) entry(name string, mode uint32, major, minor int, data []byte) {
	fmt.Fprintf(w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		w.inodes, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	w.inodes++
	w.WriteString(name)
	w.WriteByte(0)
	w.pad()
	w.Write(data)
	w.pad()
}

func (w *cpio) pad() {
	for w.Len()%4 != 0 {
		w.WriteByte(0)
	}
}
