package ext4

import (
	"errors"
	"slices"
)

var errXattrs = errors.New("its extended attributes contradict themselves")

// xattrs decodes what encodeXattrs has encoded: the attributes in an inode, and those in its block.
func (n *nodeReader) xattrs(in []byte) (map[string][]byte, error) {
	all := map[string][]byte{}
	if len(in) > 132 {
		if at := 128 + int(le.Uint16(in[inExtra:])); at+4 <= len(in) && le.Uint32(in[at:]) == xattrMagic {
			if err := readXattrs(all, in[at+4:], in[at+4:]); err != nil {
				return nil, err
			}
		}
	}
	if at := int64(le.Uint32(in[inXattr:])) | int64(le.Uint16(in[0x76:]))<<32; at != 0 {
		b, err := n.fs.r.read(at*BlockSize, BlockSize)
		if err != nil {
			return nil, err
		}
		if le.Uint32(b) != xattrMagic {
			return nil, errXattrs
		}
		if err := readXattrs(all, b[xattrHeader:], b); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

// readXattrs reads entries up to four zeros; values lie in base.
func readXattrs(all map[string][]byte, b, base []byte) error {
	for len(b) >= 4 && le.Uint32(b) != 0 {
		if len(b) < xattrEntry || len(b) < xattrEntry+int(b[0]) {
			return errXattrs
		}
		name, at, size := string(b[xattrEntry:][:b[0]]), int(le.Uint16(b[2:])), int64(le.Uint32(b[8:]))
		if le.Uint32(b[4:]) != 0 || size > BlockSize || int64(at)+size > int64(len(base)) {
			return errXattrs
		}
		value := slices.Clone(base[at:][:size])
		for _, p := range xattrNames {
			if p.index != b[1] || p.all != (name == "") {
				continue
			}
			if p.all {
				if value = longACL(value); value == nil {
					return errXattrs
				}
			}
			all[p.begin+name] = value
		}
		b = b[min(len(b), (xattrEntry+len(name)+3)&^3):]
	}
	return nil
}

// longACL turns an access list as ext4 stores it into one as the kernel tells it: shortACL backwards. nil: it is none.
func longACL(b []byte) []byte {
	const aclUser, aclGroup = 0x02, 0x08
	if len(b) < 4 || le.Uint32(b) != 1 {
		return nil
	}
	out := []byte{2, 0, 0, 0}
	for b = b[4:]; len(b) > 0; {
		n := 4
		if tag := le.Uint16(b[:min(2, len(b))]); len(b) >= 8 && (tag == aclUser || tag == aclGroup) {
			n = 8
		}
		if len(b) < n {
			return nil
		}
		entry := append(slices.Clone(b[:n]), 255, 255, 255, 255)[:8]
		out, b = append(out, entry...), b[n:]
	}
	return out
}
