package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// bundled is a lab with a stack that has settings and shares chunks, and the stack's bundle.
func bundled(t testing.TB) (*Desk, []byte) {
	t.Helper()
	d := composedDesk(t, t.TempDir())
	imported(t, d, lab.Import{Name: "home", Kind: "user", Form: lab.FormFiles}, tarred(t, member{name: "notes", text: string(noise(3<<20, 1))}, member{name: "more", text: "x"}))
	imported(t, d, lab.Import{Name: "k", Kind: "system", Form: lab.FormKernel}, kernelTar(t, "6.1", 1))
	say(t, d, lab.PutStack{Stack: lab.Stack{Name: "all", Layers: []lab.Ref{{Name: "tree", Version: 1}, {Name: "k"}, {Name: "home"}, {Name: "work"}},
		Cmdline: "quiet hugepages={pages}", Params: map[string]string{"pages": "64"}, Asks: lab.Terms{lab.Results: lab.Required},
		Files: []lab.TextFile{{Path: "/etc/hostname", Text: "{machine}\n"}}, Note: "a note"}})
	var b bytes.Buffer
	last, total := int64(0), int64(0)
	if _, err := d.ExportStack(t.Context(), "all", "bundle", &b, func(done, of int64) { last, total = done, of }); err != nil {
		t.Fatal(err)
	}
	if last != total || total != int64(b.Len()) {
		t.Errorf("progress ended at %d of %d, in a bundle of %d bytes", last, total, b.Len())
	}
	return d, b.Bytes()
}

func fingerprint(t testing.TB, d *Desk, name string) (lab.Plan, string) {
	t.Helper()
	s, err := d.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Resolve(name)
	if err != nil {
		t.Fatal(err)
	}
	return p, p.Fingerprint()
}

func TestAStackGoesToAnotherLab(t *testing.T) {
	d, b := bundled(t)
	defer d.State.Close()
	dir := t.TempDir()
	other := hold(t, dir)
	defer func() { other.State.Close() }()
	read := int64(0)
	changed, err := other.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{}, func(done int64) { read = done })
	if err != nil {
		t.Fatal(err)
	}
	if len(changed.Versions) != 4 || len(changed.Stacks) != 1 || read == 0 || read > int64(len(b)) {
		t.Errorf("changed %d versions, %d stacks, read %d of %d", len(changed.Versions), len(changed.Stacks), read, len(b))
	}
	other.State.Close()
	other = hold(t, dir) // and it lasts
	p, want := fingerprint(t, d, "all")
	q, got := fingerprint(t, other, "all")
	if got != want || p.Digest != q.Digest {
		t.Errorf("the plan is %s %v, and was %s %v", got, q.Digest, want, p.Digest)
	}
	s, _ := other.Watch(t.Context(), 0)
	for i, l := range p.Layers {
		if q.Layers[i].Ref != l.Ref || q.Layers[i].Root != l.Root {
			t.Errorf("layer %d is %+v, and was %+v", i, q.Layers[i], l)
		}
		if err := other.Verify(t.Context(), l.Ref, nil); err != nil {
			t.Error(err)
		}
	}
	if v := s.Versions["home@2"]; v.Parent != 1 || v.Stored == 0 || s.Images["home"].Latest != 2 || s.Versions["home@1"].Number != 0 {
		t.Errorf("home is %+v, %+v", s.Images["home"], v)
	}
	if v := s.Versions["k@1"]; v.Inside.Starts != "linux" || len(v.Inside.UUIDs) != 1 {
		t.Errorf("what is inside did not come: %+v", v.Inside)
	}
	before := other.State.Chunks.Total()
	if changed, err := other.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{}, nil); err != nil || len(changed.Versions)+len(changed.Stacks) > 0 || other.State.Chunks.Total() != before {
		t.Errorf("the same once more: %+v, %v", changed, err)
	}
	var again bytes.Buffer
	if _, err := other.ExportStack(t.Context(), "all", "bundle", &again, nil); err != nil || again.Len() == 0 {
		t.Error(err)
	}
	if got, err := other.Fsck(t.Context(), nil); err != nil || len(got.Broken) > 0 {
		t.Errorf("fsck: %+v, %v", got, err)
	}
}

// untouched says that a lab is as it was before a bundle that was refused.
func untouched(t *testing.T, d *Desk, images int) {
	t.Helper()
	s, err := d.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Images) != images || len(s.Versions) != images || len(s.Stacks) > 0 {
		t.Fatalf("there are %d images, %d versions, %d stacks", len(s.Images), len(s.Versions), len(s.Stacks))
	}
}

func TestABundleNeverOverwritesAVersion(t *testing.T) {
	d, b := bundled(t)
	defer d.State.Close()
	other := hold(t, t.TempDir())
	defer other.State.Close()
	imported(t, other, lab.Import{Name: "tree", Kind: "system", Form: lab.FormTree}, tarred(t, member{name: "sbin/init", text: "another"}))
	_, err := other.ImportStack(t.Context(), io.LimitReader(bytes.NewReader(b), 32<<10), lab.TakeAs{}, nil) // refused before the bytes come
	if !errors.Is(err, lab.ErrRefused) || !strings.Contains(err.Error(), lab.ClauseVersioned) || !strings.Contains(err.Error(), "tree@1") {
		t.Errorf("%v", err)
	}
	untouched(t, other, 1)

	kind := hold(t, t.TempDir())
	defer kind.State.Close()
	imported(t, kind, lab.Import{Name: "home", Kind: "project", Form: lab.FormFiles}, tarred(t, member{name: "a", text: "a"}))
	if _, err := kind.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{}, nil); !errors.Is(err, lab.ErrRefused) {
		t.Errorf("an image of another kind: %v", err)
	}
	untouched(t, kind, 1)

	third := hold(t, t.TempDir())
	defer third.State.Close()
	imported(t, third, lab.Import{Name: "tree", Kind: "system", Form: lab.FormTree}, tarred(t, member{name: "sbin/init", text: "#!/bin/sh\n"}, member{name: "bin/sh", text: "\x7fELF"}))
	say(t, third, lab.PutStack{Stack: lab.Stack{Name: "all", Layers: []lab.Ref{{Name: "tree"}}}})
	if _, err := third.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{}, nil); !errors.Is(err, lab.ErrBusy) {
		t.Errorf("another stack of that name: %v", err)
	}
	say(t, third, lab.RemoveStack{Name: "all"})
	untouched(t, third, 1)
	if _, err := third.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{}, nil); err != nil { // the same version is here: it stays
		t.Error(err)
	}
}

func TestDamagedAndCutBundlesAreRefused(t *testing.T) {
	d, b := bundled(t)
	defer d.State.Close()
	other := hold(t, t.TempDir())
	defer func() { other.State.Close() }()
	refused := func(what string, bad []byte) {
		t.Helper()
		_, err := other.ImportStack(t.Context(), bytes.NewReader(bad), lab.TakeAs{}, nil)
		if err != nil {
			untouched(t, other, 0)
			return
		}
		// Only what fills a tar up to the next block may change and mean the same.
		if _, got := fingerprint(t, other, "all"); got == "" {
			t.Errorf("%s: taken", what)
		}
		for _, ref := range []string{"tree@1", "k@1", "home@2", "work@1"} {
			r, _ := lab.ParseRef(ref)
			if err := other.Verify(t.Context(), r, nil); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		_, want := fingerprint(t, d, "all")
		if _, got := fingerprint(t, other, "all"); got != want {
			t.Errorf("%s: taken as %s, and it was %s", what, got, want)
		}
		other.State.Close()
		other = hold(t, t.TempDir())
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, cut := range []int{0, 1, 511, 512, 1024, len(b) / 3, len(b) / 2, len(b) - 4096} {
		_, err := other.ImportStack(t.Context(), bytes.NewReader(b[:cut]), lab.TakeAs{}, nil)
		if !errors.Is(err, lab.ErrDamaged) && !errors.Is(err, lab.ErrInvalid) || cut > 1024 && !strings.Contains(err.Error(), "byte") {
			t.Errorf("cut at %d of %d: %v", cut, len(b), err)
		}
		untouched(t, other, 0)
	}
	for i := range 60 {
		bad := bytes.Clone(b)
		at := r.IntN(len(bad))
		if i < 40 { // most of what is not chunks lies at the beginning
			at = r.IntN(min(len(bad), 16<<10))
		}
		bad[at] ^= 1 << r.IntN(8)
		refused(fmt.Sprintf("a bit at %d", at), bad)
	}
	// A chunk that is changed is named by its place.
	bad := bytes.Clone(b)
	bad[len(bad)-1<<20] ^= 1
	if _, err := other.ImportStack(t.Context(), bytes.NewReader(bad), lab.TakeAs{}, nil); !errors.Is(err, lab.ErrDamaged) || !strings.Contains(err.Error(), "chunks/00000") {
		t.Errorf("%v", err)
	}
	newer := bytes.Replace(b, []byte("\"format\": 1"), []byte("\"format\": 2"), 1)
	if _, err := other.ImportStack(t.Context(), bytes.NewReader(newer), lab.TakeAs{}, nil); !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), "newer carte") {
		t.Errorf("%v", err)
	}
	if _, err := other.ImportStack(t.Context(), bytes.NewReader(tarred(t, member{name: "x", text: "x"})), lab.TakeAs{}, nil); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("no bundle: %v", err)
	}
	if got, err := other.Collect(t.Context(), false); err != nil || got.Young > 0 {
		t.Errorf("collect: %+v, %v", got, err)
	}
	if n := other.State.Chunks.Total(); n > chunk.Size {
		t.Errorf("%d bytes stay of what was refused", n)
	}
}

// Stopped at any point, it left no version and no stack, and the next try takes it in.
func TestAnInterruptedBundleLeavesNothing(t *testing.T) {
	d, b := bundled(t)
	defer d.State.Close()
	for _, at := range []string{"pack written", "index written", "manifest written", "bundle stored"} {
		other := hold(t, t.TempDir())
		other = stoppedAt(t, other, at, func() { _, _ = other.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{}, nil) })
		untouched(t, other, 0)
		if _, err := other.ImportStack(t.Context(), bytes.NewReader(b), lab.TakeAs{}, nil); err != nil {
			t.Errorf("after a stop at %q: %v", at, err)
		}
		other.State.Close()
	}
	other := hold(t, t.TempDir())
	defer other.State.Close()
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := other.ImportStack(ctx, bytes.NewReader(b), lab.TakeAs{}, func(int64) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	untouched(t, other, 0)
}
