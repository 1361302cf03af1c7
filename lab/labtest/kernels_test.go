package labtest_test

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
)

// The example that the predecessor's makers gave: one system under five kernels, for a study of huge pages. As five images of 10 GB it stored 50 GB, and every
// change of kernel moved 10. Here it is scaled to 2 GiB: one tree, five kernel images of 12 MB, five stacks.
const (
	kernelCount = 5
	kernelBytes = 12_000_000
	systemBytes = 2 << 30 // of the tree's file system, and of the whole images that the naive way has
)

// noiseFile is a member of a tar: bytes that nothing compresses, with a kernel's header in front where it is one.
func noiseFile(w *tar.Writer, name string, bytes int64, seed uint64, head []byte) error {
	h := &tar.Header{Name: name, Mode: 0o755, Size: bytes, ModTime: time.Unix(1_700_000_000, 0), Format: tar.FormatPAX}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err := io.CopyN(w, rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}), bytes-int64(len(head)))
	return err
}

// bzHeader is what tells a Linux kernel for x86-64 (kernel: Documentation/arch/x86/boot.rst).
func bzHeader(release string) []byte {
	b := make([]byte, 1024)
	binary.LittleEndian.PutUint16(b[0x1fe:], 0xaa55)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint16(b[0x20e:], 0x300-0x200)
	binary.LittleEndian.PutUint16(b[0x236:], 1)
	copy(b[0x300:], release+" (made by a test)\x00")
	return b
}

// streamed imports a tar that is made while it is read.
func streamed(t testing.TB, d lab.Desk, i lab.Import, members func(*tar.Writer) error) lab.Imported {
	t.Helper()
	r, w := io.Pipe()
	var making sync.WaitGroup
	making.Go(func() {
		out := tar.NewWriter(w)
		err := members(out)
		if err == nil {
			err = out.Close()
		}
		w.CloseWithError(err)
	})
	got, err := d.Import(t.Context(), r, i, nil)
	r.Close()
	making.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// fiveKernels lays one system under five kernels in turn, and prints what that costs beside what whole images would. content is how many bytes of files
// the system has.
func fiveKernels(t testing.TB, content int64) (stored, fetched, written int64) {
	b := labtest.New(t, netboot.Config{})
	tree := streamed(t, b, lab.Import{Name: "system", Kind: "system", Form: lab.FormTree, Size: systemBytes}, func(w *tar.Writer) error {
		if err := noiseFile(w, "sbin/init", 1<<20, 1, []byte("#!/bin/sh\n")); err != nil {
			return err
		}
		for i := range content >> 20 {
			if err := noiseFile(w, fmt.Sprintf("usr/lib/file-%04d", i), 1<<20, uint64(i+2), nil); err != nil {
				return err
			}
		}
		return nil
	})
	one := b.State.Chunks.Total()
	kernels := make([]lab.Imported, kernelCount)
	for i := range kernels {
		release, name := fmt.Sprintf("6.%d.0-study", i+1), fmt.Sprintf("kernel-%d", i+1)
		kernels[i] = streamed(t, b, lab.Import{Name: name, Kind: "system", Form: lab.FormKernel}, func(w *tar.Writer) error {
			return noiseFile(w, "boot/vmlinuz-"+release, kernelBytes, uint64(60_000+i), bzHeader(release))
		})
		labtest.Say(t, b, lab.PutStack{Stack: lab.Stack{Name: fmt.Sprintf("study-%d", i+1), Layers: []lab.Ref{{Name: "system"}, {Name: name}}, Cmdline: "hugepages={pages}", Params: map[string]string{"pages": "64"}}})
	}
	stored = b.State.Chunks.Total()
	naive := int64(kernelCount) * (one + kernelBytes)
	t.Logf("stored: %s for one system, %s for five kernels more; as five whole images, without chunks, %s (%s logical)",
		lab.Bytes(one), lab.Bytes(stored-one), lab.Bytes(naive), lab.Bytes(kernelCount*systemBytes))
	if stored-one > 65_000_000 {
		t.Errorf("five kernels cost %s more than one system, and 65 MB are the limit", lab.Bytes(stored-one))
	}

	sim := labtest.Metal(t, b, 0, 4<<30)
	for i := range kernelCount + 1 { // the first again at the end
		k := kernels[i%kernelCount]
		x := labtest.Say(t, b, lab.Queue{Machine: labtest.MetalName(0), Stack: fmt.Sprintf("study-%d", i%kernelCount+1), Lay: true}).Boots[0]
		off, _ := labtest.On(t, sim)
		x = labtest.UntilIn(t, b, 10*time.Minute, "a disk that is equal to its stack", func(s lab.Snapshot) bool { return s.Boots[x.ID].State.Final() }).Boots[x.ID]
		off()
		if x.State != lab.Done {
			t.Fatalf("boot %d is %s: %s", x.ID, x.State, x.Reason)
		}
		t.Logf("study-%d: %s; a whole image moves %s", i%kernelCount+1, x.MovedWords(), lab.Bytes(systemBytes))
		at, _ := x.Plan.Places()
		for n, v := range []lab.Version{tree.Version, k.Version} {
			if err := labtest.HoldsAt(t, b.State.Chunks, sim.Disk.File, at[n], v); err != nil {
				t.Errorf("study-%d, layer %d: %v", i%kernelCount+1, n, err)
			}
		}
		if i == 0 {
			continue
		}
		fetched, written = max(fetched, x.Moved.Fetched), max(written, x.Moved.Written)
		if x.Moved.Fetched > 14_000_000 || x.Moved.Written > 16_000_000 {
			t.Errorf("a kernel of %s moved %+v", lab.Bytes(kernelBytes), x.Moved)
		}
	}
	t.Logf("a change of kernel fetched at most %s and wrote %s: %.1f %% of what a whole image moves", lab.Bytes(fetched), lab.Bytes(written), 100*float64(written)/systemBytes)
	return stored - one, fetched, written
}

func TestFiveKernelsCostFiveKernels(t *testing.T) { fiveKernels(t, 96<<20) }

func BenchmarkFiveKernels(b *testing.B) {
	for range b.N {
		stored, fetched, written := fiveKernels(b, 1600<<20)
		b.ReportMetric(float64(stored)/1e6, "MB-stored-for-five")
		b.ReportMetric(float64(fetched)/1e6, "MB-fetched/change")
		b.ReportMetric(float64(written)/1e6, "MB-written/change")
	}
}
