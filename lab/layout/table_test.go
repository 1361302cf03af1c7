package layout

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// table makes a disk with a table. fdisk reads sfdisk's scripts, and knows blocks of other lengths than the file's own.
func table(t testing.TB, size int64, block int, script string) (path string, disk []byte) {
	t.Helper()
	path = empty(t, size)
	plan := path + ".plan"
	save(t, plan, []byte(script))
	call(t, "I\n"+plan+"\nw\n", "fdisk", "-b", fmt.Sprint(block), path)
	return path, load(t, path)
}

// verified says what fdisk finds wrong with a disk.
func verified(t testing.TB, path string, block int) string {
	t.Helper()
	out := call(t, "v\nq\n", "fdisk", "-b", fmt.Sprint(block), path)
	if strings.Contains(out, "No errors detected") {
		return ""
	}
	return out
}

const gptScript = "label: gpt\nlabel-id: CA27E001-0203-4405-8607-08090A0B0C0D\n" +
	"start=%d,size=%d,type=uefi,name=boot,uuid=CA27E001-0203-4405-8607-08090A0B0C01\n" +
	"start=%d,size=%d,type=linux,name=\"the système\",uuid=CA27E001-0203-4405-8607-08090A0B0C02\n"

func script(block int64) string {
	return fmt.Sprintf(gptScript, mib/block, 8*mib/block, 9*mib/block, 20*mib/block)
}

func readTable(t testing.TB, b []byte) Table {
	t.Helper()
	got, err := ReadTable(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestReadGPT(t *testing.T) {
	for _, block := range []int64{512, 4096} {
		_, b := table(t, 40*mib, int(block), script(block))
		got := readTable(t, b)
		array := 128 * 128 / block
		want := Table{
			Kind: "gpt", Block: int(block), ID: "ca27e001-0203-4405-8607-08090a0b0c0d",
			First: got.First, Last: 40*mib - (1+array)*block, Copy: 40*mib - block, CopyBytes: (1 + array) * block,
			Parts: []Partition{
				{1, mib, 8 * mib, TypeESP, "boot", "ca27e001-0203-4405-8607-08090a0b0c01"},
				{2, 9 * mib, 20 * mib, "Linux", "the système", "ca27e001-0203-4405-8607-08090a0b0c02"},
			},
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || got.First < (2+array)*block || got.First > mib {
			t.Errorf("block %d: %+v\nwant %+v", block, got, want)
		}
		if end := End(got); end != 29*mib+(1+array)*block {
			t.Errorf("block %d: end %d", block, end)
		}
		for name, damage := range map[string]func([]byte){
			"entries": func(b []byte) { b[2*block+200]++ },
			"header":  func(b []byte) { b[block+40]++ },
			"zeros":   func(b []byte) { clear(b[:mib]) },
		} {
			torn := bytes.Clone(b)
			damage(torn)
			got := readTable(t, torn)
			if !got.Backup || got.Note == "" || got.Copy != want.Copy || fmt.Sprint(got.Parts) != fmt.Sprint(want.Parts) {
				t.Errorf("block %d, damaged %s: %+v", block, name, got)
			}
			clear(torn[len(torn)-int(want.CopyBytes):])
			got = readTable(t, torn)
			if kind := map[bool]string{true: "", false: "gpt"}[name == "zeros"]; got.Kind != kind || len(got.Parts) > 0 || (got.Note == "") != (kind == "") {
				t.Errorf("block %d, damaged %s and no copy: %+v", block, name, got)
			}
		}
	}
}

func TestReadMBR(t *testing.T) {
	const text = "label: dos\nlabel-id: 0xca27e001\nstart=2048,size=20480,type=c,bootable\nstart=22528,size=40960,type=5\n" +
		"start=24576,size=8192,type=83\nstart=34816,size=8192,type=82\nstart=45056,size=4096,type=83\nstart=65536,size=2048,type=83\n"
	_, b := table(t, 40*mib, 512, text)
	got := readTable(t, b)
	want := []Partition{
		{1, mib, 10 * mib, "FAT", "", ""}, {2, 11 * mib, 20 * mib, TypeExtended, "", ""}, {3, 32 * mib, mib, "Linux", "", ""},
		{5, 12 * mib, 4 * mib, "Linux", "", ""}, {6, 17 * mib, 4 * mib, "Linux swap", "", ""}, {7, 22 * mib, 2 * mib, "Linux", "", ""},
	}
	if got.Kind != "mbr" || got.Block != 512 || got.ID != "ca27e001" || got.Note != "" || fmt.Sprint(got.Parts) != fmt.Sprint(want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if End(got) != 33*mib {
		t.Errorf("end %d", End(got))
	}
	broken := bytes.Clone(b)
	broken[17*mib-mib+510] = 0 // the second link lies a MiB before its partition
	if got := readTable(t, broken); got.Note == "" || len(got.Parts) != 4 {
		t.Errorf("broken chain: %+v", got)
	}
	ring := bytes.Clone(b)
	copy(ring[16*mib+446+16:], ring[11*mib+446+16:][:16]) // the second names itself as the next
	if got := readTable(t, ring); got.Note == "" || len(got.Parts) > 200 {
		t.Errorf("a ring: %d partitions, %q", len(got.Parts), got.Note)
	}
}

func TestReadNoTable(t *testing.T) {
	signed := make([]byte, mib)
	copy(signed[510:], "\x55\xaa")
	code := bytes.Clone(signed)
	copy(code[446:], "this is text, not a table of partitions, whatever follows")
	fat := empty(t, 20*mib)
	call(t, "", "mkfs.vfat", fat)
	for _, c := range []struct {
		name, kind string
		b          []byte
	}{
		{"nothing", "", nil}, {"a byte", "", []byte{1}}, {"zeros", "", make([]byte, mib)}, {"noise", "", junk(1, mib)},
		{"an empty MBR", "mbr", signed}, {"text", "", code}, {"FAT", "", load(t, fat)},
	} {
		if got := readTable(t, c.b); got.Kind != c.kind || len(got.Parts) > 0 {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	// mkfs on a whole disk leaves the backup of the table that was there.
	_, b := table(t, 40*mib, 512, script(512))
	path := empty(t, 40*mib)
	save(t, path, b)
	call(t, "", "mkfs.ext4", "-q", "-F", path)
	if got := readTable(t, load(t, path)); got.Kind != "" {
		t.Errorf("a file system over a table: %+v", got)
	}
}

type broken struct{}

var errBroken = errors.New("medium error")

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errBroken }

func TestReadErrors(t *testing.T) {
	if _, err := ReadTable(broken{}, mib); !errors.Is(err, errBroken) {
		t.Errorf("ReadTable: %v", err)
	}
	if _, err := Read(t.Context(), broken{}, mib); !errors.Is(err, errBroken) {
		t.Errorf("Read: %v", err)
	}
	if _, err := Identify(broken{}, 0, mib); !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "byte 0") {
		t.Errorf("Identify: %v", err)
	}
}

func FuzzReadTable(f *testing.F) {
	b := make([]byte, 70<<10)
	copy(b[510:], "\x55\xaa")
	f.Add(bytes.Clone(b), int64(1<<40))
	for i := range 3 {
		copy(b[446+16*i:], "\x80\x00\x00\x00\x05\x00\x00\x00\x01\x00\x00\x00\x80\x00\x00\x00")
	}
	f.Add(bytes.Clone(b), int64(len(b)))
	copy(b[512:], "EFI PART")
	b[512+72], b[512+80], b[512+84] = 2, 128, 128
	f.Add(b, int64(1<<40))
	f.Add(b[:600], int64(512))
	if head, _, _, err := Make(1<<20, 512, [16]byte{1}, Entry{Off: 64 << 10, Bytes: 1000, Type: LinuxData}); err == nil {
		f.Add(head, int64(1<<20))
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		x, err := ReadTable(bytes.NewReader(b), size)
		if err != nil || len(x.Parts) > gptArray/128 {
			t.Errorf("%d partitions, %v", len(x.Parts), err)
		}
		for _, block := range []int{512, 4096} {
			_, _, _, _, _ = Amend(b, block, size, 0)
			_, _, _, _, _ = GrowLast(b, block, size, size/2)
		}
	})
}
