package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carte/lab"
)

// The folder is its owner's alone, says who holds it, and forgets what was temporary.
func TestStateFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"": 0o700, "secret": 0o600, "lab.db": 0o600, "lock": 0o600, "tmp": 0o700, "versions": 0o700} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%q: %v, %v, want %v", name, st, err, want)
		}
	}
	if _, err := Open(t.Context(), dir); !errors.Is(err, lab.ErrBusy) || !strings.Contains(err.Error(), fmt.Sprintf("process %d (%s -test.", os.Getpid(), filepath.Base(os.Args[0]))) || !strings.Contains(err.Error(), "carte serve first") {
		t.Errorf("a second time: %v", err)
	}
	for line, want := range map[string]string{
		"": "another process", "x y": "another process", "12\n": "process 12", "12 carte flash deb\n": "process 12 (carte flash deb)",
	} {
		if got := holder(strings.NewReader(line)); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	if got := command([]string{"/usr/bin/carte", "image", "import", strings.Repeat("\u00e9\n", 90)}); !strings.HasPrefix(got, "carte image import ") || !strings.HasSuffix(got, "...") || len([]rune(got)) != commandLength+3 || strings.Contains(got, "\n") {
		t.Errorf("command: %q", got)
	}
	if free, err := s.Free(); err != nil || free <= 0 {
		t.Errorf("free: %d, %v", free, err)
	}
	made := 0
	for range 2 {
		b, err := s.File("cert.pem", func() ([]byte, error) { made++; return []byte("PEM"), nil })
		if err != nil || string(b) != "PEM" || made != 1 {
			t.Errorf("%q, %v, made %d times", b, err, made)
		}
	}
	if _, err := s.File("other", func() ([]byte, error) { return nil, lab.ErrInvalid }); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("a file that cannot be made: %v", err)
	}
	if err := os.WriteFile(filepath.Join(s.Temp(), "spool"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if left, err := os.ReadDir(s.Temp()); err != nil || len(left) != 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file as the lab's folder: %v", err)
	}
}
