package payload

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strconv"
	"testing"

	"github.com/cavaliergopher/cpio"
)

// An independent reader must find what the writer meant.
func TestInitramfsReadsBack(t *testing.T) {
	agent := []byte("\x7fELF: eleven")
	b, err := Initramfs(agent)
	if err != nil {
		t.Fatal(err)
	}
	r := cpio.NewReader(bytes.NewReader(b))
	for i, want := range initramfs(agent) {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("entry %d (%s): %v", i, want.name, err)
		}
		if h.Name != want.name || uint32(h.Mode) != want.mode || h.Size != int64(len(want.data)) {
			t.Errorf("entry %d = %s %o %d bytes, want %s %o %d bytes", i, h.Name, h.Mode, h.Size, want.name, want.mode, len(want.data))
		}
		if h.Inode != int64(i+1) || h.ModTime.Unix() != 0 || h.Uid != 0 || h.Guid != 0 {
			t.Errorf("%s: inode %d, time %v, owner %d:%d; want %d, the epoch, 0:0", h.Name, h.Inode, h.ModTime, h.Uid, h.Guid, i+1)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, want.data) {
			t.Errorf("%s holds %q, want %q", h.Name, data, want.data)
		}
	}
	if h, err := r.Next(); err != io.EOF {
		t.Errorf("after the last entry: %v, %v, want the end", h, err)
	}
}

// The cpio reader drops device numbers, so they are read from the header's fields
// 10 and 11 (counted from 1, after the magic).
func TestInitramfsDevices(t *testing.T) {
	b, err := Initramfs([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][2]uint64{"dev/console": {5, 1}, "dev/null": {1, 3}} {
		at := bytes.Index(b, []byte(name+"\x00")) - 110
		if at < 0 {
			t.Fatalf("no %s in the archive", name)
		}
		field := func(n int) uint64 {
			v, err := strconv.ParseUint(string(b[at+6+8*(n-1):at+6+8*n]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		if got := [2]uint64{field(10), field(11)}; got != want {
			t.Errorf("%s = %d:%d, want %d:%d", name, got[0], got[1], want[0], want[1])
		}
	}
}

// The bytes are part of what a boot is made of: they change only on purpose.
func TestInitramfsGolden(t *testing.T) {
	const want = "8ba5fd4d7912809c8a505bd60ca30901421523368c6b428353557019e1f837d4"
	b, err := Initramfs([]byte("agent"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("initramfs of a fixed agent is now %s, was %s", got, want)
	}
}

func TestInitramfsWithoutAgent(t *testing.T) {
	if _, err := Initramfs(nil); err == nil {
		t.Error("an initramfs without an agent was made")
	}
}
