package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// shelf is a source of chunks in memory.
type shelf struct {
	m      map[chunk.ID]chunk.Manifest
	stored map[chunk.ID][]byte
	served atomic.Int64
	before func(n int64) // each chunk that is handed over, when not nil
}

func newShelf() *shelf {
	return &shelf{m: map[chunk.ID]chunk.Manifest{}, stored: map[chunk.ID][]byte{}}
}

// add makes b a version.
func (s *shelf) add(t testing.TB, number int, b []byte) lab.Version {
	m, err := chunk.Scan(t.Context(), bytes.NewReader(b), func(_ int, b []byte) error {
		if id := chunk.Sum(b); !id.IsZero() {
			s.stored[id] = chunk.Pack(nil, b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.m[m.Root()] = m
	return lab.Version{Image: "im", Number: number, Root: m.Root(), Bytes: m.Size}
}

func (s *shelf) Manifest(_ context.Context, root chunk.ID, size int64) (chunk.Manifest, error) {
	if m, ok := s.m[root]; ok && m.Size == size {
		return m, nil
	}
	return chunk.Manifest{}, lab.ErrNotFound
}

func (s *shelf) Chunks(_ context.Context, ids []chunk.ID, each func(chunk.ID, []byte) error) (got int, err error) {
	for _, id := range ids {
		if n := s.served.Add(1); s.before != nil {
			s.before(n)
		}
		if err := each(id, s.stored[id]); err != nil {
			return got, err
		}
		got++
	}
	return got, nil
}

// preview is what a flash that reads first has to write and to zero, from the bytes themselves.
func preview(image, disk []byte) (write, zero int64) {
	for off := 0; off < len(image); off += chunk.Size {
		want := image[off:min(off+chunk.Size, len(image))]
		have := make([]byte, len(want))
		if off < len(disk) {
			copy(have, disk[off:])
		}
		switch {
		case bytes.Equal(have, want):
		case chunk.IsZero(want):
			zero += int64(len(want))
		default:
			write += int64(len(want))
		}
	}
	return write, zero
}

// Whatever a file holds and however it is flashed, it holds the image afterwards and what lies behind is untouched. What
// is written is what had to be; once more, nothing is.
func TestFlashFile(t *testing.T) {
	image := joined(noise(1, 40*c), make([]byte, 9*c), noise(2, 2*c+4096), make([]byte, c-4096), noise(3, 3*c))
	all := slices.Collect(slices.Chunk(image, c))
	slices.Reverse(all)
	for name, tt := range map[string]struct{ image, disk []byte }{
		"new":             {image, nil},
		"permuted":        {image, joined(all...)},
		"shifted":         {image, joined(make([]byte, 512), image)[:len(image)]},
		"one byte":        {image, joined(image[:c+17], []byte{image[c+17] + 1}, image[c+18:])},
		"noise":           {image, noise(5, len(image))},
		"zero over noise": {make([]byte, 7*c), noise(6, 7*c)},
		"zero over zero":  {make([]byte, 7*c), make([]byte, 7*c)},
		"all the same":    {bytes.Repeat(noise(9, c), 50), make([]byte, 50*c)},
		"odd size":        {image[:len(image)-c+1001], noise(5, 3*c+7)},
		"tiny":            {[]byte{42}, nil},
		"tiny zero":       {[]byte{0}, nil},
		"longer file":     {image, joined(noise(7, len(image)), noise(8, 2*c))},
	} {
		for _, how := range lab.Strategies {
			t.Run(fmt.Sprint(name, " ", how), func(t *testing.T) {
				t.Parallel()
				s := newShelf()
				v := s.add(t, 1, tt.image)
				path := filepath.Join(t.TempDir(), "disk")
				if tt.disk != nil {
					if err := os.WriteFile(path, tt.disk, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				o := lab.Flash{Version: v, To: path, Strategy: how, Confirm: path}
				done, err := Flash(t.Context(), s, o, Audience{})
				if err != nil {
					t.Fatal(err)
				}
				want := bytes.Clone(tt.image)
				if len(tt.disk) > len(want) {
					want = append(want, tt.disk[len(want):]...)
				}
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("the file is not the image: %v", err)
				}
				if write, zero := preview(tt.image, tt.disk); done.Strategy == lab.Differential && (done.Written+done.Kept != write || done.Zeroed != zero) {
					t.Errorf("%d written, %d kept, %d zeroed; %d and %d had to be", done.Written, done.Kept, done.Zeroed, write, zero)
				}
				o.Strategy = lab.Differential
				again, err := Flash(t.Context(), s, o, Audience{})
				if err != nil || !again.Same || again.Written+again.Zeroed+again.Fetched != 0 {
					t.Errorf("the second time: %+v, %v", again, err)
				}
			})
		}
	}
}

// Holes are neither read nor written, and stay holes.
func TestFlashFileSparse(t *testing.T) {
	s := newShelf()
	v := s.add(t, 1, joined(noise(1, 2*c), make([]byte, 500*c), noise(2, c)))
	path := filepath.Join(t.TempDir(), "disk")
	done, err := Flash(t.Context(), s, lab.Flash{Version: v, To: path, Check: lab.CheckNever}, Audience{})
	if err != nil || done.Read != 0 || done.Written != 3*c || done.Zeroed != 0 || done.Strategy != lab.Full {
		t.Errorf("%+v, %v", done, err)
	}
	again, err := Flash(t.Context(), s, lab.Flash{Version: v, To: path}, Audience{})
	if err != nil || !again.Same || again.Strategy != lab.Differential || again.Read > 100*c { // the probe reads a little twice
		t.Errorf("the second time: %+v, %v", again, err)
	}
}

// What nobody has confirmed stays as it is.
func TestFlashGuards(t *testing.T) {
	s := newShelf()
	first, second := joined(noise(1, 20*c), make([]byte, c)), joined(noise(1, 15*c), noise(2, 6*c))
	v1, v2, v3 := s.add(t, 1, first), s.add(t, 2, second), s.add(t, 3, joined(second, noise(3, c)))
	for name, tt := range map[string]struct {
		disk    []byte
		confirm string
		says    string // "" when it may go
	}{
		"foreign":              {noise(9, 3*c), "", "data of an unknown kind"},
		"foreign, other name":  {noise(9, 3*c), "disk", "not what would be overwritten"},
		"foreign, confirmed":   {noise(9, 3*c), "PATH", ""},
		"empty":                {nil, "", ""},
		"zeros":                {make([]byte, 90*c), "", ""},
		"earlier version":      {first, "", ""},
		"used since":           {joined(noise(8, 4*c), first[4*c:]), "", "data of an unknown kind"},
		"used a little since":  {joined(first[:7*c+99], []byte("thesis"), first[7*c+105:]), "", "unknown kind"},
		"of two versions":      {joined(first[:3*c], second[3*c:9*c], first[9*c:]), "", ""},
		"confirmed, ./":        {noise(9, 3*c), "DIR/./disk", ""},
		"longer version":       {joined(second, noise(3, c)), "", ""},
		"half done":            {joined(second[:9*c], make([]byte, c), first[10*c:]), "", ""},
		"ext2":                 {joined(make([]byte, 1024+56), []byte{0x53, 0xef}, make([]byte, 4*c)), "", "holds ext2"},
		"something behind":     {joined(first, make([]byte, 3*c), noise(7, c)), "", "behind it"},
		"something behind, ok": {joined(first, make([]byte, 3*c), noise(7, c)), "PATH", ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(path, tt.disk, 0o600); err != nil {
				t.Fatal(err)
			}
			o := lab.Flash{Version: v2, To: path, Known: []lab.Version{v1, v2, v3}, Confirm: strings.NewReplacer("PATH", path, "DIR", filepath.Dir(path)).Replace(tt.confirm)}
			_, err := Flash(t.Context(), s, o, Audience{})
			got, readErr := os.ReadFile(path)
			if readErr != nil {
				t.Fatal(readErr)
			}
			switch {
			case tt.says == "" && (err != nil || !bytes.HasPrefix(got, second)):
				t.Errorf("it may go: %v", err)
			case tt.says != "" && (!errors.Is(err, lab.ErrConfirm) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "--confirm "+path) || !bytes.Equal(got, tt.disk)):
				t.Errorf("error %v, want %q and nothing changed", err, tt.says)
			}
		})
	}
}

func TestFlashRefusesTargets(t *testing.T) {
	s := newShelf()
	v := s.add(t, 1, noise(1, c))
	dir := t.TempDir()
	for path, kind := range map[string]error{dir: lab.ErrInvalid, "/dev/null": lab.ErrInvalid, "/dev/carte-nope": lab.ErrNotFound, dir + "/no/file": lab.ErrNotFound} {
		if _, err := Flash(t.Context(), s, lab.Flash{Version: v, To: path}, Audience{}); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", path, err, kind)
		}
	}
	for _, o := range []lab.Flash{{Strategy: "magic"}, {Check: "maybe"}} {
		o.Version, o.To = v, dir+"/x"
		if _, err := Flash(t.Context(), s, o, Audience{}); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := os.Stat(dir + "/x"); err == nil {
		t.Error("a file was made for nothing")
	}
}

// An interrupted flash is an error, and goes on where it was.
func TestFlashInterrupted(t *testing.T) {
	image := noise(1, 200*c)
	s := newShelf()
	v := s.add(t, 1, image)
	path := filepath.Join(t.TempDir(), "disk")
	ctx, cancel := context.WithCancel(t.Context())
	s.before = func(n int64) {
		if n == 120 {
			cancel()
		}
	}
	if _, err := Flash(ctx, s, lab.Flash{Version: v, To: path}, Audience{}); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "goes on from there") {
		t.Fatalf("error %v", err)
	}
	s.before = nil
	s.served.Store(0)
	done, err := Flash(t.Context(), s, lab.Flash{Version: v, To: path}, Audience{})
	if err != nil || s.served.Load() > 90 || done.Written != s.served.Load()*c {
		t.Errorf("%d chunks fetched, %+v, %v", s.served.Load(), done, err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, image) {
		t.Errorf("the file is not the image: %v", err)
	}
}

// What a flash puts on a file is sampled, or not read at all, when that was asked for.
func TestFlashChecks(t *testing.T) {
	s := newShelf()
	v := s.add(t, 1, noise(1, 64*c))
	for check, most := range map[lab.Check]int64{lab.CheckNever: 0, lab.CheckSampled: 4 * c, lab.CheckAlways: 64 * c} {
		done, err := Flash(t.Context(), s, lab.Flash{Version: v, To: filepath.Join(t.TempDir(), "disk"), Check: check}, Audience{})
		if err != nil || done.Read != most || done.Verify != check {
			t.Errorf("%s: %d read, want %d: %v", check, done.Read, most, err)
		}
	}
}
