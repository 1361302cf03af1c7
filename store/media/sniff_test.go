package media

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

const mib = 1 << 20

// partitioned makes a disk of 40 MiB with a table by sfdisk, a FAT with a loader for UEFI at 1 MiB and an ext4 at 21 MiB.
func partitioned(t *testing.T, script string) []byte {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	file := func(name string, size int64) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(p, size); err != nil {
			t.Fatal(err)
		}
		return p
	}
	file("disk", 40*mib)
	fat, ext := file("fat", 20*mib), file("ext", 10*mib)
	run(t, need(t, "mkfs.vfat"), "-n", "ESP", "-i", "CA27E001", fat)
	into(t, fat, "EFI/BOOT/BOOTX64.EFI")
	run(t, need(t, "mke2fs"), "-q", "-t", "ext4", "-L", "root", "-U", "ca27e001-0203-4405-8607-08090a0b0c0d", ext)
	cmd := exec.Command(need(t, "sfdisk"), "-q", path)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]int{fat: mib, ext: 21 * mib} {
		part, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		copy(b[at:], part)
	}
	return b
}

func TestSniffDisks(t *testing.T) {
	gpt := partitioned(t, "label: gpt\nstart=2048,size=40960,type=uefi,name=boot\nstart=43008,size=20480,type=linux,name=system\n")
	mbr := partitioned(t, "label: dos\nstart=2048,size=40960,type=c\nstart=43008,size=20480,type=83\n")
	bios := bytes.Clone(gpt)
	copy(bios, "\xeb\x63\x90 boot code")
	bare := make([]byte, mib)
	copy(bare, "\xeb\x63\x90 boot code")
	copy(bare[510:], "\x55\xaa")
	unmade := bytes.Clone(gpt)
	clear(unmade[mib : 21*mib])
	torn := bytes.Clone(gpt)
	torn[1024+200]++
	for _, c := range []struct {
		name, want string
		b          []byte
	}{
		{"gpt", `gpt, 1: vfat "ESP" (EFI), 2: ext4 "root", boots UEFI`, gpt},
		{"gpt with boot code", `gpt, 1: vfat "ESP" (EFI), 2: ext4 "root", boots BIOS and UEFI`, bios},
		{"gpt, nothing in it", `gpt, 1: EFI system, 2: ext4 "root", no boot loader`, unmade},
		{"mbr", `mbr, 1: vfat "ESP", 2: ext4 "root", no boot loader`, mbr},
		{"torn", `gpt, 1: vfat "ESP" (EFI), 2: ext4 "root", boots UEFI, the partition table is damaged; this is what its copy at the end says`, torn},
		{"short", `gpt, 1: vfat "ESP" (EFI), 2: Linux, boots UEFI, partition 1 ends 1048576 bytes behind the end of the image`, gpt[:20*mib]},
		{"fat", `no partition table, vfat "ESP", no boot loader`, gpt[mib : 21*mib]},
		{"ext4", `no partition table, ext4 "root", no boot loader`, gpt[21*mib : 31*mib]},
		{"boot code only", "no partition table, no known file system, boots BIOS", bare},
		{"zeros", "no partition table, no known file system, no boot loader", make([]byte, mib)},
		{"nothing", "no partition table, no known file system, no boot loader", nil},
		{"noise", "no partition table, no known file system, no boot loader", sample(mib)},
	} {
		f, err := Sniff(bytes.NewReader(c.b), int64(len(c.b)))
		if err != nil || f.String() != c.want {
			t.Errorf("%s: %v, %v\nwant %s", c.name, f, err, c.want)
		}
		if c.name == "gpt" && (f.Parts[1].FS.UUID != "ca27e001-0203-4405-8607-08090a0b0c0d" || f.Parts[1].FS.Size != 10*mib ||
			f.Parts[1].Name != "system" || f.Parts[1].Start != 21*mib || f.Parts[1].Size != 10*mib || f.Parts[0].FS.UUID != "CA27-E001") {
			t.Errorf("gpt: %+v", f.Parts)
		}
	}
}

// into puts files into a FAT.
func into(t *testing.T, fat string, files ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, sample(5000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		for i := range path {
			if path[i] == '/' {
				if err := exec.Command(need(t, "mmd"), "-D", "s", "-i", fat, "::/"+path[:i]).Run(); err != nil {
					t.Logf("%s is there", path[:i])
				}
			}
		}
		run(t, need(t, "mcopy"), "-i", fat, file, "::/"+path)
	}
}

// A loader counts where UEFI finds it by itself, in every kind of FAT and in folders of many clusters.
func TestSniffLoader(t *testing.T) {
	var many []string
	for i := range 90 {
		many = append(many, fmt.Sprintf("EFI/a folder with a long name %d", i))
	}
	for _, kind := range [][]string{{"-F", "12", "-s", "1"}, {"-F", "16", "-s", "1"}, {"-F", "32", "-s", "1"}} {
		for _, c := range []struct {
			files []string
			want  bool
		}{
			{nil, false},
			{[]string{"BOOTX64.EFI"}, false},
			{[]string{"EFI/debian/grubx64.efi"}, false},
			{[]string{"EFI/BOOT/grub.cfg", "EFI/BOOT/grubx64.efi"}, false},
			{[]string{"EFI/BOOT/bootx64.efi/odd"}, false},
			{[]string{"BOOT/BOOTX64.EFI"}, false},
			{[]string{"efi/boot/bootx64.efi"}, true},
			{[]string{"EFI/BOOT/fbx64.efi", "EFI/BOOT/BOOTIA32.EFI"}, true},
			{[]string{"EFI/Boot/bootriscv64.efi"}, true},
			{append(many, "EFI/BOOT/BOOTX64.EFI"), true},
		} {
			fat := filepath.Join(t.TempDir(), "fat")
			if err := os.WriteFile(fat, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			size := map[string]int64{"12": 2 * mib, "16": 10 * mib, "32": 40 * mib}[kind[1]]
			if err := os.Truncate(fat, size); err != nil {
				t.Fatal(err)
			}
			run(t, need(t, "mkfs.vfat"), append(kind, fat)...)
			into(t, fat, c.files...)
			b, err := os.ReadFile(fat)
			if err != nil {
				t.Fatal(err)
			}
			const at = 3 * Sector // not at the beginning of the disk
			d := &disk{r: bytes.NewReader(append(make([]byte, at), b...)), size: at + size}
			if got := d.loader(at, size); got != c.want || d.err != nil {
				t.Errorf("FAT%s with %d files, the last %v: %v, %v", kind[1], len(c.files), c.files[max(0, len(c.files)-1):], got, d.err)
			}
		}
	}
}

// A folder that has no end, and whatever else is in a FAT, ends.
func FuzzLoader(f *testing.F) {
	b := make([]byte, 40<<10)
	copy(b[11:], "\x00\x02\x01\x01\x00\x01\x00\x00\x50\x00") // FAT32: sectors of 512, clusters of one, one table
	b[36], b[44] = 1, 2
	copy(b[510:], "\x55\xaa")
	copy(b[512+8:], "\x02\x00\x00\x00") // cluster 2 follows cluster 2
	for i := 1024; i < 1536; i += 32 {
		copy(b[i:], "FILE    TXT")
	}
	f.Add(b)
	b = bytes.Clone(b)
	copy(b[1024:], "EFI        \x10")
	copy(b[1024+26:], "\x03\x00")
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &disk{r: bytes.NewReader(b), size: int64(len(b))}
		d.loader(0, d.size)
		if d.err != nil {
			t.Error(d.err)
		}
	})
}

func TestSniffSaysWhatTheReaderSays(t *testing.T) {
	broken := errors.New("i/o error")
	r := readerAt{iotest.ErrReader(broken)}
	if _, err := Sniff(r, mib); !errors.Is(err, broken) {
		t.Errorf("Sniff of what cannot be read: %v", err)
	}
}

type readerAt struct{ io.Reader }

func (r readerAt) ReadAt(p []byte, _ int64) (int, error) { return r.Read(p) }

func FuzzSniff(f *testing.F) {
	b := make([]byte, 70<<10)
	copy(b[510:], "\x55\xaa")
	copy(b[512:], "EFI PART")
	b[512+72], b[512+80], b[512+84] = 2, 128, 128
	f.Add(b, int64(1<<40))
	f.Add(b[:600], int64(512))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		facts, err := Sniff(bytes.NewReader(b), size)
		if err != nil {
			t.Errorf("%v", err)
		}
		_ = facts.String()
	})
}
