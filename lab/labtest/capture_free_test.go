package labtest_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
)

// formatted makes a disk image with one ext4 file system in a partition.
func formatted(t *testing.T, size int) []byte {
	t.Helper()
	b := disked(t, size, make([]byte, size-3<<20))
	file := filepath.Join(t.TempDir(), "ext4.img")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-F", "-E", "offset=1048576,lazy_itable_init=0", "-b", "4096", file, fmt.Sprint((size-3<<20)/1024)+"k")
	onExt4(t, file, func(dir string) {
		for i := range 20 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file-", i)), labtest.Image(300_000, byte(i)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	})
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func run(t *testing.T, words ...string) {
	t.Helper()
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", words, err, out)
	}
}

// onExt4 mounts the file system of a formatted disk, as a system that runs from it does, and leaves it in order.
func onExt4(t *testing.T, file string, do func(dir string)) {
	t.Helper()
	if os.Geteuid() != 0 {
		labtest.Lacking(t, "a file system is mounted by root only")
	}
	dir := t.TempDir()
	run(t, "mount", "-o", "loop,offset=1048576", file, dir)
	defer run(t, "umount", dir)
	do(dir)
}

// Ten times junk is written where the file system is free, and deleted again. The image does not grow by it.
func TestCaptureFreeSpace(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	v1 := labtest.Import(t, b, "deb", lab.FormDisk, formatted(t, 96<<20))
	sim, name := labtest.Metal(t, b, 0, 400<<20), labtest.MetalName(0)
	bootOnce(t, b, sim, "deb")
	sim.Again = true
	labtest.On(t, sim)
	first := captured(t, b, lab.QueueCapture{Machine: name, Image: "deb"})
	if !first.Same || first.Captured != v1.Ref() {
		t.Errorf("a disk that nobody changed is %s: %s", first.Captured, first.Reason)
	}
	sent := int64(0)
	for i := range 10 {
		onExt4(t, sim.Disk.File, func(dir string) {
			junk := make([]byte, 24<<20)
			rand.Read(junk)
			file := filepath.Join(dir, fmt.Sprint("junk-", i))
			if err := os.WriteFile(file, junk, 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "sync", "-f", file)
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		})
		x := captured(t, b, lab.QueueCapture{Machine: name, Image: "deb"})
		if v, err := labtest.Now(t, b).Version(x.Captured); err != nil {
			t.Error(err)
		} else if err := labtest.CameFrom(t, b, sim.Disk.File, v); err != nil {
			t.Error(err)
		}
		if x.State != lab.Done {
			t.Fatalf("capture %d is %s: %s", i, x.State, x.Reason)
		}
		sent += x.Moved.Sent
	}
	all := labtest.Now(t, b).VersionsOf("deb")
	last := all[len(all)-1]
	if last.Content > v1.Content+1<<20 || sent > 2<<20 {
		t.Errorf("%d of content became %d after %d versions, for which %d bytes were sent", v1.Content, last.Content, len(all), sent)
	}
	t.Logf("content %d, then %d after %d versions; %d bytes sent", v1.Content, last.Content, len(all), sent)

	// What comes back is whole.
	other := labtest.Metal(t, b, 1, 400<<20)
	id := labtest.Boot(t, b, "deb", labtest.MetalName(1))
	labtest.On(t, other)
	if x := labtest.Over(t, b, id); x.State != lab.Done {
		t.Fatalf("boot is %s: %s", x.State, x.Reason)
	}
	onExt4(t, other.Disk.File, func(dir string) {
		for i := range 20 {
			if got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("file-", i))); err != nil || !bytes.Equal(got, labtest.Image(300_000, byte(i))) {
				t.Errorf("file %d came back as %d bytes: %v", i, len(got), err)
			}
		}
	})
}

// A system that crashed has its journal to be replayed: all of it is captured, and the boot says why.
func TestCaptureCrashed(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	labtest.Import(t, b, "deb", lab.FormDisk, formatted(t, 64<<20))
	sim, name := labtest.Metal(t, b, 0, 200<<20), labtest.MetalName(0)
	bootOnce(t, b, sim, "deb")
	sim.Again = true
	copied := filepath.Join(t.TempDir(), "crashed")
	onExt4(t, sim.Disk.File, func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "new"), labtest.Image(3<<20, 5), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, "sync", "-f", dir)
		run(t, "cp", sim.Disk.File, copied) // as it is while it is mounted
	})
	run(t, "cp", copied, sim.Disk.File)
	labtest.On(t, sim)
	x := captured(t, b, lab.QueueCapture{Machine: name, Image: "deb"})
	v := labtest.Now(t, b).Versions["deb@2"]
	if x.State != lab.Done || x.Captured != v.Ref() {
		t.Fatalf("boot is %s: %s", x.State, x.Reason)
	}
	if !bytes.Contains([]byte(x.Chosen.Why), []byte("is captured too")) {
		t.Errorf("it says %q", x.Chosen.Why)
	}
	t.Log(x.Chosen.Why)
	disk, err := os.ReadFile(sim.Disk.File)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := b.Export(t.Context(), v.Ref(), &got, nil); err != nil {
		t.Fatal(err)
	}
	if part := got.Bytes()[1<<20 : 62<<20]; !bytes.Equal(part, disk[1<<20:62<<20]) {
		t.Error("the file system is not captured as it is on the disk")
	}
}

// A tree is captured out of its partition, and is a tree again.
func TestCaptureTree(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	whole := formatted(t, 35<<20)
	v1 := labtest.Import(t, b, "tree", lab.FormTree, whole[1<<20:33<<20])
	labtest.Say(t, b, lab.PutStack{Edit: true, Stack: lab.Stack{Name: "tree", Layers: []lab.Ref{{Name: "tree"}}, Until: lab.RungHandover}}) // nothing runs in it
	sim, name := labtest.Metal(t, b, 0, 200<<20), labtest.MetalName(0)
	bootOnce(t, b, sim, "tree")
	sim.Again = true
	labtest.On(t, sim)
	same := captured(t, b, lab.QueueCapture{Machine: name, Image: "tree"})
	if !same.Same || same.Captured != v1.Ref() || same.Moved.Sent != 0 {
		t.Errorf("a tree that nobody changed is %s: %s; %+v", same.Captured, same.Reason, same.Moved)
	}
	onExt4(t, sim.Disk.File, func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "new"), []byte("new"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	x := captured(t, b, lab.QueueCapture{Machine: name, Image: "tree"})
	v2 := labtest.Now(t, b).Versions["tree@2"]
	if x.Captured != v2.Ref() || v2.Bytes != v1.Bytes || v2.Parent != 1 || x.Moved.Sent == 0 || x.Moved.Sent > 1<<20 {
		t.Errorf("it is %s: %s; %+v, %+v", x.State, x.Reason, x.Moved, v2)
	}
	// As another image it is of the same kind and form.
	other := captured(t, b, lab.QueueCapture{Machine: name, Image: "mine"})
	if s := labtest.Now(t, b); other.State != lab.Done || other.Moved.Sent != 0 || s.Images["mine"].Form != lab.FormTree || s.Versions["mine@1"].Root != v2.Root {
		t.Errorf("it is %s: %s; %+v", other.State, other.Reason, s.Versions["mine@1"])
	}
}
