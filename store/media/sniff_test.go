package media

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

const mib = 1 << 20

// partitioned makes a disk of 40 MiB with a table by sfdisk, a FAT at 1 MiB and an ext4 at 21 MiB.
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
	torn := bytes.Clone(gpt)
	torn[1024+200]++
	for _, c := range []struct {
		name, want string
		b          []byte
	}{
		{"gpt", `gpt, 1: vfat "ESP" (EFI), 2: ext4 "root", boots UEFI`, gpt},
		{"gpt with boot code", `gpt, 1: vfat "ESP" (EFI), 2: ext4 "root", boots BIOS and UEFI`, bios},
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
