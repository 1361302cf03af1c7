package layout

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const mib = 1 << 20

// call calls a program and returns what it prints. Where it is missing, `make test` installs it.
func call(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	path := tool(t, name)
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// tool finds a program, also where only root's path has it.
func tool(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	t.Skipf("%s is not installed; testdata/need test brings it", name)
	return ""
}

// empty makes a file of size zeros.
func empty(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func save(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// junk returns n bytes that are the same for the same seed.
func junk(seed byte, n int) []byte {
	b := make([]byte, n)
	c := rand.NewChaCha8([32]byte{seed})
	if _, err := c.Read(b); err != nil {
		panic(err)
	}
	return b
}

func readMap(t testing.TB, b []byte) Map {
	t.Helper()
	m, err := Read(t.Context(), bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	check(t, m, int64(len(b)))
	return m
}

// check looks at what every map promises.
func check(t testing.TB, m Map, size int64) {
	t.Helper()
	for _, list := range [][]Extent{m.Free, m.Stale} {
		end := int64(-1)
		for _, e := range list {
			if e.Bytes <= 0 || e.Off <= end || e.Off+e.Bytes > size {
				t.Errorf("extent %+v behind %d in %d bytes", e, end, size)
			}
			end = e.Off + e.Bytes
		}
	}
	if both := append(append([]Extent(nil), m.Free...), m.Stale...); sum(merged(both)) != sum(m.Free)+sum(m.Stale) {
		t.Error("free and stale bytes overlap")
	}
}
