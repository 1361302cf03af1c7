package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
)

// TestMain keeps the marks of unfinished flashes out of the cache folder of whoever runs the tests.
func TestMain(m *testing.M) {
	if os.Getenv(killed) != "" { // a child of a test, which has its parent's
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "carte-cache-")
	if err == nil {
		err = os.Setenv("XDG_CACHE_HOME", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// A little work in a large file, where no sample looks, is not written over, whatever the strategy.
func TestFlashAsksForOneByte(t *testing.T) {
	s := newShelf()
	image := noise(1, 300*c)
	v := s.add(t, 1, image)
	path := filepath.Join(t.TempDir(), "disk")
	for _, how := range lab.Strategies {
		for _, at := range []int{17, 100*c + 5, 151 * c, 300*c - 1} {
			used := bytes.Clone(image)
			used[at] ^= 1
			if err := os.WriteFile(path, used, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Flash(t.Context(), s, lab.Flash{Version: v, To: path, Strategy: how}, Audience{})
			if got, e := os.ReadFile(path); e != nil || !errors.Is(err, lab.ErrConfirm) || !bytes.Equal(got, used) {
				t.Errorf("%s, byte %d: %v", how, at, err)
			}
		}
	}
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, how := range lab.Strategies {
		done, err := Flash(t.Context(), s, lab.Flash{Version: v, To: path, Strategy: how}, Audience{})
		if err != nil || done.Same != (how != lab.Full) {
			t.Errorf("%s, untouched: %+v, %v", how, done, err)
		}
	}
}

// What a file holds where the image needs nothing is neither asked about nor written.
func TestFlashAsksNotForFree(t *testing.T) {
	s := newShelf()
	image := noise(1, 9*c)
	s.add(t, 1, image)
	m, err := chunk.Scan(t.Context(), bytes.NewReader(image), func(int, []byte) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	m.IDs[4] = chunk.Free
	s.m[m.Root()] = m
	v := lab.Version{Image: "im", Number: 2, Root: m.Root(), Bytes: m.Size}
	path := filepath.Join(t.TempDir(), "disk")
	have := joined(image[:4*c], noise(7, c), image[5*c:])
	if err := os.WriteFile(path, have, 0o600); err != nil {
		t.Fatal(err)
	}
	var said []string
	done, err := Flash(t.Context(), s, lab.Flash{Version: v, To: path}, Audience{Say: func(l string) { said = append(said, l) }})
	if err != nil || !done.Same || !strings.Contains(strings.Join(said, "\n"), "in every byte that it needs") {
		t.Errorf("%+v, %v, said %q", done, err, said)
	}
}

// A flash of a file or device that was interrupted goes on without a question, also over a torn chunk and over what was
// confirmed; another version does not.
func TestFlashGoesOn(t *testing.T) {
	image := noise(1, 200*c)
	s := newShelf()
	v, other := s.add(t, 1, image), s.add(t, 2, noise(2, 200*c))
	for name, junk := range map[string]bool{"blank": false, "confirmed": true} {
		file := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(file, make([]byte, 200*c), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{file, loop(t, 200*c)} {
			t.Run(name+" "+filepath.Base(path), func(t *testing.T) {
				o := lab.Flash{Version: v, To: path}
				if junk {
					o.Confirm = path
					if err := os.WriteFile(path, noise(9, 200*c), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				s.served.Store(0)
				s.before = func(n int64) {
					if n == 120 {
						cancel()
					}
				}
				_, err := Flash(ctx, s, o, Audience{})
				s.before = nil
				if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "holds a part of im@1") {
					t.Fatalf("error %v", err)
				}
				if !junk { // a torn chunk
					f, err := os.OpenFile(path, os.O_RDWR, 0)
					if err == nil {
						_, err = f.WriteAt(make([]byte, 4096), 8192)
						err = errors.Join(err, f.Close())
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				o.Confirm = ""
				if _, err := Flash(t.Context(), s, lab.Flash{Version: other, To: path}, Audience{}); !errors.Is(err, lab.ErrConfirm) {
					t.Errorf("another version: %v", err)
				}
				if _, err := Flash(t.Context(), s, o, Audience{}); err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, image) {
					t.Errorf("it is not the image: %v", err)
				}
				if err := os.WriteFile(path, noise(9, 200*c), 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := Flash(t.Context(), s, o, Audience{}); !errors.Is(err, lab.ErrConfirm) {
					t.Errorf("finished, and used since: %v", err)
				}
			})
		}
	}
}

// A file that a loop device has is not written behind its back.
func TestFlashAttached(t *testing.T) {
	loops(t, "losetup")
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 40*c), 0o600); err != nil {
		t.Fatal(err)
	}
	dev := strings.TrimSpace(tool(t, "losetup", "--find", "--show", file))
	s := newShelf()
	o := lab.Flash{Version: s.add(t, 1, noise(1, 9*c)), To: file, Confirm: file}
	_, err := Flash(t.Context(), s, o, Audience{})
	tool(t, "losetup", "--detach", dev)
	if !errors.Is(err, lab.ErrBusy) || !strings.Contains(err.Error(), dev) {
		t.Errorf("error %v", err)
	}
}

// A larger file has its table fitted, as a device has; another version goes over it and back without a question.
func TestFlashFitsALargerFile(t *testing.T) {
	s := newShelf()
	one, two := gptImage(t, 8*mib, 1), gptImage(t, 10*mib, 2)
	v1, v2 := s.add(t, 1, one), s.add(t, 2, two)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 32*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	for k, v := range []lab.Version{v1, v1, v2, v1, v2} {
		done, err := Flash(t.Context(), s, lab.Flash{Version: v, To: path, Known: []lab.Version{v1, v2}}, Audience{})
		if err != nil || done.Same != (k == 1) {
			t.Fatalf("flash %d: %+v, %v", k, done, err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		table, err := layout.ReadTable(bytes.NewReader(b), 32*mib)
		if err != nil || table.Copy != 32*mib-512 || len(table.Parts) != 2 {
			t.Errorf("flash %d: %+v, %v", k, table, err)
		}
		if _, err := exec.LookPath("sfdisk"); err == nil {
			tool(t, "sfdisk", "--verify", path)
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("mine"), 32*mib-2000)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Flash(t.Context(), s, lab.Flash{Version: v2, To: path, Known: []lab.Version{v1, v2}}, Audience{}); !errors.Is(err, lab.ErrConfirm) {
		t.Errorf("a changed copy of the table: %v", err)
	}
}
