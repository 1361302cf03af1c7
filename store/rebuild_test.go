package store

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"carte/lab"
)

// The catalogue is lost; images and versions are found again, all but the one whose card is broken and the one whose manifest is gone.
func TestRebuild(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	d := hold(t, dir)
	add := func(name string, seed uint64) lab.Version {
		t.Helper()
		im, err := d.Import(ctx, bytes.NewReader(noise(400_000, seed)), lab.Import{Name: name, Kind: "system", Form: lab.FormDisk, Message: "a < b"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return im.Version
	}
	for i := range uint64(3) {
		add("deb", i)
	}
	torn, bare, keep := add("torn", 10), add("bare", 11), add("keep", 12)
	if _, err := d.Say(ctx, lab.RemoveImage{Ref: lab.Ref{Name: "deb", Version: 3}, Confirm: "deb@3"}); err != nil {
		t.Fatal(err)
	}
	want, _ := d.Watch(ctx, 0)
	loseCatalogue(t, d)
	if err := os.Truncate(filepath.Join(dir, "versions", torn.Ref().String()+cardExt), 50); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "chunks", "manifests", bare.Root.String())); err != nil {
		t.Fatal(err)
	}
	d = hold(t, dir)
	if notes := strings.Join(d.State.Notes, "\n"); !strings.Contains(notes, "3 versions of 2 images are found again") || !strings.Contains(notes, "torn@1 is not") || !strings.Contains(notes, "bare@1 is not") {
		t.Errorf("it says: %s", notes)
	}
	got, _ := d.Watch(ctx, 0)
	for _, ref := range []string{"deb@1", "deb@2", keep.Ref().String()} {
		if !reflect.DeepEqual(got.Versions[ref], want.Versions[ref]) {
			t.Errorf("%s is %+v, want %+v", ref, got.Versions[ref], want.Versions[ref])
		}
		if err := d.Verify(ctx, got.Versions[ref].Ref(), nil); err != nil {
			t.Error(err)
		}
	}
	if len(got.Versions) != 3 || got.Images["deb"].Kind != "system" || got.Images["deb"].Form != lab.FormDisk {
		t.Errorf("%+v %+v", got.Versions, got.Images)
	}
	if facts, err := d.State.DB.Facts(ctx, 0, 0); err != nil || len(facts) != 1 || !strings.Contains(facts[0].Text, "catalogue was empty") {
		t.Errorf("the journal says %+v, %v", facts, err)
	}
	if err := d.State.Close(); err != nil {
		t.Fatal(err)
	}
	d = hold(t, dir)
	defer d.State.Close()
	if len(d.State.Notes) != 0 {
		t.Errorf("and once more: %q", d.State.Notes)
	}
}

func loseCatalogue(t *testing.T, d *Desk) {
	t.Helper()
	if err := d.State.Close(); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"", "-wal", "-shm"} {
		os.Remove(filepath.Join(d.State.Dir, "lab.db"+end))
	}
}

// A lost card is written again; that of a removed version, or of one that could not be saved, is not left.
func TestCardsFollowTheCatalogue(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	d := hold(t, dir)
	i := lab.Import{Name: "deb", Kind: "system", Form: lab.FormDisk}
	if _, err := d.Import(ctx, bytes.NewReader(noise(1000, 1)), i, nil); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "versions", "deb@1.json")
	if err := os.WriteFile(path, []byte("{}\nscrap\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.State.Close(); err != nil {
		t.Fatal(err)
	}
	d = hold(t, dir)
	defer d.State.Close()
	if c, err := readCard(path); err != nil || c.Image.Name != "deb" {
		t.Errorf("%+v, %v", c, err)
	}
	v := lab.Version{Image: "nobody", Number: 1}
	if err := d.State.DB.Save(ctx, []lab.Change{v, lab.Version{Image: "deb", Number: 1}}); err == nil {
		t.Error("a version of no image was saved")
	}
	if _, err := os.Stat(filepath.Join(dir, "versions", "nobody@1.json")); err == nil {
		t.Error("a version that was not saved has a card")
	}
	if c, err := readCard(path); err != nil || c.Image.Name != "deb" {
		t.Errorf("after a Save that failed: %+v, %v", c, err)
	}
	if _, err := d.Say(ctx, lab.RemoveImage{Ref: lab.Ref{Name: "deb"}, Confirm: "deb"}); err != nil {
		t.Fatal(err)
	}
	if left := everyFile(t, filepath.Join(dir, "versions")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// What a shell opens for >> gets every byte in its place, too.
func TestExportIntoAFileThatAppends(t *testing.T) {
	ctx := t.Context()
	d := hold(t, t.TempDir())
	defer d.State.Close()
	data := append(make([]byte, 1<<20), noise(1<<20, 3)...)
	if _, err := d.Import(ctx, bytes.NewReader(data), lab.Import{Name: "deb", Kind: "system", Form: lab.FormDisk}, nil); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "out")
	for _, flag := range []int{os.O_APPEND, os.O_TRUNC} {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|flag, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Export(ctx, lab.Ref{Name: "deb"}, f, nil); err != nil {
			t.Error(err)
		}
		if _, err := f.Write([]byte("end")); err != nil {
			t.Error(err)
		}
		f.Close()
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, append(data[:len(data):len(data)], "end"...)) {
			t.Errorf("flag %x: %d bytes, %v", flag, len(got), err)
		}
	}
}
