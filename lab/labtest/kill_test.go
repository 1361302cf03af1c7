package labtest

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/store"
)

// Commands are killed with SIGKILL at each of their steps on the disk: before every sync, rename, truncation and removal, and before the first and the
// last of each row of writes to one file. Whatever the moment, fsck finds nothing, what was acknowledged is there byte for byte, nothing is half
// there, and the command, given again, succeeds.
func TestCommandsKilledAtEveryStep(t *testing.T) {
	files := t.TempDir()
	file := func(name string, b []byte) string {
		path := filepath.Join(files, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	shared, fresh := randomBytes(1, 1<<20), randomBytes(2, 1<<20)
	old := file("old.raw", append(bytes.Clone(shared[:256<<10]), randomBytes(3, 2<<20)...))
	base, next := file("base.raw", shared), file("new.raw", fresh)
	tree := file("tree.gz", packedTree(t, 8<<20))

	home := filepath.Join(t.TempDir(), "lab") // base shares a chunk with a pack that is mostly of no use any more
	for _, args := range [][]string{{"image", "import", old, "--name", "old"}, {"image", "import", base, "--name", "base"}, {"image", "rm", "old", "--confirm", "old"}} {
		traced(t, home, 0, args...)
	}
	known := map[string][]byte{"base@1": shared}
	for _, x := range []struct {
		what  string
		args  []string
		made  []byte  // of new@1; nil: not known beforehand
		calls []touch // that must be among the steps
	}{
		{"import", []string{"image", "import", next, "--name", "new"}, fresh, nil},
		{"import of a packed tree", []string{"image", "import", tree, "--name", "new", "--form", "tree"}, nil, []touch{{"ftruncate", "/chunks/packs/######.pack"}}},
		{"capture", []string{"capture", "new", "--from", next}, fresh, nil},
		{"first", []string{"image", "import", next, "--name", "new"}, fresh, nil},
		{"gc", []string{"gc"}, nil, []touch{{"unlink", "/chunks/packs/######.pack"}, {"rename", "/chunks/packs/######.index.tmp"}}},
	} {
		t.Run(x.what, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			home, known := home, known
			if x.what == "first" { // in a folder that is not there yet
				home, known = filepath.Join(t.TempDir(), "none"), map[string][]byte{}
			}
			whole := copied(t, home)
			all, _, _ := traced(t, whole, 0, x.args...)
			sound(t, whole, known, "unharmed")
			steps := phases(all)
			for _, want := range x.calls {
				if !slices.Contains(all, want) {
					t.Errorf("no %v in %v", want, all)
				}
			}
			if testing.Short() {
				steps = steps[:min(len(steps), 6)]
			}
			kills := 0
			for _, n := range steps {
				dir, when := copied(t, home), fmt.Sprintf("killed before step %d of %d, %v", n, len(all), all[n-1])
				_, said, killed := traced(t, dir, n, x.args...)
				must := maps.Clone(known)
				if killed {
					kills++
				}
				if x.made != nil && (strings.Contains(said, "new@1") || !killed) {
					must["new@1"] = x.made
				}
				sound(t, dir, must, when)
				if _, said, _ := traced(t, dir, 0, x.args...); x.what != "gc" && !strings.Contains(said, "new@1") {
					t.Errorf("%s: again: %s", when, said)
				}
				if x.made != nil {
					must["new@1"] = x.made
				}
				sound(t, dir, must, when+", and done again")
				if t.Failed() {
					return
				}
			}
			if kills < len(steps)*9/10 {
				t.Errorf("%d kills at %d steps", kills, len(steps))
			}
			t.Logf("%d kills at %d steps in %v", kills, len(all), time.Since(begin))
		})
	}
}

// phases picks, of all steps, counted from 1, the first and the last of each row of equal ones.
func phases(all []touch) (steps []int) {
	for i, c := range all {
		if i == 0 || all[i-1] != c || i+1 == len(all) || all[i+1] != c {
			steps = append(steps, i+1)
		}
	}
	return steps
}

// sound checks a folder that nobody has open.
func sound(t *testing.T, dir string, known map[string][]byte, when string) {
	t.Helper()
	ctx := t.Context()
	s, err := store.Open(ctx, dir)
	if err != nil {
		t.Errorf("%s: %v", when, err)
		return
	}
	defer s.Close()
	l, err := lab.Open(ctx, lab.Config{Book: s.DB, Now: time.Now, Secret: s.Secret, Still: true})
	if err != nil {
		t.Errorf("%s: %v", when, err)
		return
	}
	d := &store.Desk{Lab: l, State: s, Still: true}
	got, err := d.Fsck(ctx, nil)
	if err != nil || got.Damaged != 0 || len(got.Broken) != 0 || len(got.Notes) != 0 || slices.ContainsFunc(s.Notes, unexpected) {
		t.Errorf("%s: fsck: %+v, %v; on opening: %q", when, got, err, s.Notes)
	}
	for name, want := range known {
		ref, err := lab.ParseRef(name)
		var b bytes.Buffer
		if err == nil {
			err = d.Export(ctx, ref, &b, nil)
		}
		if err != nil || !bytes.Equal(b.Bytes(), want) {
			t.Errorf("%s: %s has %d bytes, want %d (%v)", when, name, b.Len(), len(want), err)
		}
	}
	left := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && (strings.HasSuffix(path, ".tmp") || filepath.Dir(path) == s.Temp()) {
			t.Errorf("%s: %s is left", when, path)
		}
		return err
	})
	if left != nil {
		t.Errorf("%s: %v", when, left)
	}
}

// unexpected says whether a note at opening is none that a kill may bring: before the first row that a catalogue ever has, a version has its card.
func unexpected(note string) bool {
	return !strings.HasPrefix(note, "the catalogue was empty; 1 versions")
}

// copied copies a folder.
func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "lab")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return to
}

func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// packedTree is an ext4 file system with noise in its free space, packed by gzip: an import of it stores more than it keeps.
func packedTree(t *testing.T, size int) []byte {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "tree")
	for name, b := range map[string][]byte{"tree": randomBytes(4, size), "file": randomBytes(5, 300_000)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard", path)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if cmd.Err != nil {
		cmd.Path, cmd.Err = "/usr/sbin/mke2fs", nil
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}
