package payload

import (
	"bytes"
	"errors"
	"fmt"
)

// File types and permissions of cpio entries, as in stat(2).
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
)

// entry is one file of an initramfs.
type entry struct {
	name         string
	mode         uint32
	major, minor uint32 // of a device node
	data         []byte
}

// initramfs is the agent's first root, in the order in which it is written: a
// folder comes before what is in it, otherwise by name.
//
// dev/console must be a node of the archive: the kernel opens it as init's
// standard input, output and error before init could mount a devtmpfs. null is
// there for the same moment, for programs started that early.
func initramfs(agent []byte) []entry {
	return []entry{
		{name: "dev", mode: modeDir | 0o755},
		{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1},
		{name: "dev/null", mode: modeChar | 0o666, major: 1, minor: 3},
		{name: "etc", mode: modeDir | 0o755},
		{name: "init", mode: modeFile | 0o755, data: agent},
		{name: "mnt", mode: modeDir | 0o755},
		{name: "newroot", mode: modeDir | 0o755},
		{name: "proc", mode: modeDir | 0o555},
		{name: "run", mode: modeDir | 0o755},
		{name: "sys", mode: modeDir | 0o555},
		{name: "tmp", mode: modeDir | 0o1777},
	}
}

// Initramfs returns a newc cpio archive that holds the agent as /init and the few
// folders and devices it needs before it has mounted anything. The same agent
// gives the same bytes: no times, no owners, fixed inode numbers.
//
// The archive is not compressed. The agent's kernel takes zstd as well, but for an
// agent of 10 MB an emulated CPU then needs 1.2 s to unpack instead of 0.4 s, which
// is more than the transfer of the 6 MB saved; on metal neither is felt.
func Initramfs(agent []byte) ([]byte, error) {
	if len(agent) == 0 {
		return nil, errors.New("initramfs: the agent is empty")
	}
	if int64(len(agent)) > 1<<32-1 {
		return nil, fmt.Errorf("initramfs: an agent of %d bytes does not fit a cpio header", len(agent))
	}
	var w bytes.Buffer
	w.Grow(len(agent) + 4096)
	for i, e := range initramfs(agent) {
		writeNewc(&w, uint32(i+1), e)
	}
	writeNewc(&w, 0, entry{name: "TRAILER!!!"})
	return w.Bytes(), nil
}

// writeNewc appends one entry in the "new ASCII" format of the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst: a magic number and
// thirteen fields of eight hexadecimal digits, the name with its NUL, the data;
// name and data each end on a multiple of four bytes.
//
// Our own writer, because that of cavaliergopher/cpio leaves the device numbers
// zero, and a dev/console of 0:0 means an init without a console.
func writeNewc(w *bytes.Buffer, inode uint32, e entry) {
	links := 1
	if e.mode&0o170000 == modeDir {
		links = 2
	}
	fmt.Fprintf(w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		inode, e.mode,
		0, 0, // owner and group: root
		links,
		0, // time of change: 1970, so that equal contents give equal bytes
		len(e.data),
		0, 0, // device that holds the file
		e.major, e.minor,
		len(e.name)+1,
		0) // checksum: unused in 070701
	w.WriteString(e.name)
	w.WriteByte(0)
	pad4(w)
	w.Write(e.data)
	pad4(w)
}

func pad4(w *bytes.Buffer) {
	for w.Len()%4 != 0 {
		w.WriteByte(0)
	}
}
