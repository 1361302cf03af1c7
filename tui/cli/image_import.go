package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/tui/action"
	"carte/tui/folder"
)

// importing is what flags say of an import.
type importing struct {
	lab.Import
	offers                  []string // CLAUSE, or CLAUSE=NEED
	until, lasts            string
	kernel, initrd, modules string
}

func (i *importing) flags(f *pflag.FlagSet) {
	f.Var(notEmpty{&i.Name, "NAME"}, "name", "the image's name (default: the file's, without its endings)")
	f.StringVar(&i.Kind, "kind", "", "machine, system, user, project, temporary or one of the lab's own (default: the image's, or system; of the form files: user)")
	f.StringVar((*string)(&i.Form), "form", "", "disk, tree, files or kernel (default: the image's, or by the file's name; of a folder or a .tar: tree, or files where the kind is for them)")
	f.StringVar(&i.Message, "message", "", "what is new in this version")
	f.Var(size{&i.Size}, "size", "size of the file system that is made of a tar or folder: 4G (default: what the files need and a quarter more, at least 256 MiB more; of a next version: as before, if they fit)")
	f.BoolVar(&i.Whole, "whole", false, "keep free space, too: every byte as it is in the file")
	f.StringArrayVar(&i.offers, "offer", nil, "a clause that it offers, or with =required needs: lazy, autostart=required")
	f.StringVar(&i.Place, "place", "", "where files are mounted in the running system: /home/me (default: over the root; of a project: "+lab.ProjectPlace+")")
	f.StringVar(&i.until, "until", "", "of a kind that lives until a date: to the end of 2026-11-30, or to a time, '2026-11-30 18:00'")
	f.StringVar(&i.lasts, "for", "", "the same, from now on: 8h, 3d")
	f.StringVar(&i.Owner, "machine", "", "of the kind machine: whose it is")
	f.StringVar(&i.kernel, "kernel", "", "with --form kernel: the kernel's file; the argument is then the image's name")
	f.StringVar(&i.initrd, "initrd", "", "beside --kernel: its initrd")
	f.StringVar(&i.modules, "modules", "", "beside --kernel: its modules, /lib/modules/RELEASE or a folder that has that in it")
}

// terms is the import with what it promises: clauses, and how long it lives.
func (x importing) terms(now time.Time) (i lab.Import, err error) {
	i = x.Import
	for _, o := range x.offers {
		c, n := clauseWord(o)
		i.Offers = with(i.Offers, c, n)
	}
	if err := i.Offers.Check(); err != nil {
		return i, fmt.Errorf("--offer: %w", err)
	}
	if x.until != "" && x.lasts != "" {
		return i, fmt.Errorf("either --until or --for: %w", lab.ErrInvalid)
	}
	i.Dies, err = deathOf(x.until, x.lasts, now)
	if err == nil && x.until != "" && !i.Dies.After(now) {
		err = fmt.Errorf("--until %s is in the past: %w", x.until, lab.ErrInvalid)
	}
	return i, err
}

// deathOf reads a date, or how long something lives from now on; zero of neither.
func deathOf(until, lasts string, now time.Time) (time.Time, error) {
	if lasts != "" {
		d, ok := span(lasts)
		if !ok {
			return time.Time{}, fmt.Errorf("--for %q: it lives so long, as in 8h, 90m or 3d: %w", lasts, lab.ErrInvalid)
		}
		return now.Add(d), nil
	}
	if until == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(form, until, now.Location()); err == nil {
			if form == "2006-01-02" { // to the end of that day
				t = t.AddDate(0, 0, 1).Add(-time.Second)
			}
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--until %q: a date such as 2026-11-30, or '2026-11-30 18:00': %w", until, lab.ErrInvalid)
}

// span reads a length of time, also in days: more than nothing, and at most a hundred years.
func span(word string) (time.Duration, bool) {
	d, err := time.ParseDuration(word)
	if days, ok := strings.CutSuffix(word, "d"); ok {
		var n int
		if n, err = strconv.Atoi(days); n > 100*365 {
			return 0, false
		}
		d = time.Duration(n) * 24 * time.Hour
	}
	return d, err == nil && d > 0 && d <= 100*365*24*time.Hour
}

// importSource opens what is to be imported: a file, a folder, standard input, or the parts of a kernel.
func (c *call) importSource(ctx context.Context, file string, x importing, i *lab.Import) (io.ReadCloser, int64, error) {
	i.File = file
	if x.kernel == "" {
		if x.initrd+x.modules != "" {
			return nil, 0, fmt.Errorf("--initrd and --modules are beside --kernel FILE: %w", lab.ErrInvalid)
		}
		return c.source(ctx, file)
	}
	if i.Form != "" && i.Form != lab.FormKernel {
		return nil, 0, fmt.Errorf("--kernel makes an image of the form kernel, not %s: %w", i.Form, lab.ErrInvalid)
	}
	if i.Name != "" && i.Name != file {
		return nil, 0, fmt.Errorf("beside --kernel the argument is the image's name, and --name says another: %w", lab.ErrInvalid)
	}
	i.Form, i.Name, i.File = lab.FormKernel, file, filepath.Base(x.kernel)
	r, err := folder.Kernel(x.kernel, x.initrd, x.modules)
	return r, 0, err
}

// guess is the form and the kind of what flags left open: those of the image that there is, else by what is imported.
func (x importing) guess(r io.Reader, i lab.Import, have lab.Image) (lab.Form, string) {
	form := action.FormByName(i.File)
	if _, ok := r.(*folder.Reader); ok {
		form = lab.FormTree
	}
	if slices.Contains([]string{"user", "project", "temporary", "machine"}, or(i.Kind, have.Kind)) && form == lab.FormTree || i.Place != "" {
		form = lab.FormFiles // which they bring to a system
	}
	i.Form = lab.Form(or(string(i.Form), or(string(have.Form), string(form))))
	return i.Form, or(i.Kind, or(have.Kind, action.KindByForm(i.Form)))
}

// importedDoc is the document of an import.
type importedDoc struct {
	Version versionDoc `json:"version"`
	Same    bool       `json:"same"`
	Format  string     `json:"format"`
	New     int64      `json:"new_stored_bytes"`
	Mended  int        `json:"mended_chunks"`
	Seconds float64    `json:"seconds"`

	Warnings []string `json:"warnings,omitempty"`
}

func (c *call) importImage(ctx context.Context, file string, x importing) error {
	i, err := x.terms(c.term.Now())
	if err != nil {
		return err
	}
	r, of, err := c.importSource(ctx, file, x, &i)
	if err != nil {
		return err
	}
	defer r.Close()
	if i.Name == "" {
		if file == "-" {
			return fmt.Errorf("standard input has no name: --name NAME: %w", lab.ErrInvalid)
		}
		if i.Name = action.NameByFile(absolute(file)); i.Name == "" {
			return fmt.Errorf("%s: its name makes no image's name: --name NAME: %w", file, lab.ErrInvalid)
		}
	}
	if ref, err := lab.ParseRef(i.Name); err != nil {
		return fmt.Errorf("--name: %w", err)
	} else if ref.Version != 0 {
		return fmt.Errorf("--name %q: an image's name without a version; versions are counted by carte: %w", i.Name, lab.ErrInvalid)
	}
	if me, err := user.Current(); err == nil {
		i.Author = me.Username
	}
	return c.with(ctx, seeing(ctx, func(d desk, s lab.Snapshot) error {
		have := s.Images[i.Name]
		i.Form, i.Kind = x.guess(r, i, have)
		files, isFolder := r.(*folder.Reader)
		isFolder = isFolder && x.kernel == ""
		if isFolder && i.Form == lab.FormDisk {
			return fmt.Errorf("%s is a folder, and a folder is no disk; --form tree makes a Linux root of it, --form files a file set: %w", file, lab.ErrInvalid)
		}
		p := c.meter("import "+i.Name, of)
		got, err := d.Import(ctx, r, i, p.to)
		p.end()
		if err != nil {
			return &kept{err, "nothing of " + i.Name + " was kept"}
		}
		if isFolder {
			got.Format = "folder"
		}
		if files != nil {
			for _, left := range files.Left {
				got.Warnings = append(got.Warnings, "left out: "+left)
			}
		}
		for _, w := range got.Warnings {
			c.aside("warning: %s", lab.Clean(w))
		}
		if !i.Dies.IsZero() {
			c.aside("%s lives until %s", i.Name, i.Dies.Format("2006-01-02 15:04:05 MST"))
		}
		v := got.Version
		result := fmt.Sprintf("%s from %s, %s, %s new in the store%s, %s", lab.Bytes(v.Bytes), got.Format, or(v.Found, "nothing known inside"), lab.Bytes(got.New), mended(got), took(got.Seconds))
		if got.Same {
			result = already(got)
		}
		return c.show(list{doc: importedDoc{versionOf(s, v), got.Same, got.Format, got.New, got.Mended, got.Seconds, got.Warnings}, names: []string{v.Ref().String()}, rows: [][]string{{v.Ref().String(), result}}})
	}))
}

// already says that nothing came of an import but, where the store was damaged, that it is whole again.
func already(got lab.Imported) string {
	if got.Mended > 0 {
		return fmt.Sprintf("has these bytes already; %s new in the store%s", lab.Bytes(got.New), mended(got))
	}
	return "has these bytes already; nothing was stored"
}

// mended says what an import has mended, to go on with.
func mended(got lab.Imported) string {
	if got.Mended == 0 {
		return ""
	}
	return ", mended " + plural(got.Mended, "damaged chunk")
}

// source opens what is to be imported, and says how long it is, 0 when nobody knows.
func (c *call) source(ctx context.Context, file string) (io.ReadCloser, int64, error) {
	if file == "-" {
		if c.term.Asks {
			return nil, 0, fmt.Errorf("standard input is a terminal; pipe the image into it: %w", lab.ErrInvalid)
		}
		return io.NopCloser(c.term.In), 0, nil
	}
	f, err := open(ctx, file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, fmt.Errorf("%s: there is no such file or folder here: %w", file, lab.ErrNotFound)
	}
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.IsDir() {
		return f, st.Size(), nil
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, 0, err
	}
	r, err := folder.Open(file)
	return r, 0, err
}

// open opens a file. A pipe that has a name is waited for until somebody writes into it, or until ctx is over: to open one waits in the kernel, where
// no signal that carte hears ends it.
func open(ctx context.Context, file string) (*os.File, error) {
	at, err := filepath.EvalSymlinks(file) // which fails for the pipes of a shell's <( ), that have no name and somebody writes
	if err != nil {
		return os.Open(file)
	}
	if st, err := os.Stat(at); err != nil || st.Mode()&os.ModeNamedPipe == 0 {
		return os.Open(file)
	}
	f, err := os.OpenFile(at, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for ready := false; !ready; {
		if ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("%s: nobody has written into this pipe: %w", file, context.Cause(ctx)), f.Close())
		}
		e := raw.Control(func(fd uintptr) {
			all := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, e := unix.Poll(all, 100) // without a writer there is nothing, not even the end
			if ready = n > 0; e != nil && e != unix.EINTR {
				err = e
			}
		})
		if err = errors.Join(err, e); err != nil {
			return nil, errors.Join(fmt.Errorf("wait for %s: %w", file, err), f.Close())
		}
	}
	return f, nil
}

// absolute is a path that ends with the name of what it leads to, also for "." and "..".
func absolute(file string) string {
	if path, err := filepath.Abs(file); err == nil {
		return path
	}
	return file
}
