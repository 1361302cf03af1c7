package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carte/lab"
)

const labsKinds = `# a course's work, and the notes of its people
[[kind]]
name = "course"
versioned = true
shared = true
written_back = "request"
[[kind]]
name = "unused"
`

// courseLab is a lab with a kind of its own, a stack that has an image of it, and the stack's bundle.
func courseLab(t testing.TB) (*Desk, []byte) {
	t.Helper()
	dir := t.TempDir()
	putText(t, filepath.Join(dir, KindsName), labsKinds)
	d := composedDesk(t, dir)
	imported(t, d, lab.Import{Name: "task", Kind: "course", Form: lab.FormFiles, Place: "/srv/task"}, tarred(t, member{name: "one", text: "task one"}))
	say(t, d, lab.PutStack{Stack: lab.Stack{Name: "course", Layers: []lab.Ref{{Name: "tree"}, {Name: "task"}}, Keep: []string{"task"}}})
	var b bytes.Buffer
	if _, err := d.ExportStack(t.Context(), "course", "bundle", &b, nil); err != nil {
		t.Fatal(err)
	}
	return d, b.Bytes()
}

func putText(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func file(t testing.TB, d *Desk, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.State.Dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

func TestKindsTravelWithABundle(t *testing.T) {
	d, b := courseLab(t)
	defer d.State.Close()
	dir := t.TempDir()
	putText(t, filepath.Join(dir, KindsName), "# mine\n[[kind]]\nname = \"mine\"")
	other := hold(t, dir)
	got, err := other.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kinds) != 1 || got.Kinds[0].Name != "course" || len(got.Versions) != 2 || len(got.Renamed) > 0 {
		t.Errorf("taken: %+v", got)
	}
	if text := file(t, other, KindsName); !strings.HasPrefix(text, "# mine\n") || strings.Count(text, "[[kind]]") != 2 || file(t, other, takenKindsName) != "" {
		t.Errorf("kinds.toml is:\n%s", text)
	}
	_, want := fingerprint(t, d, "course")
	for range 2 { // and once more after a restart
		p, is := fingerprint(t, other, "course")
		if is != want || p.Layers[1].Kind != "course" || !p.Layers[1].Back {
			t.Errorf("it is %s, and was %s: %+v", is, want, p.Layers)
		}
		if got, err := other.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{}, nil); err != nil || len(got.Kinds)+len(got.Versions)+len(got.Stacks) > 0 {
			t.Errorf("the same once more: %+v, %v", got, err)
		}
		other.State.Close()
		other = hold(t, dir)
	}
	other.State.Close()
}

func TestAKindWithOtherClausesIsRefused(t *testing.T) {
	d, b := courseLab(t)
	defer d.State.Close()
	dir := t.TempDir()
	mine := "[[kind]]\nname = \"course\"\nversioned = true\nwritten_back = \"never\"\n[[kind]]\nname = \"same\"\nversioned = true\nshared = true\nwritten_back = \"request\"\n"
	putText(t, filepath.Join(dir, KindsName), mine)
	other := hold(t, dir)
	defer other.State.Close()
	_, err := other.ImportStack(t.Context(), io.LimitReader(bytes.NewReader(b), 32<<10), lab.TakeAs{}, nil) // before the bytes come
	for _, want := range []string{"kind course", "shared: no here, yes in the bundle", "written back: never here, request in the bundle", "--kind course=NAME", "nothing was added"} {
		if !errors.Is(err, lab.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := other.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{Kinds: map[string]string{"curse": "x"}}, nil); !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), "course") {
		t.Errorf("a kind that it has not: %v", err)
	}
	untouched(t, other, 0)
	if file(t, other, KindsName) != mine || file(t, other, takenKindsName) != "" {
		t.Error("kinds.toml was changed")
	}
	got, err := other.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{Kinds: map[string]string{"course": "same"}}, nil)
	if err != nil || len(got.Kinds) > 0 || len(got.Renamed) != 1 || got.Images[1].Kind != "same" {
		t.Errorf("as one that is here: %+v, %v", got, err)
	}
	say(t, other, lab.RemoveStack{Name: "course"})
	say(t, other, lab.RemoveImage{Ref: lab.Ref{Name: "task"}, Confirm: "task"})
	got, err = other.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{Stack: "theirs", Kinds: map[string]string{"course": "their-course"}}, nil)
	if err != nil || len(got.Kinds) != 1 || got.Kinds[0].Name != "their-course" || got.Stacks[0].Name != "theirs" || !strings.Contains(file(t, other, KindsName), `name = "their-course"`) {
		t.Errorf("as another one: %+v, %v", got, err)
	}
}

// A bundle can always be taken, under other names where need be.
func TestABundleIsTakenUnderOtherNames(t *testing.T) {
	d, b := bundled(t)
	defer d.State.Close()
	other := hold(t, t.TempDir())
	defer other.State.Close()
	imported(t, other, lab.Import{Name: "tree", Kind: "system", Form: lab.FormTree}, tarred(t, member{name: "sbin/init", text: "another"}))
	imported(t, other, lab.Import{Name: "home", Kind: "project", Form: lab.FormFiles}, tarred(t, member{name: "a", text: "a"}))
	say(t, other, lab.PutStack{Stack: lab.Stack{Name: "all", Layers: []lab.Ref{{Name: "tree"}}}})
	take := func(as lab.TakeAs) (lab.Taken, error) {
		return other.ImportStack(t.Context(), bytes.NewReader(b), as, nil)
	}
	for _, x := range []struct {
		as   lab.TakeAs
		kind error
		want string
	}{
		{lab.TakeAs{}, lab.ErrRefused, "--rename tree=NAME"},
		{lab.TakeAs{Prefix: "their-"}, lab.ErrBusy, "--as NAME"},
		{lab.TakeAs{Stack: "their-all", Images: map[string]string{"tree": "theirs"}}, lab.ErrRefused, "image home is of kind project here and of kind user in the bundle"},
		{lab.TakeAs{Stack: "their-all", Images: map[string]string{"tree": "k"}, Prefix: "their-"}, lab.ErrInvalid, "both be image k"},
		{lab.TakeAs{Stack: "their-all", Images: map[string]string{"tree": "a/b"}, Prefix: "their-"}, lab.ErrInvalid, "a/b"},
		{lab.TakeAs{Stack: "their-all", Images: map[string]string{"trie": "x"}, Prefix: "their-"}, lab.ErrInvalid, "it has home, k, tree, work"},
		{lab.TakeAs{Stack: "their-all", Prefix: "../"}, lab.ErrInvalid, "../"},
	} {
		if _, err := take(x.as); !errors.Is(err, x.kind) || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%+v: %v, want %q", x.as, err, x.want)
		}
	}
	s, _ := other.Watch(t.Context(), 0)
	if len(s.Images) != 2 || len(s.Versions) != 2 || len(s.Stacks) != 1 {
		t.Fatalf("a refusal has changed something: %v %v", s.Images, s.Stacks)
	}
	got, err := take(lab.TakeAs{Stack: "their-all", Images: map[string]string{"k": "kernel"}, Prefix: "their-"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"all": "their-all", "tree": "their-tree", "home": "their-home", "k": "kernel"} // work is nothing else here
	for _, r := range got.Renamed {
		if want[r.Was] != r.Is {
			t.Errorf("renamed: %+v", r)
		}
		delete(want, r.Was)
	}
	if len(want) > 0 {
		t.Errorf("not renamed: %v", want)
	}
	p, was := fingerprint(t, d, "all")
	q, is := fingerprint(t, other, "their-all")
	if was != is || len(p.Layers) != len(q.Layers) || q.Layers[0].Ref.String() != "their-tree@1" || q.Layers[2].Ref.String() != "their-home@2" {
		t.Errorf("it is %s of %+v, and was %s", is, q.Layers, was)
	}
	if again, err := take(lab.TakeAs{Stack: "their-all", Images: map[string]string{"k": "kernel"}, Prefix: "their-"}); err != nil || len(again.Versions)+len(again.Stacks) > 0 {
		t.Errorf("the same once more: %+v, %v", again, err)
	}
}

// Stopped at any point, kinds, versions and stack are all there or all not.
func TestAnInterruptedBundleLeavesNoKind(t *testing.T) {
	d, b := courseLab(t)
	defer d.State.Close()
	for at, whole := range map[string]bool{"bundle stored": false, "kinds prepared": false, "bundle taken": true} {
		other := hold(t, t.TempDir())
		other = stoppedAt(t, other, at, func() { _, _ = other.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{}, nil) })
		s, err := other.Watch(t.Context(), 0)
		if err != nil || (len(s.Stacks) == 1) != whole || (len(s.OwnKinds) == 1) != whole || s.KindsAt.Trouble != "" {
			t.Errorf("after a stop at %q: %v, stacks %v, kinds %v, %q", at, err, s.Stacks, s.OwnKinds, s.KindsAt.Trouble)
		}
		if (file(t, other, KindsName) != "") != whole || file(t, other, takenKindsName) != "" {
			t.Errorf("after a stop at %q: %q", at, file(t, other, KindsName))
		}
		if _, err := other.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{}, nil); err != nil {
			t.Errorf("after a stop at %q: %v", at, err)
		}
		other.State.Close()
	}
}
