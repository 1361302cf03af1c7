package cli

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"carte/lab"
)

// results makes a tar of files; a name with two dots leads out of it.
func results(files ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range files {
		h := &tar.Header{Name: name, Mode: 0o600, Size: int64(len(name)), Typeflag: tar.TypeReg}
		if strings.HasPrefix(name, "link") {
			h.Typeflag, h.Size, h.Linkname = tar.TypeSymlink, 0, "/etc/passwd"
		}
		if w.WriteHeader(h) == nil && h.Size > 0 {
			io.WriteString(w, name)
		}
	}
	w.Close()
	return b.Bytes()
}

func TestUnpack(t *testing.T) {
	send := func(b []byte) func(io.Writer) error {
		return func(w io.Writer) error { _, err := w.Write(b); return err }
	}
	dir := filepath.Join(t.TempDir(), "out")
	if err := unpack(dir, send(results("a.csv", "deep/er/b.csv"))); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "deep/er/b.csv")); err != nil || string(text) != "deep/er/b.csv" {
		t.Errorf("%v %q", err, text)
	}
	if err := unpack(dir, send(results("c"))); err == nil || !strings.Contains(err.Error(), "has something in it") {
		t.Errorf("into a folder that is full: %v", err)
	}
	for _, bad := range []string{"../x", "/etc/x", "link", "a/../../x"} {
		dir := filepath.Join(t.TempDir(), "out")
		if err := unpack(dir, send(results("ok", bad))); err == nil {
			t.Errorf("%s was unpacked", bad)
		}
		if list, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "*")); !slices.Equal(list, []string{dir}) {
			t.Errorf("%s left %q", bad, list)
		}
	}
	if err := unpack(filepath.Join(t.TempDir(), "x"), func(io.Writer) error { return lab.ErrDamaged }); err == nil {
		t.Error("what could not be sent was unpacked")
	}
}
