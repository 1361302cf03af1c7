package folder

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"carte/lab"
)

func read(t *testing.T, dir string) ([]byte, []string) {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b, r.Left
}

func TestFolderIsATar(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	write("b/one", "1")
	write("b/later", "2")
	write("a", "")
	write(strings.Repeat("n", 255), "long")
	old := time.Unix(-5, 789)
	hole, err := os.Create(filepath.Join(dir, "hole"))
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := errors.Join(os.Link(filepath.Join(dir, "b/one"), filepath.Join(dir, "c")), os.Symlink("/etc", filepath.Join(dir, "d")), syscall.Mkfifo(filepath.Join(dir, "e"), 0o600),
		hole.Truncate(9<<20), hole.Close(), os.Chmod(filepath.Join(dir, "a"), 0o4755|os.ModeSetuid), os.Chtimes(filepath.Join(dir, "a"), old, old)); err != nil {
		t.Fatal(err)
	}
	text, left := read(t, dir)
	var got []string
	r := tar.NewReader(bytes.NewReader(text))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(h.Typeflag)+h.Name[:min(len(h.Name), 8)]+">"+h.Linkname)
		switch h.Name {
		case "a":
			if h.Mode != 0o4755 || !h.ModTime.Equal(old) || h.Uid != os.Getuid() {
				t.Errorf("a is %+v", h)
			}
		case "hole":
			if h.PAXRecords[lab.SparseRecord] == "" || h.Size != 9<<20 {
				t.Errorf("the hole is %+v", h)
			}
		}
	}
	if want := "5./> 0a> 5b/> 0b/later> 0b/one> 1c>b/one 2d>/etc 6e> 0hole> 0nnnnnnnn>"; strings.Join(got, " ") != want {
		t.Errorf("members %v, want %s", got, want)
	}
	if len(left) != 1 || !strings.Contains(left[0], "socket: a socket lives only") {
		t.Errorf("left out %q", left)
	}
	if again, _ := read(t, dir); !bytes.Equal(again, text) {
		t.Error("the same folder gave other bytes")
	}
	if link := filepath.Join(t.TempDir(), "link"); os.Symlink(dir, link) == nil {
		if same, _ := read(t, link); !bytes.Equal(same, text) {
			t.Error("a link to the folder gave other bytes")
		}
	}
}

func TestFolderRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("a file: %v", err)
	}
	if _, err := Open(file + "x"); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("nothing: %v", err)
	}
}

// A file that becomes shorter while it is read is an error that names it.
func TestFolderChanges(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 8<<10)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), file+": it became shorter") {
		t.Errorf("it became shorter: %v", err)
	}
}

// Who is not root reads the owners that there are, and is told which file may not be read.
func TestFolderOfOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("another user is to be had by root only")
	}
	dir, err := os.MkdirTemp("/tmp", "carte-folder-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "folder.test")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "tree")
	if err := errors.Join(os.WriteFile(bin, self, 0o755), os.Chmod(dir, 0o755), os.Mkdir(tree, 0o755), os.WriteFile(filepath.Join(tree, "open"), nil, 0o644), os.WriteFile(filepath.Join(tree, "secret"), []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(bin, "-test.run", "TestAsNobody", "-test.v")
	c.Env, c.Dir = append(os.Environ(), "CARTE_FOLDER="+tree), dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := c.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAsNobody(t *testing.T) {
	tree := os.Getenv("CARTE_FOLDER")
	if tree == "" {
		return // TestFolderOfOthers runs this as another user
	}
	r, err := Open(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if !errors.Is(err, lab.ErrDenied) || !strings.Contains(err.Error(), filepath.Join(tree, "secret")+": you may not read it") {
		t.Errorf("a secret: %v", err)
	}
	if h, err := tar.NewReader(bytes.NewReader(text)).Next(); err != nil || h.Uid != 0 {
		t.Errorf("the first entry is %+v, %v", h, err)
	}
}
