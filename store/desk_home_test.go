package store

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/ext4"
)

// member is one file of a tar that a test makes. A name with a slash at its end is a directory.
type member struct {
	name, text string
	kind       byte // 0: a regular file
	link       string
}

func tarred(t testing.TB, all ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range all {
		h := &tar.Header{Name: m.name, Typeflag: m.kind, Linkname: m.link, Mode: 0o755, Size: int64(len(m.text)), ModTime: time.Unix(1_700_000_000, 0), Format: tar.FormatPAX}
		if strings.HasSuffix(m.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func imported(t testing.TB, d *Desk, i lab.Import, b []byte) lab.Imported {
	t.Helper()
	got, err := d.Import(t.Context(), bytes.NewReader(b), i, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func say(t testing.TB, d *Desk, all ...lab.Verb) {
	t.Helper()
	for _, v := range all {
		if _, err := d.Say(t.Context(), v); err != nil {
			t.Fatalf("%T: %v", v, err)
		}
	}
}

// running queues a stack on a machine of its own, and takes its boot to where its system runs.
func running(t testing.TB, d *Desk, machine, stack string) lab.Boot {
	t.Helper()
	ctx := t.Context()
	s, err := d.Watch(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(machine); err != nil {
		say(t, d, lab.AddMachine{Name: machine, Virtual: &lab.Virtual{DiskBytes: 16 << 30}})
	}
	say(t, d, lab.Queue{Machine: machine, Stack: stack})
	if s, err = d.Watch(ctx, 0); err != nil {
		t.Fatal(err)
	}
	m, err := s.Find(machine)
	if err != nil {
		t.Fatal(err)
	}
	script, err := d.Script(ctx, m.MACs[0], "10.0.0.8")
	if err != nil || script.Token == "" {
		t.Fatalf("script: %+v, %v", script, err)
	}
	claim := lab.Claim{Token: script.Token, Key: key(int(script.Boot)), Inventory: lab.Inventory{UUID: machine, Firmware: lab.BIOS, MemoryBytes: 1 << 30,
		Disks: []lab.Disk{{DiskID: m.Arms[0].DiskID, Path: "/dev/vda"}}, NICs: []lab.NIC{{MAC: m.MACs[0], Name: "eth0"}}}}
	if _, err := d.Claim(ctx, claim); err != nil {
		t.Fatal(err)
	}
	for _, r := range []lab.Report{{Rung: lab.RungWrite, Writing: true}, {Rung: lab.RungHandover, Proven: true}, {Shim: true}} {
		r.Boot = script.Boot
		if _, err := d.Report(ctx, claim.Key, r); err != nil {
			t.Fatalf("report %+v: %v", r, err)
		}
	}
	b, err := d.Running(ctx, claim.Key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// composedDesk is a lab with a stack of a tree, a user's files and a project's.
func composedDesk(t testing.TB, dir string) *Desk {
	t.Helper()
	d, err := Hold(t.Context(), dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	imported(t, d, lab.Import{Name: "tree", Kind: "system", Form: lab.FormTree}, tarred(t, member{name: "sbin/init", text: "#!/bin/sh\n"}, member{name: "bin/sh", text: "\x7fELF"}))
	imported(t, d, lab.Import{Name: "home", Kind: "user", Form: lab.FormFiles, Place: "/home/me"}, tarred(t, member{name: "notes", text: string(noise(3<<20, 1))},
		member{name: "old/a", text: "a"}, member{name: "old/b", text: "b"}, member{name: "keep", text: "kept"}))
	imported(t, d, lab.Import{Name: "work", Kind: "project", Form: lab.FormFiles}, tarred(t, member{name: "run", text: "#!/bin/sh\n"}))
	say(t, d, lab.PutStack{Stack: lab.Stack{Name: "s", Layers: []lab.Ref{{Name: "tree"}, {Name: "home"}, {Name: "work"}}}})
	return d
}

func systemOf(t testing.TB, d *Desk, ref lab.Ref) *ext4.FS {
	t.Helper()
	v, err := d.version(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.State.Chunks.Reader(v.Root)
	if err != nil {
		t.Fatal(err)
	}
	f, err := ext4.Open(r, v.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestWhatChangedComesBackAsAVersion(t *testing.T) {
	dir := t.TempDir()
	d := composedDesk(t, dir)
	defer func() { d.State.Close() }()
	ctx := t.Context()
	b := running(t, d, "vm-1", "s")
	if kept, err := d.Back(ctx, b, "home", bytes.NewReader(tarred(t))); err != nil || !kept.Same || kept.Ref.String() != "home@1" {
		t.Errorf("nothing changed: %+v, %v", kept, err)
	}
	before := d.State.Chunks.Total()
	change := tarred(t, member{name: "./"}, member{name: "keep", text: "changed"}, member{name: "old/.wh.a"}, member{name: "new/deep", text: "new"})
	for again := range 2 {
		kept, err := d.Back(ctx, b, "home", bytes.NewReader(change))
		if err != nil || kept.Same != (again == 1) || kept.Ref.String() != "home@2" {
			t.Fatalf("a change: %+v, %v", kept, err)
		}
	}
	if grown := d.State.Chunks.Total() - before; grown > 2*chunk.Size {
		t.Errorf("three small files took %d bytes", grown)
	}
	s, _ := d.Watch(ctx, 0)
	if v := s.Versions["home@2"]; v.Parent != 1 || v.Place != "/home/me" || v.Author != "vm-1" || v.Stored == 0 || len(v.Inside.UUIDs) != 1 || v.Bytes != s.Versions["home@1"].Bytes {
		t.Errorf("%+v", v)
	}
	if got := s.Boots[b.ID].Wrote; len(got) != 1 || got[0].String() != "home@2" {
		t.Errorf("the boot wrote %v", got)
	}
	f := systemOf(t, d, lab.Ref{Name: "home"})
	for name, want := range map[string]string{"/keep": "changed", "/new/deep": "new", "/old/b": "b", "/notes": string(noise(3<<20, 1))} {
		if b, err := f.ReadFile(name, 4<<20); err != nil || string(b) != want {
			t.Errorf("%s has %d bytes, %v", name, len(b), err)
		}
	}
	if _, err := f.ReadFile("/old/a", 9); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("what was removed: %v", err)
	}
	if kept, err := d.Back(ctx, b, "home", bytes.NewReader(tarred(t, member{name: "keep", text: "again"}, member{name: "old/.wh..wh..opq"}))); err != nil || kept.Ref.String() != "home@3" {
		t.Errorf("the same boot once more: %+v, %v", kept, err)
	}
	if _, err := systemOf(t, d, lab.Ref{Name: "home"}).ReadFile("/old/b", 9); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("an opaque directory: %v", err)
	}
	if got, err := d.Fsck(ctx, nil); err != nil || len(got.Broken) > 0 {
		t.Errorf("fsck: %+v, %v", got, err)
	}
	out := filepath.Join(t.TempDir(), "home")
	w, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Export(ctx, lab.Ref{Name: "home"}, w, nil), w.Close()); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command("e2fsck", "-f", "-n", out).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v: %s", err, text)
	}
}

func TestWriteBackIsRefusedByClause(t *testing.T) {
	d := composedDesk(t, t.TempDir())
	defer d.State.Close()
	ctx := t.Context()
	b := running(t, d, "vm-1", "s")
	change := tarred(t, member{name: "x", text: "x"})
	never := readerFunc(func([]byte) (int, error) { t.Error("the tar is read although it is refused"); return 0, io.EOF })
	for image, clause := range map[string]string{"tree": lab.ClauseUpdates, "work": lab.ClauseWritten, "other": "not in the plan"} {
		if _, err := d.Back(ctx, b, image, never); err == nil || !strings.Contains(err.Error(), clause) {
			t.Errorf("%s: %v, want %q", image, err, clause)
		}
	}
	// Somebody else has brought a newer version meanwhile.
	imported(t, d, lab.Import{Name: "home", Kind: "user", Form: lab.FormFiles}, tarred(t, member{name: "notes", text: "mine"}))
	if _, err := d.Back(ctx, b, "home", bytes.NewReader(change)); !errors.Is(err, lab.ErrRefused) || !strings.Contains(err.Error(), lab.ClauseVersioned) {
		t.Errorf("behind a newer version: %v", err)
	}
	whole := tarred(t, member{name: "x", text: string(noise(1<<20, 9))})
	for _, cut := range []int{0, 100, 1000, len(whole) / 2, len(whole) - 1024} {
		if _, err := d.Back(ctx, b, "home", bytes.NewReader(whole[:cut])); err == nil {
			t.Errorf("a tar of %d of %d bytes is taken", cut, len(whole))
		}
	}
	if s, _ := d.Watch(ctx, 0); s.Images["home"].Latest != 2 || len(s.Boots[b.ID].Wrote) > 0 {
		t.Errorf("there is a version of what was refused: %+v", s.Images["home"])
	}
	if got, err := d.Collect(ctx, false); err != nil || got.Manifests > 1 {
		t.Errorf("collect: %+v, %v", got, err)
	}
}

// read lists a folder of results: files with their texts.
func read(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		all[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestResultsComeHomeWhole(t *testing.T) {
	dir := t.TempDir()
	d := composedDesk(t, dir)
	defer func() { d.State.Close() }()
	ctx := t.Context()
	b := running(t, d, "vm-1", "s")
	if err := d.Results(ctx, b.ID, io.Discard); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("before anything came: %v", err)
	}
	first := tarred(t, member{name: "./"}, member{name: "a.csv", text: "1,2"}, member{name: "deep/er/b", text: string(make([]byte, 1<<20)) + "end"},
		member{name: "latest", kind: tar.TypeSymlink, link: "deep/er"}, member{name: "twin", kind: tar.TypeLink, link: "a.csv"},
		member{name: "out", kind: tar.TypeSymlink, link: "/etc/passwd"}, member{name: "deep/out", kind: tar.TypeSymlink, link: "../er/../../../x"})
	if err := d.Out(ctx, b, bytes.NewReader(first)); err != nil {
		t.Fatal(err)
	}
	home := d.outOf(b.ID)
	if got := read(t, home); len(got) != 3 || got["a.csv"] != "1,2" || got["twin"] != "1,2" || !strings.HasSuffix(got["deep/er/b"], "\x00end") {
		t.Errorf("%d files came home", len(got))
	}
	s, _ := d.Watch(ctx, 0)
	if all := s.Boots[b.ID].Results; len(all) != 3 || all[0].Path != "a.csv" || all[0].Bytes != 3 || all[0].Sum != chunk.Sum([]byte("1,2")).String() {
		t.Errorf("the boot's record: %+v", all)
	}
	for name, bad := range map[string]member{
		"..": {name: "../x", text: "x"}, "absolute": {name: "/etc/x", text: "x"}, "twice": {name: "ok", text: "x"}, "device": {name: "dev", kind: tar.TypeChar},
		"directory": {name: "link/x", text: "x"}, "pipe": {name: "fifo", kind: tar.TypeFifo}, "leads out": {name: "hard", kind: tar.TypeLink, link: "../../lab.db"},
	} {
		err := d.Out(ctx, b, bytes.NewReader(tarred(t, member{name: "ok", text: "x"}, member{name: "link", kind: tar.TypeSymlink, link: "."}, bad)))
		if !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), name) && name != "device" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, cut := range []int{0, 300, 600, len(first) / 2, len(first) - 1024} {
		if err := d.Out(ctx, b, bytes.NewReader(first[:cut])); err == nil {
			t.Errorf("a tar of %d of %d bytes is taken", cut, len(first))
		}
	}
	if got := read(t, home); len(got) != 3 {
		t.Errorf("what was refused left %d files", len(got))
	}
	if err := d.Out(ctx, b, bytes.NewReader(tarred(t, member{name: "second", text: "2"}))); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Collect(ctx, false); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Fsck(ctx, nil); err != nil || len(got.Broken) > 0 {
		t.Errorf("fsck: %+v, %v", got, err)
	}
	var out bytes.Buffer
	if err := d.Results(ctx, b.ID, &out); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(&out)
	if h, err := r.Next(); err != nil || h.Name != "second" || h.Size != 1 {
		t.Errorf("results as a tar: %+v, %v", h, err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.State.Temp(), "*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// Stopped between any two steps there is what was there before, or what came, and the next try puts it right.
func TestResultsSurviveAStop(t *testing.T) {
	for _, at := range []string{"results written", "results placed"} {
		dir := t.TempDir()
		d := composedDesk(t, dir)
		b := running(t, d, "vm-1", "s")
		old, fresh := tarred(t, member{name: "old", text: "1"}, member{name: "same", text: "1"}), tarred(t, member{name: "new", text: "2"}, member{name: "same", text: "2"})
		if err := d.Out(t.Context(), b, bytes.NewReader(old)); err != nil {
			t.Fatal(err)
		}
		stopped := errors.New("stopped")
		d.State.Chunks.step = func(name string) {
			if name == at {
				panic(stopped)
			}
		}
		func() {
			defer func() {
				if recover() != stopped {
					t.Error("not stopped")
				}
			}()
			_ = d.Out(t.Context(), b, bytes.NewReader(fresh))
		}()
		if err := d.State.Close(); err != nil {
			t.Fatal(err)
		}
		d = hold(t, dir)
		got := read(t, d.outOf(b.ID))
		if whole := got["old"] == "1" && got["same"] == "1" || got["new"] == "2" && got["same"] == "2"; !whole || len(got) != 2 {
			t.Errorf("stopped at %q there is %v", at, got)
		}
		if err := d.Out(t.Context(), b, bytes.NewReader(fresh)); err != nil && !errors.Is(err, lab.ErrDenied) {
			t.Error(err)
		}
		if got := read(t, d.outOf(b.ID)); got["new"] != "2" || len(got) != 2 {
			t.Errorf("the next try left %v", got)
		}
		d.State.Close()
	}
}
