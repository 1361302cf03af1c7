package layout

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

var fatKinds = []struct {
	name string
	size int64
	args []string
	bits int
	bare bool // without files: mtools take so few clusters for FAT12
}{
	{"12", 3 * mib, []string{"-F", "12"}, 12, false},
	{"12, odd", 2*mib + 512*77, []string{"-F", "12", "-s", "2"}, 12, false},
	{"12, two kinds of padding", 1 * mib, []string{"-F", "12", "-r", "16", "-R", "3"}, 12, false},
	{"16", 20 * mib, []string{"-F", "16"}, 16, false},
	{"16, one table", 20 * mib, []string{"-F", "16", "-f", "1"}, 16, false},
	{"16, blocks of 4096", 64 * mib, []string{"-F", "16", "-S", "4096", "-s", "1"}, 16, false},
	{"32", 40 * mib, []string{"-F", "32", "-s", "1"}, 32, false},
	{"32, few clusters", 20 * mib, []string{"-F", "32"}, 32, true},
	{"32, blocks of 4096", 20 * mib, []string{"-F", "32", "-S", "4096", "-s", "1"}, 32, true},
}

// fatTree makes a FAT with files, a folder and gaps where files were.
func fatTree(t *testing.T, size int64, bare bool, args []string) string {
	t.Helper()
	path := empty(t, size)
	call(t, "", "mkfs.vfat", append(append([]string{"-n", "CARTE", "-i", "CA27E001"}, args...), path)...)
	if bare {
		return path
	}
	dir := t.TempDir()
	call(t, "", "mmd", "-i", path, "::/sub")
	for i := range 12 {
		file := filepath.Join(dir, fmt.Sprintf("f%d", i))
		save(t, file, junk(byte(i), 3000+i*i*211))
		call(t, "", "mcopy", "-i", path, file, fmt.Sprintf("::/sub/f%d", i))
	}
	for i := 1; i < 12; i += 4 {
		call(t, "", "mdel", "-i", path, fmt.Sprintf("::/sub/f%d", i))
	}
	return path
}

// unused is what the table of a FAT says, read in the plainest way.
func unused(b []byte, bits int) (cluster int64, free map[int64]bool) {
	le := binary.LittleEndian
	sector, per := int64(le.Uint16(b[11:])), int64(b[13])
	length, sectors := int64(le.Uint16(b[22:])), int64(le.Uint16(b[19:]))
	if length == 0 {
		length = int64(le.Uint32(b[36:]))
	}
	if sectors == 0 {
		sectors = int64(le.Uint32(b[32:]))
	}
	table := int64(le.Uint16(b[14:]))
	data := table + int64(b[16])*length + int64(le.Uint16(b[17:]))*32/sector
	free = map[int64]bool{}
	for n := int64(2); n < (sectors-data)/per+2; n++ {
		v := uint32(0)
		for i := range int64(bits) {
			at := n*int64(bits) + i
			v |= uint32(b[table*sector+at/8]>>(at%8)&1) << i
		}
		if v&0x0fffffff == 0 {
			for s := range per {
				free[data+(n-2)*per+s] = true
			}
		}
	}
	return sector, free
}

func TestFAT(t *testing.T) {
	for _, c := range fatKinds {
		t.Run(c.name, func(t *testing.T) {
			path := fatTree(t, c.size, c.bare, c.args)
			b := load(t, path)
			m := readMap(t, b)
			x := m.Systems[0]
			if x.Kept != "" || !x.Clean || x.Type != "vfat" || x.Label != "CARTE" || x.UUID != "CA27-E001" || x.Bytes > c.size || x.Bytes <= c.size-64<<10 || len(m.Stale) > 0 {
				t.Fatalf("%#v", x)
			}
			block, want := unused(b, c.bits)
			exactly(t, m.Free, block, want)
			files := func(path string) map[string][32]byte {
				out := t.TempDir()
				if c.bare {
					return nil
				}
				call(t, "", "mcopy", "-s", "-n", "-i", path, "::/", out)
				return tree(t, out)
			}
			sums := files(path)
			unharmed(t, m, b, func(t *testing.T, path string) {
				call(t, "", "fsck.vfat", "-n", path)
				if got := files(path); !c.bare && len(got) != 9 || fmt.Sprint(got) != fmt.Sprint(sums) {
					t.Errorf("of %d files some have changed", len(sums))
				}
			})
		})
	}
}

func TestFATKept(t *testing.T) {
	const reserved16, reserved32 = 4 * 512, 32 * 512 // where mkfs.vfat puts the first table
	for _, c := range []struct {
		name, why string
		bits      int
		do        func(b []byte) []byte
	}{
		{"mounted", "not unmounted", 12, func(b []byte) []byte { b[37] |= 1; return b }},
		{"mounted", "not unmounted", 32, func(b []byte) []byte { b[65] |= 1; return b }},
		{"Windows' flag", "not unmounted", 16, func(b []byte) []byte { b[int(binary.LittleEndian.Uint16(b[14:]))*512+3] &= 0x7f; return b }},
		{"Windows' other flag", "not unmounted", 32, func(b []byte) []byte { b[int(binary.LittleEndian.Uint16(b[14:]))*512+7] &^= 0x04; return b }},
		{"one table counts", "alike", 32, func(b []byte) []byte { b[40] |= 0x81; return b }},
		{"too short a disk", "longer", 16, func(b []byte) []byte { return b[:len(b)-mib] }},
		{"no cluster size", "contradicts", 16, func(b []byte) []byte { b[13] = 0; return b }},
		{"no tables", "contradicts", 16, func(b []byte) []byte { b[16] = 0; return b }},
		{"odd sectors", "contradicts", 16, func(b []byte) []byte { b[11] = 1; return b }},
		{"huge tables", "contradicts", 32, func(b []byte) []byte { copy(b[36:], "\xff\xff\xff\xff"); return b }},
		{"exFAT", "cannot be read", 32, func(b []byte) []byte { copy(b[3:], "EXFAT   "); clear(b[82:90]); return b }},
	} {
		t.Run(fmt.Sprint(c.name, c.bits), func(t *testing.T) {
			for _, k := range fatKinds {
				if k.bits != c.bits {
					continue
				}
				m := readMap(t, c.do(load(t, fatTree(t, k.size, k.bare, k.args))))
				if x := m.Systems[0]; len(m.Free) > 0 || !strings.Contains(x.Kept, c.why) {
					t.Errorf("%#v, %d bytes free; want %q", x, sum(m.Free), c.why)
				}
				return
			}
		})
	}
	// A cluster is free only if all tables agree.
	b := load(t, fatTree(t, fatKinds[3].size, false, fatKinds[3].args))
	m := readMap(t, b)
	f, why := parseFAT(b)
	if why != "" {
		t.Fatal(why)
	}
	b[(f.reserved+f.length)*f.sector+2*f.clusters-100] = 1
	if lost := sum(m.Free) - sum(readMap(t, b).Free); lost != f.cluster {
		t.Errorf("%d bytes less are free, want %d", lost, f.cluster)
	}
}

func TestSwap(t *testing.T) {
	for _, page := range []string{"4096", "65536"} {
		path := empty(t, 10*mib+5000)
		call(t, "", "mkswap", "-q", "-L", "scratch", "-U", "ca27e001-0203-4405-8607-08090a0b0c0d", "-p", page, path)
		b := load(t, path)
		m := readMap(t, b)
		x, n := m.Systems[0], map[string]int64{"4096": 4096, "65536": 65536}[page]
		if x.Type != "swap" || x.Label != "scratch" || x.UUID != "ca27e001-0203-4405-8607-08090a0b0c0d" || x.Kept != "" || x.Used != n || x.Bytes != (10*mib+5000)/n*n {
			t.Errorf("%#v", x)
		}
		if len(m.Free) != 1 || m.Free[0] != (Extent{n, x.Bytes - n}) {
			t.Errorf("%v", m.Free)
		}
		unharmed(t, m, b, func(t *testing.T, path string) {
			if out := call(t, "", "blkid", "-p", path); !strings.Contains(out, `TYPE="swap"`) {
				t.Error(out)
			}
		})
		asleep := bytes.Clone(b)
		copy(asleep[n-10:], "S1SUSPEND\x00")
		if m := readMap(t, asleep); len(m.Free) > 0 || page == "4096" && !strings.Contains(m.Systems[0].Kept, "sleeps") {
			t.Errorf("a system that sleeps: %+v", m.Systems)
		}
	}
}
