package media

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"carte/lab"
)

// A FAT32 file system with a few files in it ("Microsoft FAT Specification", 2005), for firmware that starts a file of it. It is written here and not by
// go-diskfs, which takes the time of day into it: the same files give the same bytes.
const (
	fatSector   = 512
	fatReserved = 32 // sectors before the first table
	fatTables   = 2
	fatRoot     = 2     // the root's cluster
	fatLeast    = 65525 // clusters: with fewer, firmware takes it for FAT16
	fatSmall    = 256e6 // bytes up to which a cluster is one sector
	fatEnd      = 0x0ffffff8
	fatDay      = 1<<5 | 1 // the first of January 1980
)

// fatVolume lays files out. Names are of eight and three capital letters, folders are made as they are needed.
type fatVolume struct {
	cluster int64 // bytes
	table   []uint32
	data    *segments // clusters, from number 2 on
}

// fatFile is a file, or a folder that is made.
type fatFile struct {
	name  string
	first uint32
	size  int64
	below []*fatFile // of a folder
	isDir bool
	bytes io.ReaderAt
}

// fat32 makes a volume of files, paths as in EFI/BOOT/BOOTX64.EFI, with room bytes free. It is as long as it needs to be, in whole MiB.
func fat32(id uint32, files map[string]*io.SectionReader, room int64) (*segments, error) {
	root := &fatFile{isDir: true}
	total := room
	for _, path := range slices.Sorted(maps.Keys(files)) {
		total += files[path].Size()
		dir, parts := root, strings.Split(path, "/")
		for i, part := range parts {
			if _, err := fatName(part); err != nil {
				return nil, err
			}
			at := slices.IndexFunc(dir.below, func(f *fatFile) bool { return f.name == part })
			if at < 0 {
				at = len(dir.below)
				dir.below = append(dir.below, &fatFile{name: part, isDir: i < len(parts)-1})
			}
			dir = dir.below[at]
		}
		dir.bytes, dir.size = files[path], files[path].Size()
	}
	v := &fatVolume{cluster: fatSector, table: []uint32{fatEnd, 0x0fffffff}, data: &segments{}}
	if total > fatSmall {
		v.cluster = 4096
	}
	v.place(root)
	v.write(root, root)
	return v.finish(id, total)
}

// place gives a folder its cluster, one of which holds every folder here, then what is in it.
func (v *fatVolume) place(f *fatFile) {
	n := uint32((f.size + v.cluster - 1) / v.cluster)
	if f.isDir {
		n = 1
	}
	if n > 0 {
		f.first = uint32(len(v.table))
	}
	for i := range n {
		next := uint32(len(v.table)) + 1
		if i == n-1 {
			next = fatEnd
		}
		v.table = append(v.table, next)
	}
	for _, x := range f.below {
		v.place(x)
	}
}

// write puts the contents where place has put them.
func (v *fatVolume) write(f, parent *fatFile) {
	if f.first != 0 {
		at := int64(f.first-fatRoot) * v.cluster
		if f.isDir {
			v.data.put(at, v.folder(f, parent))
		} else {
			v.data.add(at, f.size, f.bytes)
		}
	}
	for _, x := range f.below {
		v.write(x, f)
	}
}

// folder is a folder's entries.
func (v *fatVolume) folder(f, parent *fatFile) []byte {
	var b []byte
	entry := func(name string, attr byte, first uint32, size int64) {
		e := make([]byte, 32)
		copy(e, name)
		e[11] = attr
		binary.LittleEndian.PutUint16(e[16:], fatDay)
		binary.LittleEndian.PutUint16(e[18:], fatDay)
		binary.LittleEndian.PutUint16(e[24:], fatDay)
		binary.LittleEndian.PutUint16(e[20:], uint16(first>>16))
		binary.LittleEndian.PutUint16(e[26:], uint16(first))
		binary.LittleEndian.PutUint32(e[28:], uint32(size))
		b = append(b, e...)
	}
	if f != parent {
		up := parent.first
		if up == fatRoot { // the root is written as 0
			up = 0
		}
		entry(".          ", 0x10, f.first, 0)
		entry("..         ", 0x10, up, 0)
	}
	for _, x := range f.below {
		name, _ := fatName(x.name)
		if x.isDir {
			entry(name, 0x10, x.first, 0)
		} else {
			entry(name, 0x20, x.first, x.size)
		}
	}
	return b
}

// finish writes what describes the volume, and moves the clusters behind it.
func (v *fatVolume) finish(id uint32, total int64) (*segments, error) {
	per := v.cluster / fatSector
	clusters := max(int64(len(v.table)), total/v.cluster, fatLeast+16)
	length := (clusters*4 + 8 + fatSector - 1) / fatSector
	size := roundMiB((fatReserved + fatTables*length + (clusters+1)*per) * fatSector)
	length = ((size/fatSector/per+2)*4 + fatSector - 1) / fatSector // of the clusters that fit into whole MiB, and a few
	data := fatReserved + fatTables*length
	clusters = (size/fatSector - data) / per
	if int64(len(v.table))-2 > clusters || clusters < fatLeast || size/fatSector > 1<<32-1 {
		return nil, fmt.Errorf("BUG: %d clusters do not hold %d", clusters, len(v.table))
	}
	le := binary.LittleEndian
	b := make([]byte, fatSector)
	copy(b, "\xeb\x58\x90MSWIN4.1")
	le.PutUint16(b[11:], fatSector)
	b[13] = byte(per)
	le.PutUint16(b[14:], fatReserved)
	b[16], b[21] = fatTables, 0xf8
	le.PutUint16(b[24:], 63)
	le.PutUint16(b[26:], 255)
	le.PutUint32(b[32:], uint32(size/fatSector))
	le.PutUint32(b[36:], uint32(length))
	le.PutUint32(b[44:], fatRoot)
	le.PutUint16(b[48:], 1) // the sector with the counts
	le.PutUint16(b[50:], 6) // a copy of this one
	b[64], b[66] = 0x80, 0x29
	le.PutUint32(b[67:], id)
	copy(b[71:], "NO NAME    ") // a label would have to be in the root, too
	copy(b[82:], "FAT32   ")
	b[510], b[511] = 0x55, 0xaa
	counts := make([]byte, fatSector)
	copy(counts, "RRaA")
	copy(counts[484:], "rrAa")
	le.PutUint32(counts[488:], uint32(clusters-int64(len(v.table)-2)))
	le.PutUint32(counts[492:], uint32(len(v.table)))
	counts[510], counts[511] = 0x55, 0xaa
	table := make([]byte, 4*len(v.table))
	for i, x := range v.table {
		le.PutUint32(table[4*i:], x)
	}
	out := &segments{size: size}
	for _, at := range []int64{0, 6} {
		out.put(at*fatSector, b)
		out.put((at+1)*fatSector, counts)
	}
	for i := range int64(fatTables) {
		out.put((fatReserved+i*length)*fatSector, table)
	}
	for _, x := range v.data.all {
		out.add(data*fatSector+x.at, x.n, x.r)
	}
	return out, nil
}

// fatName is a name as it lies in a folder.
func fatName(s string) (string, error) {
	base, ext, _ := strings.Cut(s, ".")
	if base == "" || len(base) > 8 || len(ext) > 3 || strings.ToUpper(s) != s {
		return "", fmt.Errorf("file name %q: eight capital letters, and three behind a point: %w", s, lab.ErrInvalid)
	}
	return fmt.Sprintf("%-8s%-3s", base, ext), nil
}

func roundMiB(n int64) int64 { return (n + 1<<20 - 1) &^ (1<<20 - 1) }
