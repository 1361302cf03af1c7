// Package initrd writes the first root of a kernel: an archive with carte's agent as its process 1, and the modules that it loads. It is what the agent
// puts beside a stack's own kernel on a machine, and what an exported disk starts by where the kernel brings none.
//
// The package refuses to know which modules are needed, and what process 1 does then: it knows where things lie.
package initrd

import (
	"bytes"
	"fmt"
	"path"
)

// Where things lie in it.
const (
	Modules = "/carte/modules" // the modules, by names that sort in the order in which they are loaded
	Alone   = "/carte/alone"   // the name of a system that starts from its disk without a server; no such file: there is a server
)

// NewRoot is the end of its contents, where the real root is mounted.
const NewRoot = "/newroot"

// An Archive is one that a kernel unpacks into its first root, in the "new ASCII" format of the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst. A directory comes before what is in it. Several archives may
// follow one another. The same calls give the same bytes.
type Archive struct {
	bytes.Buffer
	inodes  uint32
	modules int
}

// New begins a first root with its process 1. more is how many bytes are to follow, as far as that is known.
func New(init []byte, more int) *Archive {
	a := &Archive{}
	a.Grow(len(init) + more + 64<<10)
	for _, name := range []string{"dev", "proc", "run", "sys", "tmp", NewRoot[1:], "carte", Modules[1:]} {
		a.Dir(name)
	}
	a.Node("dev/console", 0o600, 5, 1) // the kernel opens it for init, before init could mount anything
	a.Node("dev/null", 0o666, 1, 3)
	a.File("init", 0o755, init)
	return a
}

// Module adds a module, to be loaded behind those that were added before. It returns its name below Modules.
func (a *Archive) Module(file string, data []byte) string {
	name := fmt.Sprintf("%03d-%s", a.modules, path.Base(file))
	a.modules++
	a.File(Modules[1:]+"/"+name, 0o644, data)
	return name
}

// Types of files in an archive, as in stat(2).
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeChar = 0o020000
)

// Dir adds a directory. Names have no slash at their beginning.
func (a *Archive) Dir(name string) { a.entry(name, typeDir|0o755, 0, 0, nil) }

// File adds a file of mode bits. An archive holds files of less than 4 GiB.
func (a *Archive) File(name string, mode uint32, data []byte) {
	a.entry(name, typeFile|mode, 0, 0, data)
}

// Node adds a character device.
func (a *Archive) Node(name string, mode uint32, major, minor int) {
	a.entry(name, typeChar|mode, major, minor, nil)
}

// End ends the archive. Another may follow.
func (a *Archive) End() {
	a.inodes = 0
	a.entry("TRAILER!!!", 0, 0, 0, nil)
}

// entry writes the magic number and thirteen fields of eight hexadecimal digits: inode, mode, owner, group, links, time, length,
// the device that holds it (two), the device that it is (two), the length of the name with its zero byte, and a sum that is not
// used; then name and data, each up to a multiple of four bytes.
func (a *Archive) entry(name string, mode uint32, major, minor int, data []byte) {
	fmt.Fprintf(a, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.inodes, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	a.inodes++
	a.WriteString(name)
	a.WriteByte(0)
	a.pad()
	a.Write(data)
	a.pad()
}

func (a *Archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}
