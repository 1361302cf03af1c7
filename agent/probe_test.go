package agent

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// put returns n zeros with text at a place.
func put(n, at int, text string) []byte {
	b := make([]byte, n)
	copy(b[at:], text)
	return b
}

// mbr makes a disk with two partitions of 1 MiB.
func mbr(types ...byte) []byte {
	b := make([]byte, 8<<20)
	for i, kind := range types {
		e := b[446+16*i:]
		e[4] = kind
		e[8], e[9] = 0, byte(8*(i+1)) // 1 MiB times i+1, in blocks of 512
		e[12], e[13] = 0, 8
	}
	b[510], b[511] = 0x55, 0xaa
	return b
}

func TestContents(t *testing.T) {
	const n = 4 << 20
	two := mbr(0x83, 0x0c)
	copy(two[1<<20+1024+56:], "\x53\xef")
	copy(two[1<<20+1024+120:], "root\x1b[31m\x00junk")
	copy(two[2<<20+82:], "FAT32   ")
	copy(two[2<<20+71:], "EFI        ")
	fat := put(n, 82, "FAT32   ")
	fat[510], fat[511] = 0x55, 0xaa
	for _, tt := range []struct {
		want string
		disk []byte
	}{
		{"", make([]byte, n)},
		{"", nil},
		{"", make([]byte, 512)},
		{"", put(n, n/2, "in the middle, where nobody looks")},
		{"data of an unknown kind", put(n, 100, "x")},
		{"data of an unknown kind", put(n, n-1, "x")},
		{`MBR with 2 partitions: ext4 "root [31m", vfat "EFI"`, two},
		{"MBR with 1 partition: blank", mbr(0x83)},
		{"MBR without partitions", mbr()},
		{"vfat", fat},
		{"xfs", put(n, 0, "XFSB")},
		{"btrfs", put(n, 64<<10+64, "_BHRfS_M")},
		{"ntfs", put(n, 3, "NTFS    ")},
		{"lvm", put(n, 536, "LVM2 001")},
		{"luks", put(n, 0, "LUKS\xba\xbe")},
		{"swap", put(n, 4086, "SWAPSPACE2")},
		{"GPT, damaged", put(n, 512, "EFI PART")},
	} {
		if got := contents(bytes.NewReader(tt.disk), int64(len(tt.disk)), 512); got != tt.want {
			t.Errorf("contents = %q, want %q", got, tt.want)
		}
	}
}

type brokenDisk struct{}

func (brokenDisk) ReadAt([]byte, int64) (int, error) { return 0, errors.New("medium error") }

// A disk that cannot be read is not a blank one.
func TestContentsUnreadable(t *testing.T) {
	if got := contents(brokenDisk{}, 1<<30, 512); !strings.Contains(got, "medium error") {
		t.Errorf("contents = %q", got)
	}
}

// Whatever is on a disk, looking at it ends, and with one line.
func FuzzContents(f *testing.F) {
	f.Add(mbr(0x83, 0x83), 512)
	f.Add(put(1<<16, 4096, "EFI PART"), 4096)
	f.Fuzz(func(t *testing.T, b []byte, block int) {
		if block != 512 && block != 4096 {
			block = 512
		}
		for _, r := range []io.ReaderAt{bytes.NewReader(b)} {
			if got := contents(r, int64(len(b)), block); strings.ContainsAny(got, "\n\r\x1b") {
				t.Errorf("contents = %q", got)
			}
		}
	})
}
