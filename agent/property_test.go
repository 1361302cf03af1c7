package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// puzzle is a random image, what a disk holds before, and what carte believes that it holds.
type puzzle struct {
	image, had, disk []byte
}

// pieces are what puzzles are made of: chunks that occur often, so that they move about.
func pieces() [][]byte {
	all := [][]byte{make([]byte, c), bytes.Repeat([]byte{7}, c), append(make([]byte, c/2), noise(60, c/2)...), append(noise(61, 5000), make([]byte, c-5000)...)}
	for seed := range uint64(6) {
		all = append(all, noise(seed+62, c))
	}
	return all
}

func newPuzzle(r *rand.Rand, all [][]byte) (p puzzle) {
	mix := func(n int) (b []byte) {
		for range n {
			b = append(b, all[r.IntN(len(all))]...)
		}
		return b
	}
	n := 2 + r.IntN(14)
	p.image = mix(n)
	switch r.IntN(6) {
	case 0: // all zero, all the same
		p.image = bytes.Repeat(all[r.IntN(2)], n)
	case 1: // an odd end
		p.image = p.image[:len(p.image)-1-r.IntN(c-1)]
	}
	whole := (len(p.image) + c - 1) / c
	switch r.IntN(5) {
	case 0: // shifted: every chunk lies where another belongs
		k := r.IntN(whole) + 1
		p.had = append(mix(k), p.image...)[:whole*c]
	case 1: // permuted
		p.had = make([]byte, whole*c)
		padded := append(bytes.Clone(p.image), make([]byte, whole*c-len(p.image))...)
		for i, k := range r.Perm(whole) {
			copy(p.had[i*c:], padded[k*c:(k+1)*c])
		}
	case 2:
		p.had = append(bytes.Clone(p.image), make([]byte, whole*c-len(p.image))...)
	case 3:
		p.had = mix(whole)
	case 4:
		p.had = make([]byte, whole*c)
	}
	p.disk = bytes.Clone(p.had)
	for range r.IntN(4) { // a guest
		at := r.IntN(len(p.disk))
		copy(p.disk[at:], noise(r.Uint64(), 1+r.IntN(3*c)))
	}
	return p
}

// lay makes a disk the puzzle's image, and holds what it does against what it said before.
func (p puzzle) lay(t *testing.T, d Disk) {
	t.Helper()
	s := newShelf()
	image, had := s.add(t, 1, p.image), s.add(t, 2, p.had)
	n := &counts{}
	f := &flash{counts: n, teller: alone{n, Audience{}}, source: s, disk: d, name: "the disk", check: lab.CheckAlways}
	f.parts = []part{newPart(lab.Write{Ref: image.Ref(), Root: image.Root, Bytes: image.Bytes}, s.m[image.Root])}
	f.had = []part{newPart(lab.Write{Ref: had.Ref(), Root: had.Root, Bytes: had.Bytes}, s.m[had.Root])}
	todo, err := f.compare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.findElsewhere()
	if err := f.transfer(t.Context(), todo); err != nil {
		t.Fatal(err)
	}
	if err := f.verify(t.Context(), todo); err != nil {
		t.Fatal(err)
	}
	if n.written.Load()+n.kept.Load() != todo.write || n.zeroed.Load() != todo.zero {
		t.Errorf("wrote %d and kept %d of %d that were to be written, zeroed %d of %d", n.written.Load(), n.kept.Load(), todo.write, n.zeroed.Load(), todo.zero)
	}
	got := aligned(len(p.image))
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, p.image) {
		t.Fatalf("the disk is not the image: %v", err)
	}
	rest := aligned(len(p.disk) - len(p.image))
	if _, err := d.ReadAt(rest, int64(len(p.image))); len(rest) > 0 && (err != nil || !bytes.Equal(rest, p.disk[len(p.image):])) {
		t.Fatalf("what lies behind the image was changed: %v", err)
	}
}

// Whatever image is laid over whatever disk, in place: the disk is the image, nothing else was written, and as much was
// written as was said before. On a file, and on devices with blocks of 512 bytes and of 4 KiB.
func TestFlashInPlace(t *testing.T) {
	all := pieces()
	for _, kind := range []struct {
		name  string
		block int
		seeds uint64
	}{{"file", 0, 150}, {"512", 512, 25}, {"4Kn", 4096, 25}} {
		t.Run(kind.name, func(t *testing.T) {
			if kind.block > 0 {
				loops(t, "losetup")
			}
			for seed := range kind.seeds {
				p := newPuzzle(rand.New(rand.NewPCG(seed, uint64(kind.block))), all)
				file := filepath.Join(t.TempDir(), "disk")
				if err := os.WriteFile(file, p.disk, 0o600); err != nil {
					t.Fatal(err)
				}
				d, err := OpenFile(file)
				end := func() {}
				if kind.block > 0 {
					err = errors.Join(err, d.Close())
					d, end = loopDisk(t, file, kind.block)
				}
				if err != nil {
					t.Fatal(err)
				}
				p.lay(t, d)
				if err := d.Close(); err != nil {
					t.Error(err)
				}
				end()
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

// loopDisk opens a file as a block device with blocks of that size.
func loopDisk(t *testing.T, file string, block int) (Disk, func()) {
	t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", "--sector-size", fmt.Sprint(block), file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	st, err := os.Stat(dev)
	if err != nil {
		t.Fatal(err)
	}
	d, err := openDevice(dev, deviceNumber(st))
	if err != nil {
		t.Fatal(err)
	}
	if d.block != block {
		t.Fatalf("%s has blocks of %d bytes, want %d", dev, d.block, block)
	}
	return d, func() { tool(t, "losetup", "--detach", dev) }
}

// Ten thousand chunks that were flipped, cut, lengthened or exchanged on their way: not one wrong byte is written. A few bits
// of a frame say nothing about its content; that content may be taken, and is.
func TestNoDamagedChunkIsWritten(t *testing.T) {
	s := newShelf()
	image := joined(noise(1, c), append(noise(2, c/4), make([]byte, c-c/4)...), bytes.Repeat([]byte("text "), c/5+1)[:c])
	v := s.add(t, 1, image)
	m := s.m[v.Root]
	d := newRAMDisk(make([]byte, len(image)))
	n := &counts{}
	f := &flash{counts: n, teller: alone{n, Audience{}}, source: s, disk: d, name: "the disk"}
	f.parts = []part{newPart(lab.Write{Ref: v.Ref(), Root: v.Root, Bytes: v.Bytes}, m)}
	w := newWriter(f)
	r := rand.New(rand.NewPCG(1, 2))
	want, harmless := make([]byte, len(image)), 0
	for k := range 10_000 {
		i := k % len(m.IDs)
		id := m.IDs[i]
		stored := bytes.Clone(s.stored[id])
		switch r.IntN(4) {
		case 0, 1:
			stored[r.IntN(len(stored))] ^= 1 << r.IntN(8)
		case 2:
			stored = stored[:r.IntN(len(stored))]
		case 3:
			if other := s.stored[m.IDs[(i+1)%len(m.IDs)]]; r.IntN(2) == 0 {
				stored = bytes.Clone(other)
			} else {
				stored = append(stored, 0)
			}
		}
		err := w.write(context.Background(), id, stored, []place{{&f.parts[0], i}})
		if err == nil {
			harmless++
			copy(want[i*c:], image[i*c:(i+1)*c])
		} else if !errors.Is(err, chunk.ErrDamaged) {
			t.Fatalf("chunk %d, change %d: %v", i, k, err)
		}
		if k%100 == 0 && !bytes.Equal(d.b, want) {
			t.Fatalf("something else was written, up to chunk %d, change %d", i, k)
		}
	}
	if !bytes.Equal(d.b, want) {
		t.Error("something else was written")
	}
	if harmless > 500 {
		t.Errorf("%d of 10000 damages were none", harmless)
	}
}
