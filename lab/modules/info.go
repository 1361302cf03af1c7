package modules

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"strings"

	"carte/lab"
)

// Info is what a module says of itself.
type Info struct {
	Aliases []string // patterns of the devices and names that it is for
	Depends []string // names of modules that it needs, as its build knew them
	Soft    []string // "pre: a b post: c" of modules that it asks for by name

	Exports []string // symbols that others may need; Read only
	Needs   []string // symbols that it needs, in the order of its symbol table; Read only
}

// ReadInfo reads Aliases, Depends and Soft, which is cheap. lab.ErrInvalid: r is no module.
func ReadInfo(r io.ReaderAt) (Info, error) {
	_, info, err := open(r)
	return info, err
}

// Read reads all of it. lab.ErrInvalid: r is no module.
func Read(r io.ReaderAt) (Info, error) {
	f, info, err := open(r)
	if err != nil {
		return info, err
	}
	symbols, err := f.Symbols()
	if errors.Is(err, elf.ErrNoSymbols) {
		return info, nil
	}
	if err != nil {
		return info, fmt.Errorf("its symbols: %w: %w", err, lab.ErrInvalid)
	}
	seen := map[string]bool{}
	for _, s := range symbols {
		name, ok := strings.CutPrefix(s.Name, "__ksymtab_")
		switch {
		case s.Section == elf.SHN_UNDEF && s.Name != "":
			info.Needs = append(info.Needs, s.Name)
			continue
		case !ok: // a kernel with versions of symbols has both, one without only the first
			name, ok = strings.CutPrefix(s.Name, "__crc_")
		}
		if ok && name != "" && !seen[name] {
			seen[name] = true
			info.Exports = append(info.Exports, name)
		}
	}
	return info, nil
}

// open reads the section in which a module says what it is for: words with a zero byte behind each.
func open(r io.ReaderAt) (*elf.File, Info, error) {
	var info Info
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, info, fmt.Errorf("%w: %w", err, lab.ErrInvalid)
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, info, fmt.Errorf("it has no .modinfo: %w", lab.ErrInvalid)
	}
	text, err := s.Data()
	if err != nil {
		return nil, info, fmt.Errorf("its .modinfo: %w: %w", err, lab.ErrInvalid)
	}
	for line := range bytes.SplitSeq(text, []byte{0}) {
		switch key, value, _ := strings.Cut(string(line), "="); key {
		case "alias":
			info.Aliases = append(info.Aliases, value)
		case "depends":
			for _, n := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' }) {
				info.Depends = append(info.Depends, Name(n))
			}
		case "softdep":
			info.Soft = append(info.Soft, value)
		}
	}
	return f, info, nil
}
