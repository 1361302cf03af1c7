package ext4

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
)

func nodesOf(t *testing.T, r io.ReaderAt, size int64) []*Node {
	t.Helper()
	f, err := Open(r, size)
	if err != nil {
		t.Fatal(err)
	}
	all, err := f.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// plain is what a caller of Build says about a node.
func plain(n *Node) Node {
	x := Node{Mode: n.Mode, UID: n.UID, GID: n.GID, Time: n.Time.UTC(), Link: n.Link, Major: n.Major, Minor: n.Minor, Size: n.Size}
	if len(n.Xattrs) > 0 {
		x.Xattrs = map[string][]byte{}
		for name, value := range n.Xattrs {
			x.Xattrs[name] = append([]byte{}, value...)
		}
	}
	return x
}

func contents(t *testing.T, r io.ReaderAt, n *Node) []byte {
	t.Helper()
	b := make([]byte, n.Size)
	for _, x := range n.Data {
		if _, err := r.ReadAt(b[x.At:x.At+x.Bytes], x.From); err != nil && err != io.EOF {
			t.Fatalf("%s: %v", n.Path, err)
		}
	}
	return b
}

func TestNodesAreWhatWasBuilt(t *testing.T) {
	s := everything()
	im := s.build(t, 0, nil)
	all := nodesOf(t, im, im.Size)
	var same func(path string, was, is *Node)
	same = func(path string, was, is *Node) {
		if a, b := plain(was), plain(is); !reflect.DeepEqual(a, b) {
			t.Errorf("%q was %+v and is %+v", path, a, b)
		}
		if was.Size < 64<<20 && !bytes.Equal(contents(t, bytes.NewReader(s.data), was), contents(t, im, is)) {
			t.Errorf("%q has other contents", path)
		}
		for name, child := range was.Names {
			switch is.Names[name] {
			case nil:
				if name != lostFound {
					t.Errorf("%q is gone", path+"/"+name)
				}
			default:
				same(path+"/"+name, child, is.Names[name])
			}
		}
		if len(is.Names) > len(was.Names) {
			t.Errorf("%q has more names than it had", path)
		}
	}
	same("", s.root, all[0])
	if all[0].Names["hard"] != all[0].Names["big"] {
		t.Error("a hard link became two files")
	}
	again, err := Build(all, im, Options{Label: "x", UUID: testUUID}, nil)
	if err != nil {
		t.Fatal(err)
	}
	tool(t, "e2fsck", "-f", "-n", written(t, again))
}

func TestNodesOfAnotherWriter(t *testing.T) {
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("mke2fs is not installed: ", err)
	}
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "x.ext4")
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o751); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	if err := os.WriteFile(filepath.Join(dir, "a/b/c"), want, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("b/c", filepath.Join(dir, "a/link")); err != nil {
		t.Fatal(err)
	}
	tool(t, "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", dir, file, "64M")
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root := nodesOf(t, f, 64<<20)[0]
	a := root.Names["a"]
	if a == nil || a.Mode != TypeDir|0o751 || a.Names["link"].Link != "b/c" {
		t.Fatalf("a is %+v", a)
	}
	if c := a.Names["b"].Names["c"]; c.Mode != TypeFile|0o640 || !bytes.Equal(contents(t, f, c), want) {
		t.Errorf("c is %+v", c)
	}
}
