package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// copyDir copies the state as it is at this moment: what a kill would leave.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(filepath.Join(to, "s"), os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(to, "s")
}

// checkInvariants opens a state and checks everything that the comment in chunks.go promises.
func checkInvariants(t *testing.T, dir, when string) *Chunks {
	t.Helper()
	c, err := OpenChunks(dir)
	if err != nil {
		t.Fatalf("%s: open: %v", when, err)
	}
	t.Cleanup(func() { c.Close() })
	roots, err := c.Roots()
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	for _, root := range roots {
		if err := c.Verify(t.Context(), root, nil); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	for _, f := range files(t, dir) {
		if strings.HasSuffix(f, temporary) {
			t.Errorf("%s: %s is left", when, f)
		}
		if n, ok := strings.CutSuffix(f, ".pack"); ok && !slices.Contains(files(t, dir), n+".index") {
			t.Errorf("%s: %s has no index", when, f)
		}
	}
	return c
}

func TestKilledAtEveryStep(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	old, new := disk(20, 1<<20), disk(21, 2<<20)
	oldRoot, _ := mustImport(t, c, old)
	states := map[string]string{}
	var steps []string
	c.step = func(name string) {
		steps = append(steps, name)
		states[name] = copyDir(t, dir)
	}
	newRoot, _ := mustImport(t, c, new)
	if err := c.Remove(oldRoot); err != nil {
		t.Fatal(err)
	}
	if _, err := collect(t, c); err != nil {
		t.Fatal(err)
	}
	want := []string{"pack written", "pack synced", "index written", "manifest next", "manifest written", "pack forgotten"}
	if !slices.Equal(steps, want) {
		t.Fatalf("steps %v, want %v", steps, want)
	}
	for _, name := range want {
		c := checkInvariants(t, states[name], name)
		roots, _ := c.Roots()
		visible := slices.Contains(roots, newRoot)
		if want := name == "manifest written" || name == "pack forgotten"; visible != want {
			t.Errorf("%s: the new version is visible: %v", name, visible)
		}
		if name != "pack forgotten" {
			wantExport(t, c, oldRoot, old)
		}
		root, st := mustImport(t, c, new) // and doing it again works
		if stored := name == "pack written" || name == "pack synced"; (st.NewChunks > 0) != stored {
			t.Errorf("%s: the second import stored %d chunks", name, st.NewChunks)
		}
		wantExport(t, c, root, new)
	}
}

// The files of an import are cut at random places, as after a power cut on a disk that lies about sync, and bits flip in them.
func TestTornAndFlippedFiles(t *testing.T) {
	base := t.TempDir()
	c := openChunks(t, base)
	b := disk(22, 2<<20)
	root, _ := mustImport(t, c, b)
	names := files(t, base)
	c.Close()
	r := rand.New(rand.NewPCG(5, 5))
	for i := range 60 {
		dir := copyDir(t, base)
		path := filepath.Join(dir, names[i%len(names)])
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := r.IntN(len(data))
		what := fmt.Sprintf("%s cut at %d", names[i%len(names)], at)
		if i%2 == 0 {
			data[at] ^= 1 << r.IntN(8)
			what = fmt.Sprintf("%s flipped at %d", names[i%len(names)], at)
		} else {
			data = data[:at]
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		mend(t, dir, what, root, b)
	}
}

// mend checks that damage never leaves as content, and that importing the same bytes again mends it.
func mend(t *testing.T, dir, what string, root chunk.ID, want []byte) {
	t.Helper()
	c := openChunks(t, dir)
	defer c.Close()
	var out bytes.Buffer
	err := c.Export(t.Context(), root, &out, nil)
	verr := c.Verify(t.Context(), root, nil)
	if (err == nil) != (verr == nil) {
		t.Errorf("%s: export says %v, verify says %v", what, err, verr)
	}
	if err == nil && !bytes.Equal(out.Bytes(), want) {
		t.Errorf("%s: wrong bytes were exported", what)
	}
	if verr != nil && !errors.Is(verr, lab.ErrDamaged) {
		t.Errorf("%s: %v is not marked as damage", what, verr)
	}
	again, _ := mustImport(t, c, want)
	if again != root {
		t.Fatalf("%s: another root", what)
	}
	wantExport(t, c, root, want)
	c.Close()
	c = openChunks(t, dir)
	defer c.Close()
	wantExport(t, c, root, want)
	if err := c.Verify(t.Context(), root, nil); err != nil {
		t.Errorf("%s: mended, opened again: %v", what, err)
	}
}

func TestIndexIsMadeAgainFromThePack(t *testing.T) {
	dir := t.TempDir()
	c := openChunks(t, dir)
	b := disk(23, 2<<20)
	root, _ := mustImport(t, c, b)
	n := len(c.index)
	c.Close()
	if err := os.WriteFile(indexPath(filepath.Join(dir, "packs"), 0), []byte("scrap"), 0o600); err != nil {
		t.Fatal(err)
	}
	c = openChunks(t, dir)
	if len(c.index) != n {
		t.Errorf("%d of %d chunks found", len(c.index), n)
	}
	wantExport(t, c, root, b)
}

func FuzzDecodeIndex(f *testing.F) {
	f.Add(encodeIndex(nil))
	f.Add(encodeIndex([]entry{{id: chunk.ID{1}, off: 52, len: 7}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if entries, ok := decodeIndex(b); ok && !bytes.Equal(encodeIndex(entries), b) {
			t.Errorf("%x decodes but is not what encodes", b)
		}
	})
}
