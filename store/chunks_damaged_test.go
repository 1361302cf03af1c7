package store

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// reheld closes a desk and opens its folder again, as the next command does.
func reheld(t *testing.T, d *Desk) *Desk {
	t.Helper()
	if err := d.State.Close(); err != nil {
		t.Fatal(err)
	}
	d = hold(t, d.State.Dir)
	t.Cleanup(func() { d.State.Close() })
	return d
}

// hurtChunks flips a bit in the middle of the first n chunks of a version, and closes and opens the lab around that.
func hurtChunks(t *testing.T, d *Desk, root chunk.ID, n int) *Desk {
	t.Helper()
	for _, id := range mustManifest(t, d, root).IDs[:n] {
		at := d.State.Chunks.index[id]
		flip(t, packPath(d.State.Chunks.packDir(), at.pack), at.off+int64(at.len)/2)
	}
	return reheld(t, d)
}

func deskFsck(t *testing.T, d *Desk) lab.Fscked {
	t.Helper()
	got, err := d.Fsck(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func importing(t *testing.T, d *Desk, name string, b []byte) lab.Imported {
	t.Helper()
	got, err := d.Import(t.Context(), bytes.NewReader(b), lab.Import{Name: name, Kind: "system", Form: lab.FormDisk}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// wantSound checks that nothing is broken, that nothing says so, and that the version's bytes are there; now, and in the next process.
func wantSound(t *testing.T, d *Desk, ref lab.Ref, want []byte) *Desk {
	t.Helper()
	for range 2 {
		if got := deskFsck(t, d); got.Damaged != 0 || len(got.Broken) != 0 {
			t.Errorf("fsck: %+v", got)
		}
		if err := d.Verify(t.Context(), ref, nil); err != nil {
			t.Error(err)
		}
		var out bytes.Buffer
		if err := d.Export(t.Context(), ref, &out, nil); err != nil || !bytes.Equal(out.Bytes(), want) {
			t.Errorf("export: %d bytes, %v", out.Len(), err)
		}
		d = reheld(t, d)
		if _, err := os.Stat(d.State.Chunks.damagedPath()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the note is left: %v", err)
		}
	}
	return d
}

// Whatever finds the damage, and under whatever name the same bytes come again, each command in a process of its own: they mend it.
func TestImportAgainMends(t *testing.T) {
	find := map[string]func(*Desk, lab.Ref) error{
		"fsck":   func(d *Desk, _ lab.Ref) error { _, err := d.Fsck(t.Context(), nil); return err },
		"verify": func(d *Desk, ref lab.Ref) error { return d.Verify(t.Context(), ref, nil) },
		"export": func(d *Desk, ref lab.Ref) error { return d.Export(t.Context(), ref, io.Discard, nil) },
		"flash": func(d *Desk, ref lab.Ref) error {
			ids := mustManifest(t, d, mustVersion(t, d, ref).Root).IDs
			_, err := d.Chunks(t.Context(), ids, func(id chunk.ID, stored []byte) error {
				_, err := chunk.UnpackAny(nil, stored, id)
				return err
			})
			return err
		},
	}
	for how, found := range map[string]int{"fsck": 3, "verify": 3, "export": 1, "flash": 1} {
		for _, name := range []string{"deb", "other"} {
			t.Run(how+", "+name, func(t *testing.T) {
				b := noise(6*chunk.Size, 70)
				d := hold(t, t.TempDir())
				v := importAs(t, d, "deb", b)
				d = hurtChunks(t, d, v.Root, found)
				if err := find[how](d, v.Ref()); how != "fsck" && !errors.Is(err, lab.ErrDamaged) {
					t.Fatal(err)
				}
				d = reheld(t, d)
				lacking, err := d.Lacks(t.Context(), mustManifest(t, d, v.Root).IDs)
				if err != nil || len(lacking) != found {
					t.Errorf("a capture would send %d chunks, want %d, %v", len(lacking), found, err)
				}
				got := importing(t, d, name, b)
				if got.Mended != found || got.Same != (name == "deb") || got.New < int64(found)*chunk.Size {
					t.Errorf("%+v", got)
				}
				wantSound(t, d, got.Version.Ref(), b)
			})
		}
	}
}

func mustVersion(t *testing.T, d *Desk, ref lab.Ref) lab.Version {
	t.Helper()
	v, err := d.version(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Chunks that are gone with their pack are mended as well, and counted.
func TestImportAgainRestores(t *testing.T) {
	b := noise(6*chunk.Size, 71)
	d := hold(t, t.TempDir())
	v := importAs(t, d, "deb", b)
	if err := os.Remove(indexPath(d.State.Chunks.packDir(), 0)); err != nil {
		t.Fatal(err)
	}
	d = reheld(t, d)
	if got := deskFsck(t, d); got.Damaged != 6 || len(got.Broken) != 6 || got.Broken[0].Why != "missing" {
		t.Fatalf("%+v", got)
	}
	d = reheld(t, d)
	if got := importing(t, d, "deb", b); got.Mended != 6 || !got.Same || got.New == 0 {
		t.Errorf("%+v", got)
	}
	d = wantSound(t, d, v.Ref(), b)
	if got := importing(t, d, "deb", b); got.Mended != 0 || got.New != 0 || !got.Same {
		t.Errorf("once more: %+v", got)
	}
	if got := importing(t, d, "new", noise(2*chunk.Size, 72)); got.Mended != 0 || got.New == 0 {
		t.Errorf("other bytes: %+v", got)
	}
}

// What comes from a machine or a capture mends, too, where an earlier process found the damage.
func TestMendAfterRestart(t *testing.T) {
	b := noise(6*chunk.Size, 73)
	m, frames := framesOf(b)
	d := hold(t, t.TempDir())
	v := importAs(t, d, "deb", b)
	d = hurtChunks(t, d, v.Root, 2)
	deskFsck(t, d)
	d = reheld(t, d)
	got, err := d.Keep(t.Context(), lab.Capture{Import: lab.Import{Name: "deb", Kind: "system", Form: lab.FormDisk}}, m, frames)
	if err != nil || got.Mended != 2 || !got.Same {
		t.Errorf("capture: %+v, %v", got, err)
	}
	d = wantSound(t, d, v.Ref(), b)

	d = hurtChunks(t, d, v.Root, 2)
	deskFsck(t, d)
	d = reheld(t, d)
	_, frames = framesOf(b)
	if err := d.Mend(frames); err != nil {
		t.Error(err)
	}
	wantSound(t, d, v.Ref(), b)
}

// A note of a copy that no longer counts, of one that is sound, or one that a broken disk has changed, makes nothing absent.
func TestNotesAreNeverInvented(t *testing.T) {
	b := noise(6*chunk.Size, 74)
	c := openChunks(t, t.TempDir())
	root, _ := mustImport(t, c, b)
	id := chunk.Sum(b[:chunk.Size])
	at := c.index[id]
	flip(t, packPath(c.packDir(), at.pack), at.off+9)
	if err := c.Verify(t.Context(), root, nil); !errors.Is(err, lab.ErrDamaged) {
		t.Fatal(err)
	}
	note, err := os.ReadFile(c.damagedPath())
	if err != nil {
		t.Fatal(err)
	}
	reopen := func(note []byte) *Chunks {
		t.Helper()
		c.Close()
		if err := os.WriteFile(c.damagedPath(), note, 0o600); err != nil {
			t.Fatal(err)
		}
		return openChunks(t, filepath.Clean(c.dir))
	}
	for i := range note { // flipped anywhere, or cut off
		torn := bytes.Clone(note)
		torn[i] ^= 4
		for _, x := range [][]byte{torn, note[:i]} {
			if c = reopen(x); len(c.bad) != 0 {
				t.Fatalf("byte %d: %v", i, c.bad)
			}
		}
	}
	if c = reopen(note); c.Has(id) || len(c.bad) != 1 {
		t.Errorf("not noted: %v", c.bad)
	}
	if _, st := mustImport(t, c, b); st.Mended != 1 || st.NewChunks != 1 {
		t.Errorf("%+v", st)
	}
	if c = reopen(note); !c.Has(id) { // killed before the note was cleared
		t.Error("the good copy does not count")
	}
	wantExportForGood(t, c, root, b)
	flip(t, packPath(c.packDir(), 1), c.index[id].off+9)
	c = openChunks(t, c.dir)
	fsck(t, c, root)
	flip(t, packPath(c.packDir(), 1), c.index[id].off+9) // as where the memory was wrong, not the disk
	if got := fsck(t, c, root); len(got.Broken) != 0 || !c.Has(id) {
		t.Errorf("sound and absent: %+v", got)
	}
}

// A damaged chunk that nobody needs goes with the next collection, however little of its pack it is.
func TestCollectDropsDamage(t *testing.T) {
	b := noise(20*chunk.Size, 75)
	c := openChunks(t, t.TempDir())
	all, _ := mustImport(t, c, b)
	part, _ := mustImport(t, c, b[:19*chunk.Size])
	c.Settle(all)
	c.Settle(part)
	id := chunk.Sum(b[19*chunk.Size:])
	flip(t, packPath(c.packDir(), 0), c.index[id].off+9)
	fsck(t, c, part)
	c.Close()
	c = openChunks(t, c.dir)
	if got := sweepBut(t, c, false, part); got.Chunks != 1 {
		t.Errorf("%+v", got)
	}
	if got := fsck(t, c, part); got.Damaged != 0 || len(c.bad) != 0 {
		t.Errorf("%+v", got)
	}
	wantExportForGood(t, c, part, b[:19*chunk.Size])
}
