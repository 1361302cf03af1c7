package tui

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"carte/lab"
	"carte/tui/action"
	"carte/tui/cell"
	"carte/tui/folder"
)

// A job is long work that the screen started: import, export, verify. Its numbers are written by the work and read by
// the picture.
type job struct {
	words    string
	began    time.Time
	done, of atomic.Int64 // bytes; of 0: nobody knows
}

// draw shows how far it is.
func (j *job) draw(g *cell.Grid, x, y, w int, now time.Time) {
	done, of := j.done.Load(), j.of.Load()
	text := fmt.Sprintf("%s  %s", j.words, lab.Bytes(done))
	rate := float64(done) / max(now.Sub(j.began).Seconds(), 0.1)
	if of > 0 {
		text += fmt.Sprintf(" of %s  %s", lab.Bytes(of), perSecond(rate))
		if rate > 0 && done < of {
			text += "  " + span(time.Duration(float64(of-done)/rate*float64(time.Second))) + " left"
		}
	}
	n := g.Text(x, y, w, cell.Plain, text) + gap
	if of > 0 && w-n > 12 {
		g.Bar(x+n, y, min(30, w-n), cell.Cyan, float64(done)/float64(of))
	}
}

// long starts work that takes a while.
func (m *model) long(a action.Action, t action.Target, q *ask) {
	j := &job{began: m.now}
	var work func() (string, error)
	switch a.ID {
	case "image.import":
		work = m.importing(j, t.Text)
	case "image.export":
		work = m.exporting(j, lab.Ref{Name: t.Image.Name, Version: t.Version.Number}, t.Text)
	case "image.verify":
		ref := lab.Ref{Name: t.Image.Name, Version: t.Version.Number}
		j.words = "verifying " + ref.String()
		work = func() (string, error) {
			return ref.String() + " is whole: every chunk has its hash", m.desk.Verify(m.ctx, ref, j.progress(m.feed))
		}
	default:
		if m.opt.Command != nil {
			m.shell(m.command[min(len("carte "), len(m.command)):])
			return
		}
		m.say(cell.Failed, "%s can only be done from the shell: %s", a.Words, m.command)
		return
	}
	m.jobs = append(m.jobs, j)
	f := m.feed
	m.spawn(func() {
		words, err := work()
		f.finish(outcome{words: words, err: err, job: j, ask: q})
	})
}

func (j *job) progress(f *feed) func(done, of int64) {
	return func(done, of int64) {
		j.done.Store(done)
		j.of.Store(of)
		f.soon()
	}
}

func (m *model) importing(j *job, text string) func() (string, error) {
	j.words = "importing " + text
	return func() (string, error) {
		name, i, err := action.ParseImport(text)
		if err != nil {
			return "", err
		}
		file, size, err := openImport(name)
		if err != nil {
			return "", fileWords(name, err)
		}
		defer file.Close()
		j.of.Store(size)
		if _, ok := file.(*folder.Reader); ok && i.Form == lab.FormDisk {
			i.Form = lab.FormTree
		}
		got, err := m.desk.Import(m.ctx, file, i, func(done int64) { j.done.Store(done); m.feed.soon() })
		if err != nil {
			return "", err
		}
		mended := ""
		if got.Mended > 0 {
			mended = "; mended " + plural(got.Mended, "damaged chunk")
		}
		if got.Same && got.Mended > 0 {
			return fmt.Sprintf("%s has these bytes already%s", got.Version.Ref(), mended), nil
		}
		if got.Same {
			return fmt.Sprintf("%s has these bytes already; nothing was stored", got.Version.Ref()), nil
		}
		words := fmt.Sprintf("%s: %s, %s new in the store, %s", got.Version.Ref(), lab.Bytes(got.Version.Bytes), lab.Bytes(got.New), got.Format) + mended
		if len(got.Warnings) > 0 {
			words += "; warning: " + lab.Clean(strings.Join(got.Warnings, "; "))
		}
		return words, nil
	}
}

// openImport opens a file, or a folder as a tar of it, and says how long it is; 0: nobody knows.
func openImport(name string) (io.ReadCloser, int64, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		dir, err := folder.Open(name)
		return dir, 0, errors.Join(err, file.Close())
	}
	if err == nil && info.Mode().IsRegular() {
		return file, info.Size(), nil
	}
	return file, 0, err
}

// fileWords says in words why a file or folder cannot be used.
func fileWords(name string, err error) error {
	kind, text := lab.ErrInvalid, err.Error()
	var at *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind, text = lab.ErrNotFound, "there is no such file or folder"
	case errors.Is(err, fs.ErrPermission):
		kind, text = lab.ErrDenied, "you may not use it"
	case errors.As(err, &at):
		text = at.Err.Error()
	}
	return fmt.Errorf("%s: %s; nothing was changed: %w", name, text, kind)
}

// exporting writes to a file beside the one that is wanted, and gives it its name when it is whole.
func (m *model) exporting(j *job, ref lab.Ref, name string) func() (string, error) {
	j.words = "exporting " + ref.String()
	return func() (string, error) {
		if _, err := os.Lstat(name); err == nil {
			return "", fmt.Errorf("%s is there already; nothing was written: %w", name, lab.ErrBusy)
		}
		out, err := os.CreateTemp(filepath.Dir(name), ".carte-export-*")
		if err != nil {
			return "", fileWords(filepath.Dir(name), err)
		}
		defer os.Remove(out.Name())
		err = m.desk.Export(m.ctx, ref, io.Writer(out), j.progress(m.feed))
		if err == nil {
			err = out.Sync()
		}
		if cerr := out.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = os.Rename(out.Name(), name)
		}
		if err != nil {
			return "", fmt.Errorf("export %s: %w", ref, err)
		}
		return fmt.Sprintf("%s is in %s", ref, name), nil
	}
}
