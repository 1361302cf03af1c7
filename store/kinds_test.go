package store

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"carte/lab"
)

const ownKinds = `# what this lab has besides
[[kind]]
name = "course"
versioned = true
shared = true
written_back = "request"
`

// tarOf packs files: a name, its text, and so on.
func tarOf(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		err := w.WriteHeader(&tar.Header{Name: files[i], Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(files[i+1])), ModTime: time.Unix(1e9, 0), Format: tar.FormatPAX})
		if _, more := w.Write([]byte(files[i+1])); err != nil || more != nil {
			t.Fatal(err, more)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A kind of the lab's own is a kind like any other: it can be imported, it goes into a stack, and its clauses hold.
func TestOwnKinds(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, KindsName), []byte(ownKinds), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Hold(t.Context(), dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, i := range []lab.Import{{Name: "root", Kind: "system", Form: lab.FormTree}, {Name: "task", Kind: "course", Form: lab.FormFiles, Place: "/srv/task"}} {
		if _, err := d.Import(ctx, bytes.NewReader(tarOf(t, "run", "hello")), i, nil); err != nil {
			t.Fatalf("import %s: %v", i.Name, err)
		}
	}
	if _, err := d.Say(ctx, lab.PutStack{Stack: lab.Stack{Name: "s", Layers: []lab.Ref{{Name: "root"}, {Name: "task"}}, Keep: []string{"task"}}}); err != nil {
		t.Fatal(err)
	}
	s, err := d.Watch(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Resolve("s")
	if err != nil || p.Layers[1].Kind != "course" || !p.Layers[1].Back {
		t.Errorf("the plan is %+v, %v", p.Layers, err)
	}
	if _, err := d.Say(ctx, lab.AddVersion{Version: lab.Version{Image: "task", Root: p.Layers[1].Root, Bytes: 1}, Kind: "curse", Form: lab.FormFiles}); !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), "course") {
		t.Errorf("a kind that is none: %v", err)
	}
	if err := d.State.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestBrokenKindsStartNothing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, KindsName)
	for text, words := range map[string]string{
		ownKinds + "lifespan = \"date\"\n":              "line 7",
		ownKinds + ownKinds:                             "course is there twice",
		"[[kind]]\nname = \"system\"\n":                 "system is there twice",
		"[[kind]\n":                                     "line 1",
		"[[kind]]\nname = \"a\"\nlifetime = \"long\"\n": "lifetime is \"long\"",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Hold(t.Context(), dir, time.Now)
		if !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v, want %q", text, err, words)
		}
		if _, err := os.Stat(filepath.Join(dir, "lab.db")); err == nil {
			t.Fatal("something was opened all the same")
		}
	}
}

// A change of the file is picked up while the lab is open. One that is wrong, or that images could not keep to, leaves what was.
func TestKindsAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, KindsName)
	d := hold(t, dir)
	defer d.State.Close()
	task := lab.Import{Name: "task", Kind: "course", Form: lab.FormFiles, Place: "/srv/task"}
	bring := func() error {
		_, err := d.Import(t.Context(), bytes.NewReader(tarOf(t, "run", "hello")), task, nil)
		return err
	}
	if err := bring(); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("a kind that is none: %v", err)
	}
	putText(t, name, ownKinds+"lifespan = \"date\"\n")
	if err := bring(); !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "line 7") {
		t.Errorf("a file that is wrong: %v", err)
	}
	putText(t, name, ownKinds)
	if err := bring(); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ text, want string }{
		{"", "image task is of kind course, and no [[kind]] has that name"},
		{ownKinds + "lifetime = \"date\"\n", `clause "lifetime" of kind course`},
		{ownKinds + "[[kind]\n", "line 7"},
		{ownKinds + "# only a word\n", ""},
	} {
		putText(t, name, x.text)
		s, err := d.Watch(t.Context(), 0)
		if said := slices.ContainsFunc(s.Alerts(time.Now()), func(a lab.Alert) bool { return a.Sort == lab.AlertSettings && a.Why != "" }); said != (x.want != "") {
			t.Errorf("needs a person: %v, want %q", s.Alerts(time.Now()), x.want)
		}
		if err != nil || len(s.OwnKinds) != 1 || s.KindsAt.File != name || !strings.Contains(s.KindsAt.Trouble, x.want) || (x.want == "") != (s.KindsAt.Trouble == "") {
			t.Errorf("%q: %v, %+v", x.text, err, s.KindsAt)
		}
	}
	putText(t, name, ownKinds+"[[kind]]\nname = \"more\"\n")
	if s, err := d.Watch(t.Context(), 0); err != nil || len(s.OwnKinds) != 2 {
		t.Errorf("one more: %v, %v", err, s.OwnKinds)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if s, _ := d.Watch(t.Context(), 0); len(s.OwnKinds) != 2 || s.KindsAt.Trouble == "" {
		t.Errorf("without the file: %v, %q", s.OwnKinds, s.KindsAt.Trouble)
	}
}
