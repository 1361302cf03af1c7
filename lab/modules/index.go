package modules

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
)

// A trie is an index of kmod (kmod: libkmod/libkmod-index.h, version 2.1): keys of ASCII, each with values that are sorted by their priority. The numbers in
// it are big endian. A node is, as flags in its offset say: its part of the key with a zero byte; the first and the last byte that a key goes on with, and an
// offset of a node for each from the one to the other; the number of values, and of each its priority and its text with a zero byte.
type trie struct{ all []entry }

type entry struct {
	key, value string
	priority   uint32
}

const (
	indexMagic   = 0xb007f457
	indexVersion = 2<<16 | 1
	nodePrefix   = 1 << 31
	nodeChildren = 1 << 29
	nodeValues   = 1 << 30
	childMax     = 128 // above all bytes of keys
)

func (t *trie) add(key, value string, priority uint32) {
	t.all = append(t.all, entry{key, value, priority})
}

// bytes is the index as it lies in a file. Of values of one priority the last that was added comes first.
func (t *trie) bytes() []byte {
	slices.Reverse(t.all)
	slices.SortStableFunc(t.all, func(a, b entry) int {
		return cmp.Or(strings.Compare(a.key, b.key), cmp.Compare(a.priority, b.priority))
	})
	be := binary.BigEndian
	out := be.AppendUint32(be.AppendUint32(nil, indexMagic), indexVersion)
	out, root := node(append(out, 0, 0, 0, 0), t.all, 0, true)
	be.PutUint32(out[8:], root)
	return out
}

// node writes the entries, whose keys are the same up to at, behind those that continue them. It returns the offset with its flags.
func node(out []byte, all []entry, at int, root bool) ([]byte, uint32) {
	begin := at
	for !root && len(all) > 0 && at < len(all[0].key) && at < len(all[len(all)-1].key) && all[0].key[at] == all[len(all)-1].key[at] {
		at++ // they are sorted: what the first and the last share, all share
	}
	var prefix string
	if len(all) > 0 {
		prefix = all[0].key[begin:at]
	}
	ends := 0
	for ends < len(all) && len(all[ends].key) == at {
		ends++
	}
	be := binary.BigEndian
	var children []byte
	var flags uint32
	if rest := all[ends:]; len(rest) > 0 {
		first, last := rest[0].key[at], rest[len(rest)-1].key[at]
		children = append(children, first, last)
		for c := first; c <= last; c++ {
			n := 0
			for n < len(rest) && rest[n].key[at] == c {
				n++
			}
			var offset uint32
			if n > 0 {
				out, offset = node(out, rest[:n], at+1, false)
			}
			children = be.AppendUint32(children, offset)
			rest = rest[n:]
		}
		flags |= nodeChildren
	}
	offset := uint32(len(out))
	if prefix != "" {
		out = append(append(out, prefix...), 0)
		flags |= nodePrefix
	}
	out = append(out, children...)
	if ends > 0 {
		out = be.AppendUint32(out, uint32(ends))
		for _, x := range all[:ends] {
			out = append(append(be.AppendUint32(out, x.priority), x.value...), 0)
		}
		flags |= nodeValues
	}
	return out, offset | flags
}
