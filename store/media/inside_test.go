package media

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"carte/lab"
)

// packedFiles is a tar of regular files, name and text by turns.
func packedFiles(t testing.TB, all ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(all); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: all[i], Mode: 0o755, Size: int64(len(all[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, all[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A whole disk is looked into: a partition for /boot beside the system's.
func TestWhatIsInsideADisk(t *testing.T) {
	const size = 64 * mib
	at := []int64{1 * mib, 1*mib + size}
	disk := make([]byte, 1*mib+2*size)
	disk[510], disk[511], disk[0] = 0x55, 0xaa, 0xfa
	for i, files := range [][]byte{
		packedFiles(t, "vmlinuz-6.1.0-9-amd64", "x", "vmlinuz-6.10.0-1-amd64", "x", "grub/grub.cfg", "linux /vmlinuz-6.1 root=/dev/sda2 ro quiet\n"),
		packedFiles(t, "sbin/init", "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00", "boot/.keep", "", "etc/inittab", "T0:23:respawn:/sbin/getty ttyS0\n"),
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "part"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := Tree(t.Context(), bytes.NewReader(files), f, TreeOptions{UUID: [16]byte{byte(i + 1)}, Size: size}); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(disk[at[i]:at[i]+size], 0); err != nil {
			t.Fatal(err)
		}
		e := disk[446+16*i:]
		e[4] = 0x83
		binary.LittleEndian.PutUint32(e[8:], uint32(at[i]/Sector))
		binary.LittleEndian.PutUint32(e[12:], size/Sector)
	}
	r := bytes.NewReader(disk)
	facts, err := Sniff(r, int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	in, roots, err := DiskInside(t.Context(), r, facts)
	if err != nil || in.Arch != "amd64" || in.Init != "/sbin/init" || !in.Serial || !slices.Equal(in.Kernels, []string{"6.10.0-1-amd64", "6.1.0-9-amd64"}) ||
		!slices.Equal(in.Firmware, []lab.Firmware{lab.BIOS}) || !slices.Equal(roots, []string{"/dev/sda2"}) {
		t.Errorf("%+v, %v, %v", in, roots, err)
	}
}

// The files of a Debian package are those that it installs, however they are packed.
func TestDebianPackage(t *testing.T) {
	data := packedFiles(t, "boot/vmlinuz-6.1", "x", "lib/modules/6.1/a.ko", "y")
	pack := func(name string, b []byte) []byte {
		out := []byte("!<arch>\n")
		for _, m := range []struct {
			name string
			b    []byte
		}{{"debian-binary", []byte("2.0\n")}, {"control.tar.xz", []byte("odd")}, {name, b}} {
			out = append(fmt.Appendf(out, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, 0, 0, 0, 0o100644, len(m.b)), m.b...)
			out = append(out, "\n"[:len(m.b)%2]...)
		}
		return out
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(data); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	for format, b := range map[string][]byte{"tar in deb": pack("data.tar", data), "tar in gzip in deb": pack("data.tar.gz", packed.Bytes())} {
		src, err := OpenReader(t.Context(), bytes.NewReader(b), "x.deb", "")
		if err != nil || src.Format != format {
			t.Fatalf("%+v, %v, want %s", src, err, format)
		}
		files, err := ReadFiles(t.Context(), src, "")
		if err != nil || files.at("lib/modules/6.1/a.ko") == nil {
			t.Errorf("%s: %v", format, err)
		}
		for _, cut := range []int{30, 70, 100, len(b) / 2} {
			src, err := OpenReader(t.Context(), bytes.NewReader(b[:cut]), "x.deb", "")
			if err == nil {
				_, err = ReadFiles(t.Context(), src, "")
			}
			if !errors.Is(err, lab.ErrDamaged) {
				t.Errorf("%s cut at %d of %d: %v", format, cut, len(b), err)
			}
		}
	}
}

func TestUnpackStaysInside(t *testing.T) {
	for to, out := range map[string]bool{
		"b": false, "../a/b": false, "./b/c": false, "..": false, "../..": true, "../../x": true, "/etc": true, "": true, "b/../..": true, "b/..": true, "../x/../y": true,
	} {
		if got := leadsOut("dir", to); got != out {
			t.Errorf("a link to %q in dir leads out: %v", to, got)
		}
	}
	dir := t.TempDir()
	many := packedFiles(t, "a", "1", "b", "2", "c", "3")
	if _, _, err := Unpack(t.Context(), bytes.NewReader(many), dir, 2, 0); !errors.Is(err, lab.ErrRefused) {
		t.Errorf("three files where two are the most: %v", err)
	}
	if _, _, err := Unpack(t.Context(), bytes.NewReader(many), t.TempDir(), 3, 1<<60); !errors.Is(err, lab.ErrRefused) || !strings.Contains(err.Error(), "free") {
		t.Errorf("no room: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(packedFiles(f, "a", "1", "deep/b", "2"))
	f.Add(packedFiles(f, "../a", "1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		inside := filepath.Join(dir, "in")
		if err := os.Mkdir(inside, 0o700); err != nil {
			t.Fatal(err)
		}
		_, _, _ = Unpack(t.Context(), io.LimitReader(bytes.NewReader(b), 1<<20), inside, 20, 0)
		if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
			t.Errorf("it wrote outside: %v, %v", all, err)
		}
	})
}

func FuzzSniffProgram(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00"))
	f.Add(append([]byte("MZ"), make([]byte, 0x300)...))
	f.Add([]byte{0x02, 0xb0, 0xad, 0x1b, 0, 0, 0, 0, 0xfe, 0x4f, 0x52, 0xe4})
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := SniffProgram(b); ok && p.Starts == "" {
			t.Errorf("%+v", p)
		}
	})
}
