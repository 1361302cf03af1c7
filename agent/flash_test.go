package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

const c = chunk.Size

// images and disks are made of noise, zeros and repetition.
func joined(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// Whatever was on the disk before, it holds the image afterwards and what lies behind the image is untouched; a second
// boot fetches and writes nothing.
func TestFlash(t *testing.T) {
	image := joined(noise(1, 3*c), make([]byte, 5*c), noise(2, 2*c+4096), make([]byte, c-4096), noise(3, c))
	same := bytes.Repeat(noise(9, c), 12)
	reversed := slices.Concat(slices.Collect(func(yield func([]byte) bool) {
		all := slices.Collect(slices.Chunk(image, c))
		for i := range all {
			if !yield(all[len(all)-1-i]) {
				return
			}
		}
	})...)
	junk := noise(8, 2*c)
	for _, tt := range []struct {
		name        string
		image, disk []byte
	}{
		{"blank", image, make([]byte, len(image))},
		{"already there", image, image},
		{"full of something else", image, noise(5, len(image))},
		{"permuted", image, reversed},
		{"shifted", image, joined(make([]byte, 512), image)[:len(image)]},
		{"one byte differs", image, joined(image[:c+17], []byte{image[c+17] + 1}, image[c+18:])},
		{"all zero onto noise", make([]byte, 7*c), noise(6, 7*c)},
		{"all zero onto zero", make([]byte, 7*c), make([]byte, 7*c)},
		{"all the same", same, make([]byte, len(same))},
		{"short last chunk", image[:len(image)-c+1000], noise(5, len(image))},
		{"odd size, zero at the end", joined(noise(4, c), make([]byte, 777)), noise(5, 3*c)},
		{"one byte", []byte{42}, noise(5, c)},
		{"one zero byte", []byte{0}, noise(5, c)},
		{"larger disk", image, joined(noise(7, len(image)), junk)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			m := newMachine(t, s, tt.disk, s.add(tt.image), len(tt.image))
			if err := m.run(); err != nil {
				t.Fatal(err)
			}
			want := joined(tt.image, tt.disk[len(tt.image):])
			if !bytes.Equal(m.disk(), want) {
				t.Fatal("the disk is not the image")
			}
			first, _ := s.last(func(lab.Report) bool { return true })
			if changed := !bytes.Equal(tt.disk, want); s.writing != changed {
				t.Errorf("writing was told: %v, the disk had to change: %v", s.writing, changed)
			}
			if got := first.Moved.Written + first.Moved.Zeroed; got < int64(differing(tt.disk, want)) || got > 2*int64(len(tt.image)) {
				t.Errorf("%d bytes written and zeroed, %d differed", got, differing(tt.disk, want))
			}
			if err := m.run(); err != nil {
				t.Fatal(err)
			}
			again, _ := s.last(func(lab.Report) bool { return true })
			if x := again.Moved; x.Written+x.Fetched+x.Zeroed != 0 || x.Read != int64(len(tt.image)) || s.writing || len(s.asked) > 0 {
				t.Errorf("the second time moved %+v", x)
			}
			if want := []lab.Rung{lab.RungProbe, lab.RungHash, lab.RungVerify, lab.RungHandover}; !slices.Equal(s.rungs(), want) {
				t.Errorf("the second time climbed %v, want %v", s.rungs(), want)
			}
			if len(m.started) != 2 {
				t.Errorf("started %d times, want 2", len(m.started))
			}
		})
	}
}

func differing(a, b []byte) (n int) {
	for i := range b {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

func TestFlashCounts(t *testing.T) {
	image := joined(noise(1, 8*c), make([]byte, 4*c))
	disk := bytes.Clone(image)
	disk[3*c+5000]++ // one block of 4 KiB in one chunk
	disk[9*c]++      // a chunk that is to be zero
	s := newServer(t, nil)
	m := newMachine(t, s, disk, s.add(image), len(image))
	if err := m.run(); err != nil {
		t.Fatal(err)
	}
	r, _ := s.last(func(r lab.Report) bool { return r.Rung == lab.RungHandover })
	stored := int64(len(s.stored[chunk.Sum(image[3*c:4*c])]))
	want := lab.Moved{Total: 12 * c, Read: 12*c + c + 2*c, Fetched: stored, Written: 4096, Zeroed: c}
	if r.Moved != want {
		t.Errorf("moved %+v, want %+v", r.Moved, want)
	}
	if want := []lab.Rung{lab.RungProbe, lab.RungHash, lab.RungFetch, lab.RungWrite, lab.RungVerify, lab.RungHandover}; !slices.Equal(s.rungs(), want) {
		t.Errorf("climbed %v, want %v", s.rungs(), want)
	}
	if _, ok := s.last(func(r lab.Report) bool { return r.Proven && r.Rung == lab.RungVerify }); !ok {
		t.Error("nobody said that the disk is proven")
	}
}

// A chunk that occurs often is fetched once in a batch.
func TestFlashFetchesOnce(t *testing.T) {
	image := bytes.Repeat(noise(1, c), 3*batchIDs)
	s := newServer(t, nil)
	m := newMachine(t, s, make([]byte, len(image)), s.add(image), len(image))
	if err := m.run(); err != nil {
		t.Fatal(err)
	}
	if len(s.asked) != 1 {
		t.Errorf("asked for %d chunks, want 1", len(s.asked))
	}
}

// Random images and disks, connections cut at random bytes: in the end it is the image, each time.
func TestFlashCut(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1))
			cuts := rand.New(rand.NewPCG(seed, 2))
			var cut int
			s := newServer(t, func(l net.Listener) net.Listener {
				return cutter{l, func() int64 { cut++; return 2000 + cuts.Int64N(1500<<10) }} // Accept has one caller
			})
			var image, disk []byte
			for range 10 + r.IntN(30) {
				image = append(image, piece(r)...)
				disk = append(disk, piece(r)...)
			}
			image = image[:len(image)-r.IntN(c)]
			m := newMachine(t, s, disk, s.add(image), len(image))
			if err := m.run(); err != nil {
				t.Fatal(err)
			}
			if want := joined(image, disk[len(image):]); !bytes.Equal(m.disk(), want) {
				t.Error("the disk is not the image")
			}
			t.Logf("%d connections", cut)
		})
	}
}

// piece makes one chunk: noise of few kinds, so that it repeats, zeros, or half of both.
func piece(r *rand.Rand) []byte {
	b := noise(uint64(r.IntN(20)), c)
	switch r.IntN(4) {
	case 0:
		clear(b)
	case 1:
		clear(b[r.IntN(c):])
	}
	return b
}

// A chunk that is not what its name says is never written; if it stays so the attempt fails with its name and place.
func TestFlashDamagedChunk(t *testing.T) {
	image := noise(1, 6*c)
	bad := chunk.Sum(image[2*c : 3*c])
	ways := map[string]func([]byte) []byte{
		"flipped":   func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b },
		"truncated": func(b []byte) []byte { return b[:len(b)-1] },
		"other":     func([]byte) []byte { return chunk.Pack(nil, noise(2, c)) },
		"codec":     func(b []byte) []byte { b = bytes.Clone(b); b[0] = 77; return b },
		"short":     func([]byte) []byte { return []byte{0} },
	}
	for name, damage := range ways {
		for _, heals := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s heals=%v", name, heals), func(t *testing.T) {
				t.Parallel()
				s := newServer(t, nil)
				disk := noise(9, len(image))
				m := newMachine(t, s, disk, s.add(image), len(image))
				n := 0
				s.serve = func(id chunk.ID, b []byte) []byte {
					s.mu.Lock()
					defer s.mu.Unlock()
					if id != bad {
						return b
					}
					if n++; n < damages || !heals {
						return damage(b)
					}
					return b
				}
				err := m.run()
				if heals {
					if err != nil || !bytes.Equal(m.disk(), image) {
						t.Errorf("it healed, and still: %v", err)
					}
					return
				}
				end := (*Ended)(nil)
				if !errors.As(err, &end) || !end.Again || !errors.Is(err, lab.ErrDamaged) || !strings.Contains(err.Error(), bad.String()) || !strings.Contains(err.Error(), fmt.Sprint(2*c)) {
					t.Errorf("error %v; want one that names the chunk and its place, to be tried again", err)
				}
				if got := m.disk()[2*c : 3*c]; !bytes.Equal(got, disk[2*c:3*c]) {
					t.Error("something was written where the damaged chunk belongs")
				}
				if r, ok := s.last(func(r lab.Report) bool { return r.Error != "" }); !ok || r.Fatal {
					t.Errorf("reported %+v", r)
				}
				if _, ok := s.last(func(r lab.Report) bool { return r.Proven }); ok || len(m.started) > 0 {
					t.Error("it was called proven, or started")
				}
			})
		}
	}
}

// A connection that always breaks before the same chunk is not an absent server.
func TestFlashEndlessCut(t *testing.T) {
	image := noise(1, 2*c)
	s := newServer(t, nil)
	m := newMachine(t, s, make([]byte, len(image)), s.add(image), len(image))
	s.serve = func(chunk.ID, []byte) []byte { return nil } // WriteFrame refuses, the body ends
	if err := m.run(); !errors.As(err, new(*Ended)) {
		t.Errorf("error %v, want that the attempt ended", err)
	}
}

func TestFlashRevoked(t *testing.T) {
	image := noise(1, 40*c)
	for _, at := range []lab.Rung{lab.RungProbe, lab.RungHash, lab.RungFetch, lab.RungWrite, lab.RungVerify, lab.RungHandover} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			disk := noise(9, len(image))
			m := newMachine(t, s, disk, s.add(image), len(image))
			s.reply = func(r lab.Report) lab.Reply {
				switch {
				case r.Revoked:
					s.key = "void" // as the lab does
				case r.Rung.Reached(at) && r.Rung != "":
					return lab.Reply{Revoke: "maintenance"}
				}
				return lab.Reply{}
			}
			err := m.run()
			if !errors.Is(err, lab.ErrDenied) || !strings.Contains(err.Error(), "maintenance") {
				t.Errorf("error %v, want why it was stopped", err)
			}
			if _, ok := s.last(func(r lab.Report) bool { return r.Revoked }); !ok || len(m.started) > 0 {
				t.Error("it did not say that it stopped, or started the system")
			}
			if (at == lab.RungProbe || at == lab.RungHash || at == lab.RungFetch) && !bytes.Equal(m.disk(), disk) {
				t.Error("something was written although it was called back before")
			}
		})
	}
}

// What fails on the disk is told with the disk and the place, and the disk is never called proven.
func TestFlashDiskErrors(t *testing.T) {
	image := joined(noise(1, 6*c), make([]byte, 2*c))
	for _, tt := range []struct {
		op    string
		nth   int
		wants string
	}{{"read", 1, "read disk test"}, {"read", 3, "read disk test"}, {"write", 1, "write disk test"}, {"write", 4, "write disk test"}, {"zero", 1, "zero disk test"}} {
		t.Run(fmt.Sprint(tt.op, tt.nth), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			m := newMachine(t, s, noise(9, len(image)), s.add(image), len(image))
			n, at := 0, int64(-1)
			m.fail = func(op string, off int64) error {
				s.mu.Lock()
				defer s.mu.Unlock()
				if op == tt.op {
					if n++; n == tt.nth {
						at = off
						return errDisk
					}
				}
				return nil
			}
			err := m.run()
			if !errors.Is(err, errDisk) || !strings.Contains(err.Error(), tt.wants) || !strings.Contains(err.Error(), fmt.Sprintf("byte %d:", at)) {
				t.Errorf("error %v, want %q with byte %d", err, tt.wants, at)
			}
			if _, ok := s.last(func(r lab.Report) bool { return r.Proven }); ok || len(m.started) > 0 {
				t.Error("it was called proven, or started")
			}
		})
	}
}

// A disk that forgets what was written is found out.
func TestFlashForgetfulDisk(t *testing.T) {
	image := noise(1, 6*c)
	s := newServer(t, nil)
	m := newMachine(t, s, make([]byte, len(image)), s.add(image), len(image))
	s.reply = func(r lab.Report) lab.Reply {
		if r.Rung == lab.RungVerify && !r.Proven && r.Progress.Done == 0 {
			f, err := os.OpenFile(m.path, os.O_WRONLY, 0)
			if err != nil {
				t.Error(err)
				return lab.Reply{}
			}
			defer f.Close()
			f.WriteAt([]byte("x"), 4*c+9)
		}
		return lab.Reply{}
	}
	if err := m.run(); !errors.Is(err, lab.ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("byte %d ", 4*c)) {
		t.Errorf("error %v, want one that names byte %d", err, 4*c)
	}
}

func TestFlashRefusesOrders(t *testing.T) {
	image := noise(1, 2*c)
	for name, change := range map[string]func(*lab.Orders){
		"form":      func(o *lab.Orders) { o.Form = "kernel" },
		"nothing":   func(o *lab.Orders) { o.Writes = nil },
		"too large": func(o *lab.Orders) { o.Writes[0].Offset = 1 },
		"negative":  func(o *lab.Orders) { o.Writes[0].Offset = -1 },
		"overlap":   func(o *lab.Orders) { o.Writes = append(o.Writes, o.Writes[0]) },
		"tree":      func(o *lab.Orders) { o.Form = lab.FormTree },
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, nil)
			disk := noise(9, len(image))
			m := newMachine(t, s, disk, s.add(image), len(image))
			change(&s.orders)
			if err := m.run(); !errors.Is(err, lab.ErrInvalid) {
				t.Errorf("error %v, want one that refuses", err)
			}
			if r, ok := s.last(func(r lab.Report) bool { return r.Error != "" }); !ok || !r.Fatal {
				t.Errorf("reported %+v", r)
			}
			if !bytes.Equal(m.disk(), disk) {
				t.Error("the disk changed")
			}
		})
	}
}

// The disk is looked at once more before it is opened; another size is another disk.
func TestFlashOtherDisk(t *testing.T) {
	image := noise(1, 2*c)
	s := newServer(t, nil)
	disk := noise(9, 4*c)
	m := newMachine(t, s, disk, s.add(image), len(image))
	if err := os.Truncate(m.path, 3*c); err != nil {
		t.Fatal(err)
	}
	if err := m.run(); !errors.Is(err, lab.ErrRefused) {
		t.Errorf("error %v, want a refusal", err)
	}
	if !bytes.Equal(m.disk(), disk[:3*c]) {
		t.Error("the disk changed")
	}
	s.orders.Disk.Serial = "other"
	if err := m.run(); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("error %v, want that it is not there", err)
	}
	if _, err := OpenFile(t.TempDir()); err == nil {
		t.Error("a folder was opened as a disk")
	}
	if _, err := OpenFile(m.path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
