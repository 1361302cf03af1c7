package store

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// What lies in imported layers is listed from their bytes, once.
func TestJudgeKnowsPaths(t *testing.T) {
	d, err := Hold(t.Context(), t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer d.State.Close()
	for name, files := range map[string][]string{
		"root":  {"sbin/init", "#!", "etc/motd", "root", "etc/passwd", "root", "home/me/notes", "root"},
		"tools": {"etc/motd", "tools", "usr/bin/x", "tools"},
		"me":    {"notes", "me", "more", "me"},
	} {
		i := lab.Import{Name: name, Kind: "system", Form: lab.FormFiles}
		switch name {
		case "root":
			i.Form = lab.FormTree
		case "me":
			i.Kind, i.Place = "user", "/home/me"
		}
		if _, err := d.Import(t.Context(), bytes.NewReader(tarOf(t, files...)), i, nil); err != nil {
			t.Fatalf("import %s: %v", name, err)
		}
	}
	for range 2 { // the second time from memory
		j, err := d.Judge(t.Context(), lab.Stack{Name: "s", Layers: []lab.Ref{{Name: "root"}, {Name: "tools"}, {Name: "me"}}})
		if err != nil || !j.OK || j.Fingerprint == "" {
			t.Fatalf("judged %+v, %v", j, err)
		}
		for code, words := range map[string]string{
			"W-PATHS": "1 file is in root@1 and in tools@1, and tools@1 wins: /etc/motd", "W-HIDES": "",
		} {
			i := slices.IndexFunc(j.Remarks, func(r lab.Remark) bool { return r.Code == code })
			if (i >= 0) != (words != "") || i >= 0 && !strings.Contains(j.Remarks[i].Text, words) {
				t.Errorf("%s: %+v", code, j.Remarks)
			}
		}
	}
	if n := d.listed.cache().Len(); n != 3 {
		t.Errorf("%d layers are remembered", n)
	}
}

// A tree of nothing is refused, in the same words whether it came as an archive's end or as a folder.
func TestEmptyTree(t *testing.T) {
	d, err := Hold(t.Context(), t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer d.State.Close()
	var folder bytes.Buffer
	w := tar.NewWriter(&folder)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(1e9, 0)}), w.Close()); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"tar": tarOf(t), "blocked": make([]byte, 10240), "folder": folder.Bytes()} {
		_, err := d.Import(t.Context(), bytes.NewReader(b), lab.Import{Name: "void", Kind: "system", Form: lab.FormTree}, nil)
		if !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), "there is nothing in it") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What was imported as a disk and starts nothing is no disk that starts.
func TestIdleDisk(t *testing.T) {
	d, err := Hold(t.Context(), t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer d.State.Close()
	im, err := d.Import(t.Context(), strings.NewReader(strings.Repeat("some words\n", 100)), lab.Import{Name: "pw", Kind: "system", Form: lab.FormDisk}, nil)
	if err != nil || len(im.Warnings) == 0 || !strings.Contains(im.Warnings[0], "nothing will start from pw") {
		t.Fatalf("%q, %v", im.Warnings, err)
	}
	j, err := d.Judge(t.Context(), lab.Stack{Name: "s", Layers: []lab.Ref{{Name: "pw"}}})
	if said := slices.ContainsFunc(j.Remarks, func(r lab.Remark) bool { return r.Code == "W-SYSTEM" }); err != nil || !said {
		t.Errorf("judged %+v, %v", j.Remarks, err)
	}
}

// A project whose run cannot be executed is known for it before a boot fails of it.
func TestIdleRun(t *testing.T) {
	d, err := Hold(t.Context(), t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer d.State.Close()
	if _, err := d.Import(t.Context(), bytes.NewReader(tarOf(t, "sbin/init", "#!")), lab.Import{Name: "root", Kind: "system", Form: lab.FormTree}, nil); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct{ file, words string }{
		"plain": {"run", "the file run at its top is not executable (chmod +x run"}, "other": {"start", "there is no program called run"},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: x.file, Mode: 0o644, ModTime: time.Unix(1e9, 0), Format: tar.FormatPAX}), w.Close()); err != nil {
			t.Fatal(err)
		}
		im, err := d.Import(t.Context(), &b, lab.Import{Name: name, Kind: "project", Form: lab.FormFiles, Offers: lab.Terms{lab.Autostart: lab.Optional}}, nil)
		if err != nil || len(im.Warnings) != 1 || !strings.Contains(im.Warnings[0], x.words) || !strings.HasSuffix(im.Warnings[0], "nothing would start") {
			t.Errorf("import %s: %q, %v", name, im.Warnings, err)
		}
		for need, code := range map[lab.Need]string{lab.Required: "E-CLAUSE", lab.Optional: "W-CLAUSE"} {
			j, err := d.Judge(t.Context(), lab.Stack{Name: "s", Layers: []lab.Ref{{Name: "root"}, {Name: name}}, Asks: lab.Terms{lab.Autostart: need}})
			said := slices.ContainsFunc(j.Remarks, func(r lab.Remark) bool { return r.Code == code && strings.Contains(r.Text, x.words) })
			if err != nil || !said || j.OK != (need == lab.Optional) {
				t.Errorf("%s, %s: judged %+v, %v", name, need, j.Remarks, err)
			}
		}
		file := lab.TextFile{Path: lab.ProjectPlace + "/run", Mode: 0o755, Text: "#!/bin/sh\n"}
		if j, err := d.Judge(t.Context(), lab.Stack{Name: "s", Layers: []lab.Ref{{Name: "root"}, {Name: name}}, Asks: lab.Terms{lab.Autostart: lab.Required}, Files: []lab.TextFile{file}}); err != nil || !j.OK {
			t.Errorf("%s with a run of the stack's: judged %+v, %v", name, j.Remarks, err)
		}
	}
}

// What is to be moved is what no version on the disk has.
func TestLacking(t *testing.T) {
	d, err := Hold(t.Context(), t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer d.State.Close()
	noise := make([]byte, 8*chunk.Size)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	var roots []chunk.ID
	for i := range 3 { // the second has two chunks of its own, the third none that are not in one of these
		b := slices.Clone(noise)
		if i == 1 {
			b[0], b[len(b)-1] = b[0]+1, b[len(b)-1]+1
		}
		if i == 2 {
			copy(b, b[chunk.Size:])
		}
		im, err := d.Import(t.Context(), bytes.NewReader(b), lab.Import{Name: "a", Kind: "system", Form: lab.FormDisk, Whole: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, im.Version.Root)
	}
	for _, x := range []struct {
		want   chunk.ID
		have   []chunk.ID
		chunks int64
		ok     bool
	}{{roots[1], roots[:1], 2, true}, {roots[0], roots[:1], 0, true}, {roots[2], roots[:1], 0, true}, {roots[0], nil, 8, true}, {roots[0], []chunk.ID{{9}}, 8, true}, {chunk.ID{9}, roots, 0, false}} {
		if n, ok := d.lacks()(x.want, x.have); ok != x.ok || n != x.chunks*chunk.Size {
			t.Errorf("%v lacks %d bytes of %v (%v), want %d chunks", x.have, n, x.want, ok, x.chunks)
		}
	}
}

// BenchmarkJudge is a tree of ten thousand files, files over it, and fifty machines: the first time, when the layers are
// read, and then.
func BenchmarkJudge(b *testing.B) {
	d, err := Hold(b.Context(), b.TempDir(), time.Now)
	if err != nil {
		b.Fatal(err)
	}
	defer d.State.Close()
	var files []string
	for i := range 10000 {
		files = append(files, fmt.Sprintf("usr/share/doc/package-%d/file-%d", i%200, i), "some text")
	}
	for _, i := range []lab.Import{{Name: "root", Kind: "system", Form: lab.FormTree}, {Name: "over", Kind: "system", Form: lab.FormFiles}} {
		if _, err := d.Import(b.Context(), bytes.NewReader(tarOf(b, files...)), i, nil); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 50 {
		if _, err := d.Say(b.Context(), lab.AddMachine{Name: fmt.Sprint("m", i), Virtual: &lab.Virtual{}}); err != nil {
			b.Fatal(err)
		}
	}
	st := lab.Stack{Name: "s", Layers: []lab.Ref{{Name: "root"}, {Name: "over"}}}
	judge := func(b *testing.B) {
		if j, err := d.Judge(b.Context(), st); err != nil || !j.OK || len(j.Machines) != 50 {
			b.Fatal(j, err)
		}
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			d.listed.cache().Purge()
			judge(b)
		}
	})
	b.Run("then", func(b *testing.B) {
		for b.Loop() {
			judge(b)
		}
	})
}
