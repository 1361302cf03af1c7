package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
	"carte/store/media"
)

// Desk is a lab with its bytes at hand: all that a person can do, in the process that holds the state. Looks are what the
// doctor asks besides the store itself.
type Desk struct {
	*lab.Lab
	State *State
	Looks []func(context.Context) []lab.Finding
	Keys  func(lab.Machine, []byte) error // types on a machine's serial console; nil: nobody reaches one
	Agent func() ([]byte, error)          // the agent, which starts an exported disk whose kernel has no initrd; nil: there is none
	Still bool                            // nothing runs: the log is what earlier runs have left
	taken taken
	homes sync.RWMutex // held while results change places

	listed listed
}

var _ lab.Desk = (*Desk)(nil)

// Import reads an image to its end, keeps its chunks, and says the one verb that makes it a version. Whatever goes wrong
// before that leaves nothing that anybody can see, and says so.
func (d *Desk) Import(ctx context.Context, r io.Reader, i lab.Import, progress func(done int64)) (lab.Imported, error) {
	begin := time.Now()
	if err := d.freshKinds(ctx); err != nil {
		return lab.Imported{}, err
	}
	v := lab.AddVersion{
		Version: lab.Version{Image: i.Name, Message: lab.Clean(i.Message), Author: lab.Clean(i.Author), Offers: i.Offers, Place: i.Place},
		Kind:    i.Kind, Form: i.Form, Dies: i.Dies, Owner: i.Owner,
	}
	trial := v
	trial.Root, trial.Bytes = chunk.ID{1}, 1
	if err := d.Lab.Check(trial); err != nil { // what can be refused before the bytes are read is
		return lab.Imported{}, err
	}
	name := i.File
	if name == "" || name == "-" {
		name = "standard input"
	}
	src, err := media.OpenReader(ctx, r, name, d.State.Temp())
	if err != nil {
		return lab.Imported{}, unadded("import", i.Name, err)
	}
	defer src.Close()
	made, err := madeOf(src, i)
	if err != nil {
		return lab.Imported{}, unadded("import", i.Name, fmt.Errorf("%s: %w", name, err))
	}
	in := Input{At: src.Random(), Size: src.Size, Whole: i.Whole, Progress: func(done int64) {
		if progress != nil {
			progress(max(done, src.Consumed()))
		}
	}}
	var said []string
	if made != "" {
		files, warnings, err := d.files(ctx, src, i, made, &in, &v)
		if err != nil {
			return lab.Imported{}, unadded("import", i.Name, fmt.Errorf("%s: %w", name, err))
		}
		defer files.Close()
		said = warnings
	}
	if in.At == nil {
		whole := bufio.NewReaderSize(src, media.Sector)
		head, err := whole.Peek(media.Sector)
		if err != nil && err != io.EOF {
			return lab.Imported{}, unadded("import", i.Name, err)
		}
		in.Stream, in.Size = whole, int64(len(head))
	}
	if in.Size < media.Sector {
		return lab.Imported{}, unadded("import", i.Name, fmt.Errorf("%s holds %d bytes, and the smallest image is one sector of %d: %w", name, in.Size, media.Sector, lab.ErrInvalid))
	}
	m, found, stats, err := d.State.Chunks.Keep(ctx, in)
	if err != nil {
		return lab.Imported{}, unadded("import", i.Name, err)
	}
	v.Root, v.Bytes, v.Content, v.Stored = m.Root(), m.Size, m.Content(), stats.New
	out, err := d.add(ctx, "import", v, &found)
	out.Mended = stats.Mended
	if err == nil && !i.Whole {
		out.Warnings = append(out.Warnings, keptSpace(found)...)
	}
	out.Warnings = append(out.Warnings, said...)
	out.Format, out.Seconds = src.Format, time.Since(begin).Seconds()
	return out, err
}

// add makes what has just been kept a version, and lets go of it. found is what is in it, nil if nobody has looked yet.
func (d *Desk) add(ctx context.Context, how string, v lab.AddVersion, found *layout.Map) (lab.Imported, error) {
	defer d.State.Chunks.Settle(v.Root)
	facts, err := d.sniff(v)
	if err == nil && found == nil {
		found, err = d.look(ctx, v)
	}
	var said []string
	if err == nil {
		said, err = d.inspect(ctx, &v, facts)
	}
	if err != nil {
		return lab.Imported{}, unadded(how, v.Image, err)
	}
	v.FileSystems = fileSystems(*found)
	if v.Found = lab.Clean(v.Found); v.Found == "" {
		v.Found = lab.Clean(facts.String())
	} else { // it was made of files, and what they are says more
		v.Found = lab.Clean(facts.Whole.String()) + ", " + v.Found
	}
	twins, err := d.twins(ctx, v)
	if err != nil {
		return lab.Imported{}, unadded(how, v.Image, err)
	}
	changed, err := d.Lab.Say(ctx, v)
	if err != nil {
		return lab.Imported{}, err
	}
	out := lab.Imported{Same: len(changed.Versions) == 0, New: v.Stored, Warnings: slices.Concat(warnings(v), said, twins)}
	if out.Same {
		out.Version, err = d.version(ctx, lab.Ref{Name: v.Image})
	} else {
		out.Version = changed.Versions[0]
	}
	return out, err
}

// unadded says first of all that what has failed left nothing.
func unadded(verb, name string, err error) error {
	if errors.Is(err, context.Canceled) { // where in the work it was is nobody's concern
		return fmt.Errorf("%s %s: interrupted, nothing was added: %w", verb, name, context.Canceled)
	}
	return fmt.Errorf("%s %s: nothing was added: %w", verb, name, err)
}

// warnings are what a person should know about a version that is nevertheless taken.
func warnings(v lab.AddVersion) []string {
	starts := v.Kind == "system" || v.Kind == "machine" // the other kinds bring data to one of these
	if v.Form == lab.FormDisk && starts && v.Inside.Idle != "" {
		return []string{v.Inside.Idle + ": nothing will start from " + v.Image}
	}
	return nil
}

// sniff looks into what was imported. A tree must be a file system that the agent can mount.
func (d *Desk) sniff(v lab.AddVersion) (media.Facts, error) {
	r, err := d.State.Chunks.Reader(v.Root)
	if err != nil {
		return media.Facts{}, err
	}
	facts, err := media.Sniff(r, v.Bytes)
	if err != nil {
		return media.Facts{}, fmt.Errorf("look into %s: %w", v.Image, err)
	}
	if v.Form != lab.FormDisk && facts.Whole.Type != "ext4" {
		return media.Facts{}, fmt.Errorf("a %s is one ext4 file system, and this is %s: %w", v.Form, lab.Clean(facts.String()), lab.ErrInvalid)
	}
	return facts, nil
}

// Say carries out a verb, with the kinds that the lab's file has now, and what follows of it in the lab's folder.
func (d *Desk) Say(ctx context.Context, v lab.Verb) (lab.Changed, error) {
	if err := d.freshKinds(ctx); err != nil {
		return lab.Changed{}, err
	}
	changed, err := d.Lab.Say(ctx, v)
	if err != nil {
		return lab.Changed{}, err
	}
	return changed, d.forgotten(ctx, v)
}

// Watch is the lab's. A first look finds the kinds that the lab's file has now.
func (d *Desk) Watch(ctx context.Context, after uint64) (lab.Snapshot, error) {
	if after == 0 {
		if err := d.freshKinds(ctx); err != nil {
			return lab.Snapshot{}, err
		}
	}
	return d.Lab.Watch(ctx, after)
}

// Tail is the lab's. Where no lab runs, the log of the last one is read first.
func (d *Desk) Tail(ctx context.Context, t lab.Tail) ([]lab.Line, int64, int64, error) {
	if d.Still {
		past, err := recall(d.State.Dir)
		if err != nil {
			return nil, 0, 0, err
		}
		d.Lab.Recall(past)
	}
	return d.Lab.Tail(ctx, t)
}

// Export writes a version's bytes; into a plain file, without its zeros.
func (d *Desk) Export(ctx context.Context, ref lab.Ref, w io.Writer, progress func(done, of int64)) error {
	v, err := d.version(ctx, ref)
	if err != nil {
		return err
	}
	tell := func(done int64) {
		if progress != nil {
			progress(done, v.Bytes)
		}
	}
	if f, ok := w.(*os.File); ok {
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() && st.Size() == 0 && !appends(f) {
			if err := d.State.Chunks.ExportFile(ctx, v.Root, f, tell); err != nil {
				return err
			}
			_, err := f.Seek(0, io.SeekEnd)
			return err
		}
	}
	return d.State.Chunks.Export(ctx, v.Root, w, tell)
}

// appends says that a file takes every write at its end, wherever it was meant to go, as after >> in a shell.
func appends(f *os.File) bool {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	return err != nil || flags&unix.O_APPEND != 0
}

// Verify hashes every chunk of a version again.
func (d *Desk) Verify(ctx context.Context, ref lab.Ref, progress func(done, of int64)) error {
	v, err := d.version(ctx, ref)
	if err != nil {
		return err
	}
	return d.State.Chunks.Verify(ctx, v.Root, progress)
}

func (d *Desk) version(ctx context.Context, ref lab.Ref) (lab.Version, error) {
	s, err := d.Lab.Watch(ctx, 0)
	if err != nil {
		return lab.Version{}, err
	}
	return s.Version(ref)
}

// roomy is the free space below which the doctor worries.
const roomy = 5 << 30

// Doctor looks at the store, and at everything in Looks.
func (d *Desk) Doctor(ctx context.Context) ([]lab.Finding, error) {
	all := []lab.Finding{d.room(), d.catalogue(ctx), d.manifests(ctx)}
	for _, look := range d.Looks {
		all = append(all, look(ctx)...)
	}
	return all, ctx.Err()
}

func (d *Desk) room() lab.Finding {
	free, err := d.State.Free()
	if err != nil {
		return lab.Finding{What: "room for images", Must: true, Why: err.Error()}
	}
	f := lab.Finding{What: "room for images", OK: free > roomy, Why: fmt.Sprintf("%s free in %s", lab.Bytes(free), d.State.Dir)}
	if !f.OK && !d.State.Reserved() {
		f.Why += fmt.Sprintf("; the %s that carte keeps back for a full disk are in use: at %s free they are kept back again", lab.Bytes(reserveSize), lab.Bytes(reserveRoom))
	}
	if !f.OK {
		f.Fix = "carte image rm NAME, then carte gc, or another folder: --state DIR"
	}
	return f
}

func (d *Desk) catalogue(ctx context.Context) lab.Finding {
	if err := d.State.DB.Check(ctx); err != nil {
		return lab.Finding{What: "catalogue", Must: true, Why: err.Error(), Fix: "put back a backup of lab.db"}
	}
	return lab.Finding{What: "catalogue", OK: true, Must: true, Why: "sound"}
}

func (d *Desk) manifests(ctx context.Context) lab.Finding {
	f := lab.Finding{What: "images", Must: true}
	s, err := d.Lab.Watch(ctx, 0)
	if err != nil {
		f.Why = err.Error()
		return f
	}
	var bad bytes.Buffer
	for _, v := range s.Versions {
		if _, err := d.State.Chunks.Manifest(v.Root); err != nil {
			fmt.Fprintf(&bad, "%s: %v; ", v.Ref(), err)
		}
	}
	if bad.Len() > 0 {
		f.Why, f.Fix = bad.String(), "import these images again"
		return f
	}
	f.OK, f.Why = true, fmt.Sprintf("%d versions, %s on disk", len(s.Versions), lab.Bytes(d.State.Chunks.Total()))
	return f
}

// Hold opens a lab's folder and the lab in it. Close the state when it is over.
func Hold(ctx context.Context, dir string, now func() time.Time) (*Desk, error) {
	s, err := Open(ctx, dir)
	if err != nil {
		return nil, err
	}
	if s.log, err = openLogbook(dir); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	l, err := lab.Open(ctx, lab.Config{Book: s.DB, Now: now, Secret: s.Secret, Kinds: s.Kinds, KindsAt: s.KindsFile(), Keep: s.log.Append})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	past, err := recall(dir)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	l.Recall(past)
	for _, n := range s.Notes {
		l.Log(lab.Line{Source: "store", Text: n})
	}
	d := &Desk{Lab: l, State: s}
	if err := d.dropOuts(ctx); err != nil {
		l.Log(lab.Line{Source: "store", Text: err.Error()})
	}
	return d, nil
}
