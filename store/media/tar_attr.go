package media

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"carte/lab"
	"carte/lab/ext4"
)

// attributes takes extended attributes and access lists over from a PAX header (star and GNU tar write them as SCHILY records). What Linux's ext4 has not
// is left out and counted: the attributes of another system, an access list that names users.
func (f *Files) attributes(n *ext4.Node, records map[string]string) error {
	put := func(name string, value []byte) error {
		if n.Xattrs == nil {
			n.Xattrs = map[string][]byte{}
		}
		n.Xattrs[name] = value
		if err := ext4.CheckXattrs(n.Xattrs); err != nil {
			return fmt.Errorf("%w: %w", err, lab.ErrInvalid)
		}
		return nil
	}
	for key, value := range records {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || f.layer > 0 && strings.HasPrefix(name, "trusted.overlay.") { // how an overlay marks what a layer says by names
			continue
		}
		if !slices.ContainsFunc([]string{"user.", "trusted.", "security.", "system.posix_acl_"}, func(p string) bool { return strings.HasPrefix(name, p) }) {
			f.left["extended attribute "+name]++
			continue
		}
		if err := put(name, []byte(value)); err != nil {
			return err
		}
	}
	for key, name := range map[string]string{"SCHILY.acl.access": "system.posix_acl_access", "SCHILY.acl.default": "system.posix_acl_default"} {
		text, ok := records[key]
		if _, have := n.Xattrs[name]; have || !ok || strings.TrimSpace(text) == "" || n.Mode&ext4.TypeMask == ext4.TypeLink {
			continue
		}
		list, err := parseACL(text)
		if err != nil {
			f.left["an access list that names users or groups (tar --xattrs --xattrs-include='*' keeps their numbers)"]++
			continue
		}
		if err := put(name, list); err != nil {
			return err
		}
	}
	return nil
}

// aclTags are the kinds of entries of an access list, with and without a name (acl(5)).
var aclTags = map[string][2]uint16{"user": {0x01, 0x02}, "u": {0x01, 0x02}, "group": {0x04, 0x08}, "g": {0x04, 0x08}, "mask": {0x10, 0}, "m": {0x10, 0}, "other": {0x20, 0}, "o": {0x20, 0}}

// parseACL turns the text form into what getxattr(2) gives. Users and groups must have numbers, as the name or, as star writes it, in a fourth field.
func parseACL(text string) ([]byte, error) {
	type entry struct {
		tag, perm uint16
		id        uint32
	}
	var all []entry
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		word, _, _ = strings.Cut(word, "#")
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		parts := strings.Split(word, ":")
		if len(parts) == 2 { // mask:rwx
			parts = []string{parts[0], "", parts[1]}
		}
		tags, known := aclTags[parts[0]]
		if !known || len(parts) < 3 || len(parts) > 4 {
			return nil, fmt.Errorf("access list entry %q", word)
		}
		e := entry{tag: tags[0], id: ^uint32(0)}
		if parts[1] != "" {
			number := parts[len(parts)-1]
			if len(parts) == 3 {
				number = parts[1]
			}
			id, err := strconv.ParseUint(number, 10, 32)
			if err != nil || tags[1] == 0 {
				return nil, fmt.Errorf("access list entry %q has no number", word)
			}
			e.tag, e.id = tags[1], uint32(id)
		}
		for _, c := range parts[2] {
			bit := strings.IndexRune("xwr", c)
			if bit < 0 && c != '-' {
				return nil, fmt.Errorf("access list entry %q", word)
			}
			if bit >= 0 {
				e.perm |= 1 << bit
			}
		}
		all = append(all, e)
	}
	slices.SortStableFunc(all, func(a, b entry) int { // the kernel wants them in this order
		if a.tag != b.tag {
			return int(a.tag) - int(b.tag)
		}
		return int(int64(a.id) - int64(b.id))
	})
	out := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range all {
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.perm)
		out = binary.LittleEndian.AppendUint32(out, e.id)
	}
	return out, nil
}
