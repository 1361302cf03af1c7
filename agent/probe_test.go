package agent

import (
	"bytes"
	"errors"
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
	copy(two[2<<20+510:], "\x55\xaa")
	fat := put(n, 82, "FAT32   ")
	copy(fat[510:], "\x55\xaa")
	chain := mbr(0x83, 0x05)
	chain[446+16+13] = 32
	copy(chain[2<<20+446:], chain[446:462]) // 1 MiB behind where it is itself
	copy(chain[2<<20+510:], "\x55\xaa")
	copy(chain[3<<20:], "XFSB")
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
		{`MBR with 2 partitions: ext2 "root [31m", vfat "EFI"`, two},
		{"MBR with 1 partition: blank", mbr(0x83)},
		{"MBR without partitions", mbr()},
		{"MBR with 2 partitions: blank, xfs", chain},
		{"vfat", fat},
		{"xfs", put(n, 0, "XFSB")},
		{"btrfs", put(n, 64<<10+64, "_BHRfS_M")},
		{"ntfs", put(n, 3, "NTFS    ")},
		{"lvm", put(n, 512, "LABELONE")},
		{"luks", put(n, 0, "LUKS\xba\xbe")},
		{"swap", put(n, 4086, "SWAPSPACE2")},
		{"GPT, damaged", put(n, 512, "EFI PART")},
	} {
		if got := contents(bytes.NewReader(tt.disk), int64(len(tt.disk))); got != tt.want {
			t.Errorf("contents = %q, want %q", got, tt.want)
		}
	}
}

type brokenDisk struct{}

func (brokenDisk) ReadAt([]byte, int64) (int, error) { return 0, errors.New("medium error") }

// A disk that cannot be read is not a blank one.
func TestContentsUnreadable(t *testing.T) {
	if got := contents(brokenDisk{}, 1<<30); !strings.Contains(got, "medium error") {
		t.Errorf("contents = %q", got)
	}
}

// Whatever is on a disk, looking at it ends, and with one line.
func FuzzContents(f *testing.F) {
	f.Add(mbr(0x83, 0x83))
	f.Add(put(1<<16, 4096, "EFI PART"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := contents(bytes.NewReader(b), int64(len(b))); strings.ContainsAny(got, "\n\r\x1b") {
			t.Errorf("contents = %q", got)
		}
	})
}
