package store

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carte/lab"
)

func hold(t *testing.T, dir string) *Desk {
	t.Helper()
	d, err := Hold(t.Context(), dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

func TestDeskImport(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	d := hold(t, dir)
	disk := lab.Import{Name: "deb", Kind: "system", Form: lab.FormDisk, Message: "first"}
	data := append(noise(1<<20, 1), make([]byte, 3<<20)...)
	one, err := d.Import(ctx, bytes.NewReader(data), disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v := one.Version; v.Ref().String() != "deb@1" || v.Bytes != int64(len(data)) || v.Content != 1<<20 || one.Same || one.New == 0 {
		t.Errorf("import = %+v", one)
	}
	again, err := d.Import(ctx, bytes.NewReader(data), disk, nil)
	if err != nil || !again.Same || again.New != 0 || again.Version.Root != one.Version.Root {
		t.Errorf("the same bytes again = %+v, %v; want the same version and nothing stored", again, err)
	}
	data[0]++
	two, err := d.Import(ctx, bytes.NewReader(data), disk, nil)
	if err != nil || two.Version.Ref().String() != "deb@2" || two.Version.Parent != 1 {
		t.Errorf("other bytes = %+v, %v; want deb@2 from deb@1", two, err)
	}
	if err := d.State.Close(); err != nil {
		t.Fatal(err)
	}
	d = hold(t, dir)
	defer d.State.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := d.Export(ctx, lab.Ref{Name: "deb", Version: 2}, out, nil); err != nil {
		t.Fatal(err)
	}
	if back, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(back, data) {
		t.Errorf("export after a restart differs from what was imported (%v)", err)
	}
	if err := d.Verify(ctx, lab.Ref{Name: "deb"}, nil); err != nil {
		t.Error(err)
	}
}

func TestDeskRefusesImports(t *testing.T) {
	ctx := t.Context()
	d := hold(t, t.TempDir())
	defer d.State.Close()
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for _, c := range []struct {
		what string
		ctx  context.Context
		i    lab.Import
		data []byte
		kind error
		word string
	}{
		{"no name", ctx, lab.Import{Kind: "system", Form: lab.FormDisk}, noise(99, 1), lab.ErrInvalid, "no name"},
		{"unknown kind", ctx, lab.Import{Name: "a", Kind: "sistem", Form: lab.FormDisk}, noise(99, 1), lab.ErrInvalid, "system"},
		{"empty", ctx, lab.Import{Name: "a", Kind: "system", Form: lab.FormDisk}, nil, lab.ErrInvalid, "empty"},
		{"a tree that is none", ctx, lab.Import{Name: "a", Kind: "system", Form: lab.FormTree}, noise(99999, 1), lab.ErrInvalid, "import a: nothing was added: a tree is one ext4"},
		{"cut gzip", ctx, lab.Import{Name: "a", Kind: "system", Form: lab.FormDisk}, []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b"), lab.ErrDamaged, "import a: nothing was added: standard input"},
		{"3 bytes", ctx, lab.Import{Name: "a", Kind: "system", Form: lab.FormDisk, File: "note.txt"}, []byte("abc"), lab.ErrInvalid, "note.txt holds 3 bytes"},
		{"a sector less 1", ctx, lab.Import{Name: "a", Kind: "project", Form: lab.FormDisk}, noise(511, 1), lab.ErrInvalid, "nothing was added"},
		{"cancelled", cancelled, lab.Import{Name: "a", Kind: "system", Form: lab.FormDisk}, noise(1<<20, 1), context.Canceled, "interrupted, nothing was added"},
	} {
		_, err := d.Import(c.ctx, bytes.NewReader(c.data), c.i, nil)
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v; want %v with %q", c.what, err, c.kind, c.word)
		}
	}
	s, err := d.Watch(ctx, 0)
	if err != nil || len(s.Images)+len(s.Versions) > 0 {
		t.Errorf("refused imports left %v %v (%v)", s.Images, s.Versions, err)
	}
}

// What nothing will start from is taken, with a warning.
func TestDeskWarns(t *testing.T) {
	d := hold(t, t.TempDir())
	defer d.State.Close()
	loader := noise(4096, 2)
	copy(loader[446:], make([]byte, 64))
	copy(loader[510:], "\x55\xaa")
	for _, c := range []struct {
		kind  string
		data  []byte
		warns bool
	}{{"system", noise(4096, 1), true}, {"system", noise(4096, 1), true}, {"system", noise(512, 1), true}, {"project", noise(4096, 1), false}, {"system", loader, false}} {
		got, err := d.Import(t.Context(), bytes.NewReader(c.data), lab.Import{Name: "a-" + c.kind, Kind: c.kind, Form: lab.FormDisk}, nil)
		if err != nil || len(got.Warnings) > 0 != c.warns {
			t.Errorf("%s of %d bytes: %q, %v; want a warning: %v", c.kind, len(c.data), got.Warnings, err, c.warns)
		}
		if c.warns && !strings.Contains(strings.Join(got.Warnings, ""), "no boot loader") {
			t.Errorf("%s: %q", c.kind, got.Warnings)
		}
	}
}

func TestStateIsOneProcess(t *testing.T) {
	dir := t.TempDir()
	d := hold(t, dir)
	if _, err := Open(t.Context(), dir); !errors.Is(err, lab.ErrBusy) || !strings.Contains(err.Error(), "process") {
		t.Errorf("second Open = %v, want busy with the process", err)
	}
	secret := d.State.Secret
	if err := d.State.Close(); err != nil {
		t.Fatal(err)
	}
	d = hold(t, dir)
	defer d.State.Close()
	if !bytes.Equal(secret, d.State.Secret) || len(secret) != 32 {
		t.Error("the secret did not survive")
	}
	all, err := d.Doctor(t.Context())
	if err != nil || len(all) < 3 {
		t.Errorf("doctor = %v, %v", all, err)
	}
	for _, f := range all {
		if f.Must && !f.OK {
			t.Errorf("a new lab's doctor says %+v", f)
		}
	}
}

// stoppedAt does something until the step with that name, and leaves the desk as a kill would: nothing is closed but what would keep
// the next one out, which it returns.
func stoppedAt(t *testing.T, d *Desk, at string, do func()) *Desk {
	t.Helper()
	stopped := errors.New("stopped")
	d.State.Chunks.step = func(name string) {
		if name == at {
			panic(stopped)
		}
	}
	func() {
		defer func() {
			if recover() != stopped {
				t.Errorf("not stopped at %q", at)
			}
		}()
		do()
	}()
	d.State.lock.Close()
	d.State.DB.Close()
	return hold(t, d.State.Dir)
}
