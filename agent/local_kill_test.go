package agent

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"carte/lab"
)

// killed is the environment variable that makes this test binary a flash that kills itself at that chunk.
const killed = "CARTE_TEST_KILLED_AT"

// TestKilledChild is not a test but the process that TestFlashKilled kills.
func TestKilledChild(t *testing.T) {
	at, err := strconv.ParseInt(os.Getenv(killed), 10, 64)
	if err != nil {
		return // an ordinary run
	}
	image, path := os.Getenv("CARTE_TEST_IMAGE"), os.Getenv("CARTE_TEST_TO")
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	s := newShelf()
	v := s.add(t, 1, b)
	s.before = func(n int64) {
		if n == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	_, err = Flash(t.Context(), s, lab.Flash{Version: v, To: path, Confirm: path, Strategy: lab.Strategy(os.Getenv("CARTE_TEST_STRATEGY"))}, Audience{})
	if err != nil {
		t.Fatal(err)
	}
}

// Killed at any chunk, again and again, a flash ends at the right bytes. A file that was new needs no confirmation to go on.
func TestFlashKilled(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	image := joined(noise(1, 60*c), make([]byte, 10*c), noise(2, 50*c+777))
	for name, disk := range map[string][]byte{"new": nil, "other": joined(noise(3, 80*c), noise(1, 30*c))} {
		for _, how := range []lab.Strategy{lab.Full, lab.Differential} {
			t.Run(name+" "+string(how), func(t *testing.T) {
				dir := t.TempDir()
				file, path := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
				if err := os.WriteFile(file, image, 0o600); err != nil {
					t.Fatal(err)
				}
				if disk != nil {
					if err := os.WriteFile(path, disk, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				for range 4 {
					cmd := exec.Command(os.Args[0], "-test.run=^TestKilledChild$")
					cmd.Env = append(os.Environ(), killed+"="+strconv.Itoa(1+r.IntN(40)), "CARTE_TEST_IMAGE="+file, "CARTE_TEST_TO="+path, "CARTE_TEST_STRATEGY="+string(how))
					out, err := cmd.CombinedOutput()
					var e *exec.ExitError
					if err != nil && (!errors.As(err, &e) || e.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
						t.Fatalf("%v\n%s", err, out)
					}
				}
				s := newShelf()
				o := lab.Flash{Version: s.add(t, 1, image), To: path}
				if disk != nil {
					o.Confirm = path
				}
				if _, err := Flash(t.Context(), s, o, Audience{}); err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, image) {
					t.Errorf("the file is not the image: %v", err)
				}
			})
		}
	}
}

// A full disk is an error that says what to do; with room it goes on.
func TestFlashFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("carte-test", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("a small file system cannot be mounted here (root can): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := newShelf()
	v := s.add(t, 1, noise(1, 30*c))
	o := lab.Flash{Version: v, To: filepath.Join(dir, "disk")}
	if _, err := Flash(t.Context(), s, o, Audience{}); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "free some room") {
		t.Fatalf("error %v", err)
	}
	if err := unix.Mount("carte-test", dir, "tmpfs", unix.MS_REMOUNT, "size=20m"); err != nil {
		t.Fatal(err)
	}
	done, err := Flash(t.Context(), s, o, Audience{})
	if err != nil || done.Written >= 30*c {
		t.Errorf("%+v, %v", done, err)
	}
}

// loop makes a block device over a file of that size.
func loop(t *testing.T, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "backing")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "-f", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device here (root has them): %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup -d %s: %v: %s", dev, err, out)
		}
	})
	return dev
}

// A device is flashed past the cache, with the same guards and more.
func TestFlashDevice(t *testing.T) {
	image := joined(noise(1, 20*c), make([]byte, 10*c), noise(2, 3*c+1000))
	s := newShelf()
	v := s.add(t, 1, image)
	dev := loop(t, 40*c)
	read := func() []byte {
		b, err := os.ReadFile(dev)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, how := range lab.Strategies {
		junk := noise(7, 40*c)
		if err := os.WriteFile(dev, junk, 0o600); err != nil {
			t.Fatal(err)
		}
		o := lab.Flash{Version: v, To: dev, Strategy: how}
		if _, err := Flash(t.Context(), s, o, Audience{}); !errors.Is(err, lab.ErrConfirm) || !bytes.Equal(read(), junk) {
			t.Errorf("foreign contents: %v", err)
		}
		o.Confirm = dev
		if _, err := Flash(t.Context(), s, o, Audience{}); err != nil || !bytes.Equal(read(), joined(image, junk[len(image):])) {
			t.Errorf("%s: not the image: %v", how, err)
		}
		o.Confirm = ""
		if _, err := Flash(t.Context(), s, o, Audience{}); !errors.Is(err, lab.ErrConfirm) || !strings.Contains(err.Error(), "behind it") {
			t.Errorf("a disk with something behind the image: %v", err)
		}
		o.Confirm = dev
		if done, err := Flash(t.Context(), s, o, Audience{}); err != nil || how == lab.Differential && !done.Same {
			t.Errorf("again: %+v, %v", done, err)
		}
	}
	big := s.add(t, 2, noise(5, 40*c+100))
	if _, err := Flash(t.Context(), s, lab.Flash{Version: big, To: dev, Confirm: dev}, Audience{}); !errors.Is(err, lab.ErrRefused) || !strings.Contains(err.Error(), "100 bytes") {
		t.Errorf("too small: %v", err)
	}
	held, err := os.OpenFile(dev, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := Flash(t.Context(), s, lab.Flash{Version: v, To: dev, Confirm: dev}, Audience{}); !errors.Is(err, lab.ErrBusy) {
		t.Errorf("in use: %v", err)
	}
}
