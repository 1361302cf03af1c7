package agent

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/layout"
)

// loops skips a test that needs to mount, where that is not to be had; CI is root and has it.
func loops(t *testing.T, programs ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a file needs root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skipf("mounting a file needs loop devices: %v", err)
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// ext4Image is a disk with one partition, an ext4 that mke2fs made with a file in it.
func ext4Image(t *testing.T, size int64) []byte {
	t.Helper()
	dir := t.TempDir()
	src, fs := filepath.Join(dir, "src"), filepath.Join(dir, "fs")
	if err := os.MkdirAll(src, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "file"), noise(3, 2*mib), 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "truncate", "-s", "30M", fs)
	tool(t, "mke2fs", "-q", "-t", "ext4", "-d", src, fs)
	image := make([]byte, size)
	head, at, backup, err := layout.Make(size, 512, [16]byte{9}, layout.Entry{Off: mib, Bytes: size - 2*mib, Type: layout.LinuxData, UUID: [16]byte{8}, Name: "root"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fs)
	if err != nil {
		t.Fatal(err)
	}
	copy(image[mib:], b)
	copy(image, head)
	copy(image[at:], backup)
	return image
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// mayGrow skips a test where the kernel grows no ext4 for us. In a virtual machine the agent has every right; labtest's
// TestTailAndGrow looks at that.
func mayGrow(t *testing.T) {
	t.Helper()
	const sysResource = 24 // capabilities(7)
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(b), "CapEff:")
	if have, err := strconv.ParseUint(strings.Fields(line)[0], 16, 64); err != nil || have>>sysResource&1 == 0 {
		t.Skip("the kernel grows an ext4 for CAP_SYS_RESOURCE alone, which this process has not")
	}
}

// A larger disk: the last partition and its ext4 take the room before the tail. Done again it is the same.
func TestGrow(t *testing.T) {
	loops(t, "mke2fs", "e2fsck")
	mayGrow(t)
	s := newServer(t, nil)
	image := ext4Image(t, 32*mib)
	m := newMachine(t, s, nil, s.add(image), len(image))
	tail := m.large(300 * mib)
	s.orders.Grow = true
	m.node = func(lab.DiskID) (string, error) { return m.path, nil }
	for range 2 {
		if err := m.run(); err != nil {
			t.Fatal(err)
		}
		got, err := layout.Read(t.Context(), bytes.NewReader(m.part(0, m.id.Bytes)), m.id.Bytes)
		if err != nil || len(got.Systems) == 0 || got.Systems[0].Bytes < tail.Offset-4*mib {
			t.Fatalf("the file system has not grown: %+v, %v", got.Systems, err)
		}
		fs := filepath.Join(t.TempDir(), "fs")
		if err := os.WriteFile(fs, m.part(got.Systems[0].Off, got.Systems[0].Bytes), 0o600); err != nil {
			t.Fatal(err)
		}
		tool(t, "e2fsck", "-fn", fs)
	}
}

// Every boot leaves a line in the machine image.
func TestNotes(t *testing.T) {
	loops(t)
	s := newServer(t, nil)
	image := gptImage(t, 8*mib, 1)
	m := newMachine(t, s, nil, s.add(image), len(image))
	tail := m.large(200 * mib)
	m.node = func(lab.DiskID) (string, error) { return m.path, nil }
	for range 2 {
		if err := m.run(); err != nil {
			t.Fatal(err)
		}
		if said := strings.Join(s.lines(), "\n"); !strings.Contains(said, "the machine image was mounted in") {
			t.Errorf("said:\n%s", said)
		}
	}
	dir, back, err := mountMachine(m.path, tail, m.id, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	notes, err := os.ReadFile(filepath.Join(dir, "boots.log"))
	if e := back(); e != nil {
		t.Error(e)
	}
	if err != nil || strings.Count(string(notes), "boot 7, stack st, im@1") != 2 {
		t.Errorf("notes %q, %v", notes, err)
	}
}

// What is not ext4 is not grown, and that is said by name.
func TestGrowNothingElse(t *testing.T) {
	loops(t)
	s := newServer(t, nil)
	image := gptImage(t, 8*mib, 1)
	m := newMachine(t, s, nil, s.add(image), len(image))
	m.large(200 * mib)
	s.orders.Grow = true
	m.node = func(lab.DiskID) (string, error) { return m.path, nil }
	if err := m.run(); err == nil || !strings.Contains(err.Error(), "partition 2 does not mount as ext4") {
		t.Errorf("error %v", err)
	}
}

// A device of this computer that is larger than the image gets a table that fits it; a file stays the image's bytes.
func TestFlashLocalFitsTheTable(t *testing.T) {
	loops(t, "losetup")
	s := newShelf()
	image := gptImage(t, 8*mib, 1)
	v := s.add(t, 1, image)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 32*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	dev := strings.TrimSpace(tool(t, "losetup", "--find", "--show", disk))
	t.Cleanup(func() { tool(t, "losetup", "--detach", dev) })
	for round := range 2 {
		done, err := Flash(t.Context(), s, lab.Flash{Version: v, To: dev, Confirm: dev}, Audience{})
		if err != nil {
			t.Fatal(err)
		}
		if round > 0 && done.Written+done.Fetched+done.Zeroed != 0 {
			t.Errorf("the same once more moved %+v", done)
		}
	}
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := layout.ReadTable(f, 32*mib)
	if err != nil || table.Copy != 32*mib-512 || len(table.Parts) != 2 {
		t.Errorf("%+v, %v", table, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if _, err := Flash(t.Context(), s, lab.Flash{Version: v, To: file}, Audience{}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, image) {
		t.Errorf("the file is not the image, %v", err)
	}
}
