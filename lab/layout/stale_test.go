package layout

import (
	"bytes"
	"strings"
	"testing"
)

// Why the log of an empty journal is stale rather than free. An image is laid onto a disk that ran it before, and the log of
// that earlier life is left where it was. The second life logs one transaction and crashes; what replays it goes on with the
// transaction that came next in the first life, and overwrites a block of the second. Zeros end it.
func TestStaleLog(t *testing.T) {
	const at, victim = 6000, 6001 // free blocks
	path := empty(t, 12*mib)
	call(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", path)
	image := load(t, path)
	m := readMap(t, image)
	if len(m.Stale) == 0 || !m.Cover(at*1024, 2048) {
		t.Fatalf("%+v", m)
	}
	write := func(b []byte, commands string) []byte {
		save(t, path, b)
		call(t, commands, "debugfs", "-w", "-f", "/dev/stdin", path)
		return load(t, path)
	}
	// One block of text for each transaction.
	first, second := empty(t, 0), empty(t, 0)
	save(t, first, bytes.Repeat([]byte("first "), 1024/6+1)[:1024])
	save(t, second, bytes.Repeat([]byte("second"), 1024/6+1)[:1024])
	life1 := write(image, "jo\njw -b 6000 "+first+"\njw -b 6001 "+second+"\njc\n")
	if got := readMap(t, life1); len(got.Free)+len(got.Stale) > 0 {
		t.Errorf("a crashed system: %#v", got.Systems)
	}
	for _, zeroed := range []bool{false, true} {
		again := bytes.Clone(life1) // what the disk holds where nothing is written
		for _, e := range without([]Extent{{0, int64(len(image))}}, merged(append(append([]Extent(nil), m.Free...), m.Stale...))) {
			copy(again[e.Off:e.Off+e.Bytes], image[e.Off:])
		}
		if zeroed {
			m.Blank(again, 0)
		}
		again = write(again, "jo\njw -b 6000 "+first+"\njc\n")
		clear(again[victim*1024:][:1024])
		save(t, path, again)
		call(t, "", "e2fsck", "-fy", "-E", "journal_only", path)
		got := load(t, path)
		if !strings.HasPrefix(string(got[at*1024:]), "first first") {
			t.Error("its own transaction was not replayed")
		}
		if replayed := strings.HasPrefix(string(got[victim*1024:]), "secondsecond"); replayed == zeroed {
			t.Errorf("log zeroed: %v; the other life's transaction was replayed: %v", zeroed, replayed)
		}
	}
}
