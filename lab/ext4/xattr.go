package ext4

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Extended attributes lie in the inode, as many as fit, the rest in one block (kernel: Documentation/filesystems/ext4/attributes.rst).
const (
	xattrMagic  = 0xea020000
	xattrEntry  = 16 // before its name
	xattrHeader = 32 // of a block
	xattrInode  = inodeSize - 128 - extraIsize
)

// xattrNames are the beginnings of names that are numbers on the disk.
var xattrNames = []struct {
	begin string
	index byte
	all   bool // there is nothing behind it
}{
	{"system.posix_acl_access", 2, true}, {"system.posix_acl_default", 3, true}, {"user.", 1, false}, {"trusted.", 4, false}, {"security.", 6, false},
}

type xattr struct {
	index byte
	name  string
	value []byte
}

func (x xattr) entry() int  { return (xattrEntry + len(x.name) + 3) &^ 3 }
func (x xattr) length() int { return x.entry() + (len(x.value)+3)&^3 }

// encodeXattrs gives what lies behind an inode, and in a block of its own; nil where there is nothing.
func encodeXattrs(all map[string][]byte) (inline, block []byte, err error) {
	var here, there []xattr
	inode, rest := xattrInode-4-4, BlockSize-xattrHeader-4 // magic or header, and the four zeros behind the last entry
	for _, name := range slices.Sorted(maps.Keys(all)) {
		x, err := newXattr(name, all[name])
		if err != nil {
			return nil, nil, err
		}
		switch n := x.length(); {
		case n <= inode:
			here, inode = append(here, x), inode-n
		case n <= rest:
			there, rest = append(there, x), rest-n
		default:
			return nil, nil, fmt.Errorf("extended attribute %q of %d bytes: all of a file must fit into %d", name, len(x.value), BlockSize-xattrHeader)
		}
	}
	if len(here) > 0 {
		inline = make([]byte, xattrInode)
		le.PutUint32(inline, xattrMagic)
		putXattrs(inline[4:], 0, here)
	}
	if len(there) > 0 {
		// The kernel searches a block by number, length and name, in this order.
		slices.SortFunc(there, func(x, y xattr) int {
			return cmp.Or(cmp.Compare(x.index, y.index), cmp.Compare(len(x.name), len(y.name)), cmp.Compare(x.name, y.name))
		})
		block = make([]byte, BlockSize)
		le.PutUint32(block, xattrMagic)
		le.PutUint32(block[4:], 1) // inodes that use it
		le.PutUint32(block[8:], 1) // blocks
		putXattrs(block, xattrHeader, there)
	}
	return inline, block, nil
}

// putXattrs writes entries from at on, and their values from the end of b backwards.
func putXattrs(b []byte, at int, list []xattr) {
	end := len(b)
	for _, x := range list {
		e := b[at:]
		e[0], e[1] = byte(len(x.name)), x.index
		if len(x.value) > 0 {
			end -= (len(x.value) + 3) &^ 3
			copy(b[end:], x.value)
			le.PutUint16(e[2:], uint16(end))
		}
		le.PutUint32(e[8:], uint32(len(x.value)))
		le.PutUint32(e[12:], x.hash())
		copy(e[xattrEntry:], x.name)
		at += x.entry()
	}
}

// hash is ext4_xattr_hash_entry of the kernel.
func (x xattr) hash() (h uint32) {
	for _, c := range []byte(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(c)
	}
	value := append(slices.Clone(x.value), 0, 0, 0)
	for value = value[:len(value)&^3]; len(value) > 0; value = value[4:] {
		h = h<<16 ^ h>>16 ^ le.Uint32(value)
	}
	return h
}

func newXattr(name string, value []byte) (xattr, error) {
	for _, p := range xattrNames {
		rest, ok := strings.CutPrefix(name, p.begin)
		if !ok || p.all != (rest == "") || len(rest) > MaxName {
			continue
		}
		if !p.all {
			return xattr{p.index, rest, value}, nil
		}
		short, err := shortACL(value)
		if err != nil {
			return xattr{}, fmt.Errorf("extended attribute %s: %w", name, err)
		}
		return xattr{p.index, "", short}, nil
	}
	return xattr{}, fmt.Errorf("extended attribute %q: ext4 holds user., trusted., security. and POSIX access lists, and names of %d bytes", name, MaxName)
}

var errACL = errors.New("no POSIX access list of version 2")

// shortACL turns an access list as the kernel tells it (version 2: every entry has an id) into one as ext4 stores it (version 1: only those of users and
// groups that are named have one).
func shortACL(b []byte) ([]byte, error) {
	const aclUser, aclGroup = 0x02, 0x08
	if len(b) < 4 || (len(b)-4)%8 != 0 || le.Uint32(b) != 2 {
		return nil, errACL
	}
	out := []byte{1, 0, 0, 0}
	for b = b[4:]; len(b) > 0; b = b[8:] {
		switch le.Uint16(b) {
		case aclUser, aclGroup:
			out = append(out, b[:8]...)
		case 0x01, 0x04, 0x10, 0x20:
			out = append(out, b[:4]...)
		default:
			return nil, errACL
		}
	}
	return out, nil
}

// CheckXattrs says why extended attributes, as getxattr(2) gives them, cannot be kept.
func CheckXattrs(all map[string][]byte) error {
	_, _, err := encodeXattrs(all)
	return err
}
