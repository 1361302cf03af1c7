package media

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"carte/lab"
)

// section is one more section of a program for UEFI.
type section struct {
	name string // at most 8 bytes
	r    io.ReaderAt
	size int64
}

func textSection(name, text string) section {
	return section{name, bytes.NewReader([]byte(text)), int64(len(text))}
}

// unified makes a unified kernel image: systemd's stub with command line, initrd and kernel as sections of their own (UAPI group specification 5, "Unified
// Kernel Image"; the header of the stub is PE32+, Microsoft's "PE Format"). Firmware starts it as one program.
func unified(stub []byte, add ...section) (*segments, error) {
	le := binary.LittleEndian
	odd := fmt.Errorf("systemd's stub is no program for UEFI that sections can be added to: %w", lab.ErrInvalid)
	if len(stub) < 0x40 {
		return nil, odd
	}
	pe := int64(le.Uint32(stub[0x3c:]))
	if pe+24+64 > int64(len(stub)) || string(stub[pe:][:4]) != "PE\x00\x00" {
		return nil, odd
	}
	head := bytes.Clone(stub)
	count, opt := int64(le.Uint16(head[pe+6:])), pe+24
	table := opt + int64(le.Uint16(head[pe+20:]))
	align, fileAlign, headSize := int64(le.Uint32(head[opt+32:])), int64(le.Uint32(head[opt+36:])), int64(le.Uint32(head[opt+60:]))
	if align <= 0 || fileAlign <= 0 || table+(count+int64(len(add)))*40 > min(headSize, int64(len(head))) {
		return nil, odd
	}
	up := func(n, to int64) int64 { return (n + to - 1) / to * to }
	address := int64(0) // behind the last section in memory
	for i := range count {
		e := head[table+i*40:]
		address = max(address, up(int64(le.Uint32(e[12:]))+int64(le.Uint32(e[8:])), align))
	}
	out, file := &segments{}, up(int64(len(head)), fileAlign)
	for i, s := range add {
		e := head[table+(count+int64(i))*40:][:40]
		clear(e)
		copy(e[:8], s.name)
		le.PutUint32(e[8:], uint32(s.size))
		le.PutUint32(e[12:], uint32(address))
		le.PutUint32(e[16:], uint32(up(s.size, fileAlign)))
		le.PutUint32(e[20:], uint32(file))
		le.PutUint32(e[36:], 0x40000040) // initialised data, readable
		out.add(file, s.size, s.r)
		file, address = file+up(s.size, fileAlign), address+up(s.size, align)
		if address > 1<<31 {
			return nil, fmt.Errorf("kernel and initrd together have more than 2 GiB: %w", lab.ErrInvalid)
		}
	}
	le.PutUint16(head[pe+6:], uint16(count+int64(len(add))))
	le.PutUint32(head[opt+56:], uint32(address))
	out.put(0, head)
	out.size = file
	return out, nil
}
