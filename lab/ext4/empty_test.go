package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"carte/lab"
)

var testUUID = [16]byte{0xca, 0x27, 0xe0, 1, 2, 3, 0x44, 5, 0x86, 7, 8, 9, 10, 11, 12, 13}

func empty(t testing.TB, opt Options) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "empty.ext4"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(f.Truncate(opt.Size), Empty(f, opt)); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// tool runs a program of e2fsprogs.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/sbin", "/usr/sbin"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				path = filepath.Join(dir, name)
			}
		}
	}
	if path == "" {
		t.Skipf("%s is not installed (Debian: apt-get install e2fsprogs)", name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func TestEmptyIsAnOrdinaryExt4(t *testing.T) {
	for _, size := range []int64{8 << 20, 64 << 20, 64<<20 + 4096, 128 << 20, 129 << 20, 1 << 30, 20 << 30} {
		t.Run(fmt.Sprint(size>>20, "MiB"), func(t *testing.T) {
			opt := Options{Label: "carte-machine", UUID: testUUID, Size: size}
			path := empty(t, opt)
			tool(t, "e2fsck", "-f", "-n", path)
			text := tool(t, "dumpe2fs", "-h", path)
			for _, want := range []string{"carte-machine", "ca27e001-0203-4405-8607-08090a0b0c0d", "has_journal", "Filesystem state:         clean"} {
				if !strings.Contains(text, want) {
					t.Errorf("dumpe2fs does not say %q:\n%s", want, text)
				}
			}
			in := filepath.Join(t.TempDir(), "in")
			if err := os.WriteFile(in, bytes.Repeat([]byte("notes\n"), 100_000), 0o600); err != nil {
				t.Fatal(err)
			}
			cmds := filepath.Join(t.TempDir(), "cmds")
			if err := os.WriteFile(cmds, fmt.Appendf(nil, "mkdir d\nwrite %s d/f\nwrite %s g\nrm g\nls -l /\n", in, in), 0o600); err != nil {
				t.Fatal(err)
			}
			if text := tool(t, "debugfs", "-w", "-f", cmds, path); strings.Contains(text, "No space") || !strings.Contains(text, "lost+found") {
				t.Errorf("debugfs:\n%s", text)
			}
			tool(t, "e2fsck", "-f", "-n", path)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			sb := make([]byte, sbSize)
			if _, err := f.ReadAt(sb, sbAt); err != nil || Sound(sb, opt) != "" {
				t.Errorf("Sound: %s, %v", Sound(sb, opt), err)
			}
		})
	}
}

func TestEmptyIsDeterministic(t *testing.T) {
	var first []byte
	for range 5 {
		b, err := os.ReadFile(empty(t, Options{Label: "x", UUID: testUUID, Size: 16 << 20}))
		if err != nil || first != nil && !bytes.Equal(first, b) {
			t.Fatal("the same options gave other bytes", err)
		}
		first = b
	}
}

func TestEmptyRefuses(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, opt := range map[string]Options{"no uuid": {Size: 64 << 20}, "label": {UUID: testUUID, Label: "seventeen letters", Size: 64 << 20},
		"odd": {UUID: testUUID, Size: 64<<20 + 1}, "none": {UUID: testUUID}, "small": {UUID: testUUID, Size: 7 << 20}, "huge": {UUID: testUUID, Size: 2 << 40}} {
		if err := Empty(f, opt); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st, err := f.Stat(); err != nil || st.Size() != 0 {
		t.Errorf("something was written: %v", err)
	}
}

func TestSound(t *testing.T) {
	opt := Options{Label: "x", UUID: testUUID, Size: 16 << 20}
	b, err := os.ReadFile(empty(t, opt))
	if err != nil {
		t.Fatal(err)
	}
	sb := b[sbAt:][:sbSize]
	for _, tt := range []struct {
		what string
		at   int
	}{{"no ext4", sbMagic}, {"another", sbUUID}, {"another", sbLabel + 3}, {"size", sbBlocks}, {"errors", sbState}, {"journal", sbCompat}} {
		bad := bytes.Clone(sb)
		bad[tt.at] ^= 6 // also takes the journal, and brings errors
		if got := Sound(bad, opt); !strings.Contains(got, tt.what) {
			t.Errorf("byte %#x changed: %q, want %q", tt.at, got, tt.what)
		}
	}
	if got := Sound(sb[:100], opt); got == "" {
		t.Error("a piece of a super block is sound")
	}
}
