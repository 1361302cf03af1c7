package agent

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRootOf(t *testing.T) {
	for line, want := range map[string]root{
		"root=UUID=abc rw quiet":                           {spec: "UUID=abc", kind: "ext4"},
		"root=/dev/sda1 root=LABEL=x ro rootflags=noatime": {spec: "LABEL=x", kind: "ext4", flags: unix.MS_RDONLY, options: "noatime"},
		"rootfstype=xfs root=/dev/vda3 rw ro init=/bin/sh": {spec: "/dev/vda3", kind: "xfs", flags: unix.MS_RDONLY, init: "/bin/sh"},
	} {
		if got, err := rootOf(line); err != nil || got != want {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
	}
	for _, line := range []string{"", "root=", "root=UUID=", "root=PARTUUID=1 rw"} {
		if got, err := rootOf(line); err == nil {
			t.Errorf("%s: %+v", line, got)
		}
	}
}

// A root is found by what its file system says of itself, once it is there; until then it is said what there is.
func TestWaitForRoot(t *testing.T) {
	h := host{sys: t.TempDir(), dev: t.TempDir()}
	put := func(name string, id byte) {
		t.Helper()
		b := make([]byte, 1<<20)
		binary.LittleEndian.PutUint16(b[1024+56:], 0xef53) // the superblock of an ext4, and in it the feature of extents
		binary.LittleEndian.PutUint32(b[1024+4:], 256)
		binary.LittleEndian.PutUint32(b[1024+24:], 2)
		binary.LittleEndian.PutUint32(b[1024+96:], 0x40)
		copy(b[1024+104:], bytes.Repeat([]byte{id}, 16))
		copy(b[1024+120:], "label"+string('0'+rune(id)))
		write(t, h.dev, map[string]string{name: string(b)})
		write(t, h.sys, map[string]string{filepath.Join("class/block", name, "size"): "2048\n"})
	}
	put("sda1", 1)
	write(t, h.sys, map[string]string{"class/block/sr0/size": "0\n", "class/block/loop0/size": "8\n"})
	const spec = "UUID=02020202-0202-0202-0202-020202020202"
	found, seen, err := h.rootDevices(spec)
	if err != nil || len(found) > 0 || len(seen) != 1 || !strings.Contains(seen[0], "sda1 of 1.0 MB with ext4 01010101-") {
		t.Errorf("found %v, seen %q, %v", found, seen, err)
	}
	put("sdb1", 2)
	v := &voice{console: &bytes.Buffer{}, log: discard}
	for _, spec := range []string{spec, strings.ToUpper(spec), "LABEL=label2", filepath.Join(h.dev, "sdb1")} {
		if node, err := h.waitForRoot(t.Context(), spec, v); err != nil || filepath.Base(node) != "sdb1" {
			t.Errorf("%s is on %s, %v", spec, node, err)
		}
	}
	if found, seen, err := (host{sys: t.TempDir()}).rootDevices(spec); err != nil || len(found)+len(seen) > 0 {
		t.Errorf("without disks: %v, %v, %v", found, seen, err)
	}
	if err := os.Remove(filepath.Join(h.dev, "sda1")); err != nil {
		t.Fatal(err)
	}
	if _, seen, err := h.rootDevices(spec); err != nil || !strings.Contains(seen[0], "no such file") {
		t.Errorf("a disk without its node: %q, %v", seen, err)
	}
}
