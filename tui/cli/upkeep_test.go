package cli

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

func (d *testDesk) Collect(_ context.Context, dry bool) (lab.Collected, error) {
	return lab.Collected{Dry: dry, Manifests: 1, Chunks: 2, Bytes: 3 << 20, Notes: []string{"a note"}}, nil
}

// Fsck finds nothing unless there is an image of the name broken, or unneeded.
func (d *testDesk) Fsck(ctx context.Context, progress func(done, of int64)) (lab.Fscked, error) {
	progress(1, 2)
	got := lab.Fscked{Chunks: 2, Bytes: 100, Broken: []lab.Broken{}}
	s, err := d.Watch(ctx, 0)
	if _, ok := s.Images["broken"]; ok {
		got.Broken = append(got.Broken, lab.Broken{What: "chunk", ID: chunk.ID{1}, Why: "damaged", Versions: []lab.Ref{{Name: "broken", Version: 1}}})
	} else if _, ok := s.Images["unneeded"]; ok {
		got.Broken = append(got.Broken, lab.Broken{What: "chunk", ID: chunk.ID{1}, Why: "damaged"})
	}
	got.Damaged, got.Asked = len(got.Broken), d.asked
	return got, err
}

func TestGC(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct{ line, want, errs string }{
		{"gc", "3.1 MB\tfreed\t1 manifest\t2 chunks\n", "a note\n"},
		{"gc --dry-run", "3.1 MB\twould be freed\t1 manifest\t2 chunks\n", "a note\nnothing was removed; carte gc removes it\n"},
	} {
		out, errs, code := b.run(strings.Fields(c.line)...)
		if code != 0 || out != c.want || errs != c.errs {
			t.Errorf("carte %s: %d %q %q", c.line, code, out, errs)
		}
	}
	var doc lab.Collected
	if err := json.Unmarshal([]byte(b.ok("gc --dry-run --json")), &doc); err != nil || !doc.Dry || doc.Bytes != 3<<20 {
		t.Errorf("gc --json: %+v, %v", doc, err)
	}
}

func TestFsck(t *testing.T) {
	b := newBench(t)
	if out, errs, code := b.run("fsck"); code != 0 || out != "" || !strings.Contains(errs, "2 chunks, 100 B read") {
		t.Errorf("sound: %d %q %q", code, out, errs)
	}
	b.in = "x"
	b.ok("image import - --name unneeded")
	if _, errs, code := b.run("fsck"); code != 1 || !strings.Contains(errs, "no version needs what is") || !strings.Contains(errs, "carte gc") {
		t.Errorf("unneeded: %d %q", code, errs)
	}
	b.ok("image import - --name broken")
	out, errs, code := b.run("fsck")
	if code != 1 || out != "chunk\t010000000000\tdamaged\t[broken@1]\n" || !strings.Contains(errs, "1 chunk is damaged, which hurts [broken@1]; import the same file again") {
		t.Errorf("broken: %d %q %q", code, out, errs)
	}
	b.desk.asked = 1
	if _, errs, code := b.run("fsck"); code != 1 || !strings.Contains(errs, "damaged 1, mended from the store 0, asked of machines 1") || !strings.Contains(errs, "machines that have it bring it with their next boot; or import") {
		t.Errorf("asked: %d %q", code, errs)
	}
	out, errs, code = b.run("fsck", "--json")
	var doc lab.Fscked
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != 1 || len(doc.Broken) != 1 || !strings.Contains(errs, "E-DAMAGED") {
		t.Errorf("broken: %d %q %q %v", code, out, errs, err)
	}
}

// An import says what it has mended, also where it adds no version.
func TestImportMends(t *testing.T) {
	b := newBench(t)
	for i, c := range []struct {
		mended int
		want   string
	}{
		{0, "1 B new in the store, 0.2 s"},
		{0, "has these bytes already; nothing was stored"},
		{1, "has these bytes already; 1 B new in the store, mended 1 damaged chunk"},
	} {
		b.in, b.desk.mended = "x", c.mended
		if out := b.ok("image import - --name again"); !strings.Contains(out, c.want) {
			t.Errorf("%d: %q, want %q", i, out, c.want)
		}
	}
	b.in, b.desk.mended = "x", 3
	if out := b.ok("image import - --name other"); !strings.Contains(out, "1 B new in the store, mended 3 damaged chunks, 0.2 s") {
		t.Errorf("%q", out)
	}
	b.in = "x"
	var doc importedDoc
	if err := json.Unmarshal([]byte(b.ok("image import - --name other --json")), &doc); err != nil || doc.Mended != 3 || !doc.Same {
		t.Errorf("%+v, %v", doc, err)
	}
}

func TestImageSaved(t *testing.T) {
	b := newBench(t)
	for _, v := range []lab.Version{
		{Image: "deb", Root: chunk.ID{1}, Bytes: 9000, Content: 8000, Stored: 3000},
		{Image: "deb", Root: chunk.ID{2}, Bytes: 9000, Content: 8000, Stored: 100},
		{Image: "noise", Root: chunk.ID{3}, Bytes: 900, Content: 900, Stored: 936}, // frames cost something
	} {
		if _, err := b.desk.Say(t.Context(), lab.AddVersion{Version: v, Kind: "system", Form: lab.FormDisk}); err != nil {
			t.Fatal(err)
		}
	}
	var doc struct {
		Images []imageDoc
		Stored int64 `json:"stored_bytes"`
		Saved  int64 `json:"saved_bytes"`
	}
	if err := json.Unmarshal([]byte(b.ok("image ls --json")), &doc); err != nil {
		t.Fatal(err)
	}
	if deb := doc.Images[0]; doc.Stored != 4036 || doc.Saved != 12900 || deb.Stored != 3100 || deb.Saved != 12900 || deb.Versions[1].Saved != 7900 {
		t.Errorf("%+v", doc)
	}
	if out := b.ok("image ls"); strings.Contains(out, "total") {
		t.Errorf("a total for scripts: %s", out)
	}
	b.term.Table = true
	if out := b.ok("image ls"); !strings.Contains(out, "SAVED") || !strings.Contains(out, "\ntotal ") {
		t.Errorf("no total for people: %s", out)
	}
}
