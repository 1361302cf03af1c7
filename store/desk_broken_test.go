package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"carte/lab"
)

// An import that is cancelled or breaks in the middle leaves nothing that anybody can see, and nothing on the disk.
func TestImportThatEndsInTheMiddle(t *testing.T) {
	dir := t.TempDir()
	d := hold(t, dir)
	defer d.State.Close()
	i := lab.Import{Name: "deb", Kind: "system", Form: lab.FormDisk}
	data := noise(8<<20, 1)
	before, _ := d.Watch(t.Context(), 0)
	had := everyFile(t, dir)
	broken := errors.New("the cable is out")
	for what, c := range map[string]struct {
		r    func(cancel func()) io.Reader
		want error
	}{
		"cancelled": {func(cancel func()) io.Reader {
			return io.MultiReader(bytes.NewReader(data[:4<<20]), readerFunc(func([]byte) (int, error) { cancel(); return 0, nil }), bytes.NewReader(data[4<<20:]))
		}, context.Canceled},
		"broken": {func(func()) io.Reader { return io.MultiReader(bytes.NewReader(data[:4<<20]), iotest.ErrReader(broken)) }, broken},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := d.Import(ctx, c.r(cancel), i, nil)
		cancel()
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
		if after, _ := d.Watch(t.Context(), 0); after.Rev != before.Rev {
			t.Errorf("%s: the lab has changed", what)
		}
		if left := everyFile(t, dir); !slices.Equal(left, had) {
			t.Errorf("%s: left %v, had %v", what, left, had)
		}
	}
	var last int64
	if _, err := d.Import(t.Context(), bytes.NewReader(data), i, func(done int64) { last = done }); err != nil || last != int64(len(data)) {
		t.Errorf("and then the whole: %v, told %d bytes of %d", err, last, len(data))
	}
}

type readerFunc func([]byte) (int, error)

// Read is once something else, then the end.
func (f readerFunc) Read(p []byte) (int, error) {
	if _, err := f(p); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

func TestDoctorSeesWhatIsBroken(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	d := hold(t, dir)
	defer d.State.Close()
	im, err := d.Import(ctx, bytes.NewReader(noise(600_000, 1)), lab.Import{Name: "deb", Kind: "system", Form: lab.FormDisk}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d.Looks = append(d.Looks, func(context.Context) []lab.Finding { return []lab.Finding{{What: "qemu", Why: "not here"}} })
	if err := os.Remove(filepath.Join(dir, "chunks", "manifests", im.Version.Root.String())); err != nil {
		t.Fatal(err)
	}
	all, err := d.Doctor(ctx)
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]lab.Finding{}
	for _, f := range all {
		said[f.What] = f
	}
	if f := said["images"]; f.OK || !f.Must || !strings.Contains(f.Why, "deb@1") || f.Fix == "" {
		t.Errorf("of the missing manifest: %+v", f)
	}
	if f := said["catalogue"]; !f.OK {
		t.Errorf("of the catalogue: %+v", f)
	}
	if _, ok := said["qemu"]; !ok {
		t.Errorf("nobody asked the looks: %+v", all)
	}
	err = d.Export(ctx, im.Version.Ref(), io.Discard, nil)
	if !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("export: %v", err)
	}
	if err := d.Export(ctx, lab.Ref{Name: "no"}, io.Discard, nil); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("export of nothing: %v", err)
	}
}

// The bytes that leave are the bytes that came, or there is an error.
func TestDeskFindsFlippedBits(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	d := hold(t, dir)
	defer d.State.Close()
	data := noise(1<<20, 5)
	i := lab.Import{Name: "deb", Kind: "system", Form: lab.FormDisk}
	if _, err := d.Import(ctx, bytes.NewReader(data), i, nil); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(dir, "chunks", "packs", "*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	f, err := os.OpenFile(packs[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{^data[300_000]}, 300_100); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"verify": d.Verify(ctx, lab.Ref{Name: "deb"}, nil), "export": d.Export(ctx, lab.Ref{Name: "deb"}, io.Discard, nil)} {
		if !errors.Is(err, lab.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if again, err := d.Import(ctx, bytes.NewReader(data), i, nil); err != nil || !again.Same || again.New == 0 {
		t.Errorf("mended by importing again: %+v, %v", again, err)
	}
	if err := d.Verify(ctx, lab.Ref{Name: "deb"}, nil); err != nil {
		t.Error(err)
	}
}
