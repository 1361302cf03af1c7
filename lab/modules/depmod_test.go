package modules

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// madeUp are modules by their paths.
var madeUp = map[string]Info{
	"kernel/lib/crc16.ko":                  {Exports: []string{"crc16", "crc16_table"}},
	"kernel/fs/jbd2/jbd2.ko":               {Depends: []string{"crc16"}, Needs: []string{"printk", "crc16"}, Exports: []string{"jbd2_open", "jbd2_close"}},
	"kernel/fs/ext4/ext4.ko":               {Aliases: []string{"fs-ext4", "fs-ext3"}, Depends: []string{"jbd2", "crc16"}, Soft: []string{"pre: crc32c"}, Needs: []string{"crc16", "jbd2_open", "jbd2_close"}},
	"kernel/crypto/crc32c-generic.ko":      {Aliases: []string{"crc32c", "crypto-crc32c-generic"}},
	"kernel/drivers/virtio/virtio_ring.ko": {Exports: []string{"vring"}},
	"kernel/drivers/block/virtio_blk.ko":   {Aliases: []string{"virtio:d00000002v*"}, Depends: []string{"virtio_ring"}, Needs: []string{"vring"}},
	"kernel/drivers/hid/range.ko":          {Aliases: []string{"hid:b0003g*v0000[0-9a-f]*p-x", "broken]", "broken[a-", "b\xc3\xa9"}},
	"kernel/drivers/net/tun.ko":            {Aliases: []string{"char-major-10-200", "devname:net/tun"}},
	"kernel/drivers/block/loop.ko":         {Aliases: []string{"devname:loop-control", "char-major-10-237", "block-major-7-*"}},
	"kernel/a/one.ko":                      {Exports: []string{"one"}, Needs: []string{"two"}},
	"kernel/a/two.ko":                      {Exports: []string{"two"}, Needs: []string{"one"}},
	"updates/twin.ko":                      {Aliases: []string{"better"}},
	"kernel/b/twin.ko":                     {Aliases: []string{"worse"}},
}

// module is an ELF file of the sections that matter (System V ABI, chapter 4).
func module(m Info) []byte {
	le := binary.LittleEndian
	var modinfo, symtab bytes.Buffer
	word := func(key string, all ...string) {
		for _, v := range all {
			modinfo.WriteString(key + "=" + v + "\x00")
		}
	}
	word("license", "GPL")
	word("alias", m.Aliases...)
	word("depends", strings.Join(m.Depends, ","))
	word("softdep", m.Soft...)
	names := []byte{0}
	symbol := func(name string, section uint16) {
		binary.Write(&symtab, le, elf.Sym64{Name: uint32(len(names)), Info: uint8(elf.STB_GLOBAL) << 4, Shndx: section}) // to memory
		names = append(append(names, name...), 0)
	}
	symtab.Write(make([]byte, elf.Sym64Size))
	for _, s := range m.Exports {
		symbol("__crc_"+s, uint16(elf.SHN_ABS))
		symbol("__ksymtab_"+s, 1)
	}
	for _, s := range m.Needs {
		symbol(s, uint16(elf.SHN_UNDEF))
	}
	const sections = "\x00.modinfo\x00.symtab\x00.strtab\x00.shstrtab\x00"
	var heads, data bytes.Buffer
	const head = 64
	section := func(name string, kind elf.SectionType, b []byte, link, info uint32, size uint64) {
		binary.Write(&heads, le, elf.Section64{Name: uint32(strings.Index(sections, "\x00"+name+"\x00") + 1), Type: uint32(kind), Off: uint64(head + data.Len()), Size: uint64(len(b)), Link: link, Info: info, Addralign: 1, Entsize: size})
		data.Write(b)
		data.Write(make([]byte, -data.Len()&7))
	}
	binary.Write(&heads, le, elf.Section64{})
	section(".modinfo", elf.SHT_PROGBITS, modinfo.Bytes(), 0, 0, 0)
	section(".symtab", elf.SHT_SYMTAB, symtab.Bytes(), 3, 1, elf.Sym64Size)
	section(".strtab", elf.SHT_STRTAB, names, 0, 0, 0)
	section(".shstrtab", elf.SHT_STRTAB, []byte(sections), 0, 0, 0)
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: uint64(head + data.Len()), Ehsize: head, Shentsize: 64, Shnum: 5, Shstrndx: 4}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var out bytes.Buffer
	binary.Write(&out, le, h)
	return slices.Concat(out.Bytes(), data.Bytes(), heads.Bytes())
}

const (
	madeBuiltin = "kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio-pci.ko\n"
	madeModinfo = "virtio.license=GPL\x00virtio.file=drivers/virtio/virtio\x00virtio_pci.alias=pci:v00001AF4d*sv*sd*bc*sc*i*\x00virtio_pci.license=GPL\x00virtio_pci.file=drivers/virtio/virtio-pci\x00"
)

// The lists are those that depmod makes of the same modules, to the byte but for the order of modules.symbols, where depmod has none.
func TestListsAreDepmods(t *testing.T) {
	depmod, err := exec.LookPath("depmod")
	if err != nil {
		depmod = "/usr/sbin/depmod"
	}
	if _, err := os.Stat(depmod); err != nil {
		t.Skip("depmod is not installed (Debian: apt-get install kmod)")
	}
	base := t.TempDir()
	dir := filepath.Join(base, "lib/modules/6.1.0-test")
	put := func(name string, b []byte) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var all []Module
	order := "kernel/fs/ext4/ext4.ko\nkernel/nowhere.ko\n"
	for _, name := range slices.Sorted(maps.Keys(madeUp)) {
		if strings.Contains(name, "/a/") || strings.Contains(name, "drivers/hid/") || strings.Contains(name, "twin") {
			continue // what depmod only complains of; of twins it keeps what the folder lists first
		}
		b := module(madeUp[name])
		got, err := Read(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		put(name, b)
		all = append(all, Module{name, got})
		if !strings.Contains(order, name) {
			order += name + "\n"
		}
	}
	put("modules.order", []byte(order))
	put("modules.builtin", []byte(madeBuiltin))
	put("modules.builtin.modinfo", []byte(madeModinfo))
	if out, err := exec.CommandContext(t.Context(), depmod, "-b", base, "6.1.0-test").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lists, circle := Lists(all, Built{[]byte(order), []byte(madeBuiltin), []byte(madeModinfo)})
	if len(lists) != 10 || circle != nil {
		t.Errorf("%d lists, a circle of %v", len(lists), circle)
	}
	for name, got := range lists {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "modules.symbols" {
			got, want = sorted(got), sorted(want)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is\n%q\nwant\n%q", name, got, want)
		}
	}
}

func sorted(b []byte) []byte {
	return []byte(strings.Join(slices.Sorted(slices.Values(strings.SplitAfter(string(b), "\n"))), ""))
}

// A circle and what no index can hold are left out, and the rest is there.
func TestListsOfOddModules(t *testing.T) {
	var all []Module
	for name := range maps.Keys(madeUp) {
		all = append(all, Module{name, madeUp[name]})
	}
	lists, circle := Lists(all, Built{})
	if slices.Sort(circle); !slices.Equal(circle, []string{"one", "two"}) {
		t.Errorf("the circle is %v", circle)
	}
	for _, line := range []string{"kernel/a/one.ko:\n", "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko\n", "updates/twin.ko:\n"} {
		if !strings.Contains(string(lists["modules.dep"]), line) {
			t.Errorf("modules.dep lacks %q", line)
		}
	}
	if strings.Contains(string(lists["modules.dep"]), "kernel/b/twin.ko") {
		t.Error("both twins are in modules.dep")
	}
	if i := bytes.Index(lists["modules.alias.bin"], []byte("roken")); i >= 0 {
		t.Error("a pattern without its end is in the index")
	}
}
