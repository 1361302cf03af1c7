package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"carte/lab"
)

func (d *desk) Judge(_ context.Context, st lab.Stack) (lab.Judged, error) {
	if st.Name == "" {
		return lab.Judged{}, fmt.Errorf("the stack has no name: %w", lab.ErrInvalid)
	}
	return lab.Judged{Stack: st.Name, OK: true, Remarks: []lab.Remark{{Code: "E-FIT", Grade: lab.GradeStop, Text: st.Files[0].Text, Edited: &st}}}, nil
}

func (d *desk) Results(_ context.Context, boot int64, w io.Writer) error {
	if boot == 404 {
		return fmt.Errorf("boot %d left nothing: %w", boot, lab.ErrNotFound)
	}
	_, err := fmt.Fprintf(w, "tar of %d", boot)
	return err
}

func (d *desk) ExportStack(_ context.Context, name, as string, w io.Writer, progress func(done, of int64)) ([]string, error) {
	progress(0, int64(len(name+" "+as)))
	if _, err := io.WriteString(w, name+" "+as); err != nil {
		return nil, err
	}
	if name == "cut" {
		return nil, fmt.Errorf("chunk 3 of %s: %w", name, lab.ErrDamaged)
	}
	return []string{"an initrd was made", "für \"x\"\n"}, nil
}

func (d *desk) ImportStack(_ context.Context, r io.Reader, as lab.TakeAs, progress func(int64)) (lab.Taken, error) {
	all, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return lab.Taken{}, err
	}
	progress(int64(len(all)))
	if string(all) == "a cat" {
		return lab.Taken{}, fmt.Errorf("this is a cat: %w", lab.ErrInvalid)
	}
	return lab.Taken{Changed: lab.Changed{Stacks: []lab.Stack{{Name: string(all)}}}, Renamed: []lab.Renamed{{What: "stack", Was: as.Images["a b"], Is: as.Prefix}}}, nil
}

func TestStacks(t *testing.T) {
	_, c := serve(t, t.TempDir(), nil)
	st := lab.Stack{Name: "hpt", Layers: []lab.Ref{{Name: "deb", Version: 3}}, Asks: lab.Terms{lab.Lazy: lab.Required}, Files: []lab.TextFile{{Path: "/x", Text: strings.Repeat("ü\n", 1<<20)}}}
	got, err := c.Judge(t.Context(), st)
	if err != nil || !reflect.DeepEqual(got, lab.Judged{Stack: "hpt", OK: true, Remarks: []lab.Remark{{Code: "E-FIT", Grade: lab.GradeStop, Text: st.Files[0].Text, Edited: &st}}}) {
		t.Errorf("Judge = %.200v, %v", got, err)
	}
	if _, err := c.Judge(t.Context(), lab.Stack{}); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("no name: %v", err)
	}
	var of int64
	var b bytes.Buffer
	if notes, err := c.ExportStack(t.Context(), "hpt", "disk", &b, func(_, x int64) { of = x }); err != nil || b.String() != "hpt disk" || of != 8 || len(notes) != 2 || notes[1] != "für \"x\"\n" {
		t.Errorf("ExportStack = %q of %d, %q, %v", b.String(), of, notes, err)
	}
	b.Reset()
	if _, err := c.ExportStack(t.Context(), "cut", "disk", &b, nil); !errors.Is(err, lab.ErrDamaged) || !strings.Contains(err.Error(), "chunk 3") {
		t.Errorf("a cut export: %v", err)
	}
	var told int64
	ch, err := c.ImportStack(t.Context(), strings.NewReader("bundle"), lab.TakeAs{Prefix: "x-", Images: map[string]string{"a b": "c&d"}}, func(n int64) { told = n })
	if err != nil || len(ch.Stacks) != 1 || ch.Stacks[0].Name != "bundle" || told != 6 || ch.Renamed[0] != (lab.Renamed{What: "stack", Was: "c&d", Is: "x-"}) {
		t.Errorf("ImportStack = %v, %v, told %d", ch, err, told)
	}
	if _, err := c.ImportStack(t.Context(), strings.NewReader("a cat"), lab.TakeAs{}, nil); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("a cat: %v", err)
	}
}

func TestResults(t *testing.T) {
	_, c := serve(t, t.TempDir(), nil)
	var b bytes.Buffer
	if err := c.Results(t.Context(), 7, &b); err != nil || b.String() != "tar of 7" {
		t.Errorf("Results = %q, %v", b.String(), err)
	}
	b.Reset()
	if err := c.Results(t.Context(), 404, &b); !errors.Is(err, lab.ErrNotFound) || b.Len() > 0 {
		t.Errorf("nothing was left: %v, %q", err, b.String())
	}
}

// What an image promises crosses the socket as it was said.
func TestImportTerms(t *testing.T) {
	want := lab.Import{
		Name: "x", Kind: "temporary", Form: lab.FormFiles, File: "x.tar", Offers: lab.Terms{lab.Lazy: lab.Optional, lab.Sealed: lab.Required},
		Place: "/home/me & co", Owner: "nuc-1", Dies: time.Date(2026, 11, 23, 8, 0, 0, 5, time.UTC), Size: 1 << 30, Whole: true,
	}
	seen := make(chan lab.Import, 1)
	_, c := serve(t, t.TempDir(), func(s *Server) { s.Desk = &taker{s.Desk, seen} })
	if _, err := c.Import(t.Context(), strings.NewReader("bytes"), want, nil); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; !reflect.DeepEqual(got, want) {
		t.Errorf("it came as %+v, want %+v", got, want)
	}
}

// taker takes every import and keeps nothing.
type taker struct {
	lab.Desk
	seen chan lab.Import
}

func (d *taker) Import(_ context.Context, _ io.Reader, i lab.Import, _ func(int64)) (lab.Imported, error) {
	d.seen <- i
	return lab.Imported{}, nil
}
