package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/chunk"
)

// machineDisk is a disk with a tail whose machine image can be mounted here.
func machineDisk(t testing.TB) (Disk, string, lab.DiskTail, lab.DiskID) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	const size = 140 << 20
	at, id := lab.TailOf(size, 129<<20), tailDisk(size)
	d, path := noisyDisk(t, size, at)
	mustTail(t, d, at, id)
	loop, err := loopDevice(d.(*device).file, 0, 1<<20)
	if err != nil {
		t.Skipf("no loop device to be had here: %v", err)
	}
	if err := (&mounted{loop: loop}).detach(); err != nil {
		t.Fatal(err)
	}
	return d, path, at, id
}

// loopsOf lists the loop devices that show a file.
func loopsOf(t testing.TB, path string) (all []string) {
	t.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == path {
			all = append(all, f)
		}
	}
	return all
}

// What is written into the machine image is there the next time, and e2fsck finds nothing; what lies around it is as before.
func TestMachineImage(t *testing.T) {
	d, path, at, id := machineDisk(t)
	before := outsideOf(t, d, at)
	notes := bytes.Repeat([]byte("slept badly\n"), 100_000)
	for i := range 3 {
		quiet := func(format string, args ...any) { t.Errorf("said: "+format, args...) }
		dir, back, err := mountMachine(path, at, id, quiet)
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || st.Flags&unix.ST_NOSUID == 0 || st.Flags&unix.ST_NODEV == 0 {
			t.Errorf("flags %#x, %v", st.Flags, err)
		}
		for j := range i {
			if b, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("notes", j))); err != nil || !bytes.Equal(b, notes) {
				t.Errorf("notes of day %d on day %d: %d bytes, %v", j, i, len(b), err)
			}
		}
		f, err := os.Create(filepath.Join(dir, fmt.Sprint("notes", i)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(notes); err != nil {
			t.Fatal(err)
		}
		if err := back(); !errors.Is(err, unix.EBUSY) {
			t.Errorf("given back while a file is open: %v", err)
		}
		if err := errors.Join(f.Close(), back()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) || len(loopsOf(t, path)) > 0 {
			t.Errorf("left behind: %v, %v", loopsOf(t, path), err)
		}
		fsckMachine(t, d, at)
	}
	if outsideOf(t, d, at) != before {
		t.Error("something outside the tail has changed")
	}
	if again := mustTail(t, d, at, id); again.Made != "" {
		t.Errorf("the tail: %s", again.Made)
	}
}

// A machine image that was damaged is made anew, and said so.
func TestMachineImageMadeAnew(t *testing.T) {
	d, path, at, id := machineDisk(t)
	for _, tt := range []struct {
		name   string
		damage func() error
	}{
		{"zeroed", func() error { return d.Zero(at.Machine()) }},
		{"noise", func() error { _, err := d.WriteAt(noise(3, lab.TailMachine), at.Offset); return err }},
		{"super block", func() error { _, err := d.WriteAt(noise(4, 1024), at.Offset+1024); return err }},
		{"errors noted", func() error { _, err := d.WriteAt([]byte{2}, at.Offset+1024+0x3a); return err }},
		{"descriptors", func() error { _, err := d.WriteAt(noise(5, 4096), at.Offset+4096); return err }},
		{"inodes", func() error { return d.Zero(at.Offset+67*4096, 1<<20) }},
		{"root directory", func() error { return d.Zero(at.Offset+65*4096, 4096) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := errors.Join(tt.damage(), d.Sync()); err != nil {
				t.Fatal(err)
			}
			said := ""
			say := func(format string, args ...any) { said += fmt.Sprintf(format, args...) }
			dir, back, err := mountMachine(path, at, id, say)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.WriteFile(filepath.Join(dir, "x"), nil, 0o600), back()); err != nil {
				t.Error(err)
			}
			if !strings.Contains(said, "made anew") || strings.Contains(said, "next time") {
				t.Errorf("said %q", said)
			}
			t.Log(said)
			fsckMachine(t, d, at)
			if left := loopsOf(t, path); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// On a device that the agent has open for itself, and writes to past the kernel's cache, tail, cache and machine image work
// side by side; and after the device was opened anew they are what they were.
func TestTailOfDevice(t *testing.T) {
	file, path, at, id := machineDisk(t)
	before := outsideOf(t, file, at)
	loop, err := loopDevice(file.(*device).file, 0, file.Size())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := (&mounted{loop: loop}).detach(); err != nil {
			t.Error(err)
		}
	})
	node := loop.Name()
	number, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(node), "dev"))
	if err != nil {
		t.Fatal(err)
	}
	s := newStock(6, 40)
	quiet := func(format string, args ...any) { t.Errorf("said: "+format, args...) }
	for round := range 2 {
		d, err := openDevice(node, strings.TrimSpace(string(number)))
		if err != nil {
			t.Fatal(err)
		}
		tail := mustTail(t, d, at, id)
		if tail.Made != "" {
			t.Errorf("made anew: %s", tail.Made)
		}
		dir, back, err := mountMachine(node, at, id, quiet)
		if err != nil {
			t.Fatal(err)
		}
		buf := aligned(chunk.MaxStored + pageSize)
		for i, id := range s.ids {
			if tail.cache.Has(id) != (round > 0) {
				t.Errorf("round %d: the cache has chunk %d: %v", round, i, round == 0)
			}
			if err := tail.cache.Put(id, s.stored[id]); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), s.stored[id], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(tail.cache.Close(), d.Forget()); err != nil {
			t.Fatal(err)
		}
		for i, id := range s.ids {
			got, err := tail.cache.Get(id, buf)
			noted, err2 := os.ReadFile(filepath.Join(dir, fmt.Sprint(i)))
			if !bytes.Equal(got, s.stored[id]) || !bytes.Equal(noted, s.stored[id]) {
				t.Errorf("round %d, chunk %d: %v, %v", round, i, err, err2)
			}
		}
		if err := errors.Join(back(), d.Close()); err != nil {
			t.Fatal(err)
		}
		fsckMachine(t, file, at)
	}
	if outsideOf(t, file, at) != before || len(loopsOf(t, path)) != 1 {
		t.Errorf("something outside the tail has changed, or a loop device is left: %v", loopsOf(t, path))
	}
}

func TestMachineImageRefuses(t *testing.T) {
	_, path, at, id := machineDisk(t)
	quiet := func(format string, args ...any) { t.Errorf("said: "+format, args...) }
	for _, bad := range []lab.DiskTail{{}, {Offset: at.Offset + 100<<20, Bytes: at.Bytes}} {
		if _, _, err := mountMachine(path, bad, id, quiet); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, _, err := mountMachine(path+"x", at, id, quiet); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// The machine image must come and go in under 100 ms each, also after something was written.
func BenchmarkMachineImage(b *testing.B) {
	_, path, at, id := machineDisk(b)
	var there, back []time.Duration
	for i := 0; b.Loop(); i++ {
		began := time.Now()
		dir, give, err := mountMachine(path, at, id, b.Logf)
		if err != nil {
			b.Fatal(err)
		}
		there = append(there, time.Since(began))
		if err := os.WriteFile(filepath.Join(dir, "notes"), noise(uint64(i), 10_000), 0o600); err != nil {
			b.Fatal(err)
		}
		began = time.Now()
		if err := give(); err != nil {
			b.Fatal(err)
		}
		back = append(back, time.Since(began))
	}
	for name, all := range map[string][]time.Duration{"mount": there, "back": back} {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2].Seconds()*1000, "ms-"+name)
		b.ReportMetric(all[len(all)-1].Seconds()*1000, "ms-"+name+"-longest")
	}
}
