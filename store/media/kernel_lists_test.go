package media

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ko is a module that says words of itself, and nothing else.
func ko(words ...string) []byte {
	const names = "\x00.modinfo\x00.shstrtab\x00"
	text := strings.Join(words, "\x00") + "\x00"
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: uint64(64 + len(text) + len(names)), Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	for _, x := range []any{h, []byte(text), []byte(names), elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(text)), Addralign: 1},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(text)), Size: uint64(len(names)), Addralign: 1}} {
		if err := binary.Write(&b, binary.LittleEndian, x); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

// squeezed packs b with what open makes.
func squeezed(t *testing.T, b []byte, open func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := open(&out)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// kernelFiles are those of a tar with a kernel and what else is told, as a kernel image has them.
func kernelFiles(t *testing.T, more map[string][]byte) (*Files, KernelFacts) {
	t.Helper()
	kernel := make([]byte, 1024)
	binary.LittleEndian.PutUint16(kernel[0x1fe:], 0xaa55)
	copy(kernel[0x202:], "HdrS\x0f\x02")
	binary.LittleEndian.PutUint16(kernel[0x20e:], 0x100)
	copy(kernel[0x300:], "6.1-x (somebody)\x00")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(name string, data []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	put("boot/vmlinuz-6.1-x", kernel)
	for name, data := range more {
		put("lib/modules/6.1-x/"+name, data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := ReadFiles(t.Context(), &b, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	k, err := f.Kernel("")
	if err != nil {
		t.Fatal(err)
	}
	return f, k
}

// Modules that come without lists get them, whatever they are packed in; what is no module is named and left out. Lists that are there stay.
func TestKernelsGetModuleLists(t *testing.T) {
	all := map[string][]byte{
		"kernel/a.ko":      ko("alias=net-a", "depends="),
		"kernel/b.ko.xz":   squeezed(t, ko("alias=net-b"), func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }),
		"kernel/c.ko.zst":  squeezed(t, ko("alias=net-c", "softdep=pre: a"), func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }),
		"kernel/d-e.ko.gz": squeezed(t, ko("alias=net-d"), func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		"kernel/bad.ko.xz": []byte("text"),
		"modules.order":    []byte("kernel/d-e.ko\nkernel/a.ko\n"),
		"modules.builtin":  []byte("kernel/fs/ext4/ext4.ko\n"),
	}
	f, k := kernelFiles(t, all)
	if k.Made != 4 || k.Modules != 5 || len(k.Unlisted) != 1 || !strings.Contains(k.String(), "made modules.dep of 4 modules") || !strings.Contains(strings.Join(k.Warnings(), "\n"), "kernel/bad.ko.xz") {
		t.Errorf("%+v; %s; %q", k, k, k.Warnings())
	}
	for name, want := range map[string]string{
		"modules.dep":         "kernel/d-e.ko.gz:\nkernel/a.ko:\nkernel/b.ko.xz:\nkernel/c.ko.zst:\n",
		"modules.alias":       "# Aliases extracted from modules themselves.\nalias net-d d_e\nalias net-a a\nalias net-b b\nalias net-c c\n",
		"modules.softdep":     "# Soft dependencies extracted from modules themselves.\nsoftdep c pre: a\n",
		"modules.order":       string(all["modules.order"]),
		"modules.builtin.bin": "",
	} {
		got, err := f.read("lib/modules/6.1-x/"+name, maxText)
		if err != nil || want != "" && string(got) != want || len(got) == 0 {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	delete(all, "kernel/bad.ko.xz")
	all["modules.dep"], all["modules.dep.bin"] = []byte("kernel/a.ko:\n"), []byte("index")
	f, k = kernelFiles(t, all)
	if got, err := f.read("lib/modules/6.1-x/modules.dep.bin", maxText); k.Made != 0 || err != nil || string(got) != "index" || len(k.Warnings()) > 0 {
		t.Errorf("%q, %v; %+v, %q", got, err, k, k.Warnings())
	}
	if _, k = kernelFiles(t, map[string][]byte{"kernel/bad.ko": []byte("text")}); k.Made != 0 || !strings.Contains(strings.Join(k.Warnings(), "\n"), "modules.dep is missing and could not be made") {
		t.Errorf("%+v, %q", k, k.Warnings())
	}
}
