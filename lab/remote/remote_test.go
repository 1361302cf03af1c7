package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// book writes nothing down.
type book struct{}

func (book) Load(context.Context) (lab.Snapshot, error) { return lab.Snapshot{}, nil }
func (book) Save(context.Context, []lab.Change) error   { return nil }

// unused stands for what a desk can do and these tests do not ask of it.
type unused struct{ lab.Desk }

// desk is a real lab with images in memory.
type desk struct {
	*lab.Lab
	unused
	mu     sync.Mutex
	bytes  map[string][]byte
	cut    int           // Export ends with an error after so many bytes; 0: it does not
	inside chan struct{} // told when an import has read its first bytes
	kept   chan error    // how each import ended
}

func (d *desk) Import(ctx context.Context, r io.Reader, i lab.Import, progress func(int64)) (got lab.Imported, err error) {
	defer func() { d.kept <- err }()
	var all bytes.Buffer
	first := make([]byte, 1)
	for all.Len() == 0 {
		n, err := r.Read(first)
		if all.Write(first[:n]); err != nil {
			return got, fmt.Errorf("import %s at 0: %w", i.Name, err)
		}
	}
	progress(int64(all.Len()))
	if d.inside != nil {
		d.inside <- struct{}{}
	}
	if i.Message == "refuse" {
		return got, fmt.Errorf("import %s: this is a cat: %w", i.Name, lab.ErrInvalid)
	}
	if _, err := io.Copy(&all, io.LimitReader(r, 64<<20)); err != nil {
		return got, fmt.Errorf("import %s at %d: %w", i.Name, all.Len(), err)
	}
	if i.Message == "think" {
		<-ctx.Done()
		return got, ctx.Err()
	}
	v := lab.Version{Image: i.Name, Root: chunk.Sum(all.Bytes()), Bytes: int64(all.Len()), Message: i.Message, Author: i.Author}
	changed, err := d.Say(ctx, lab.AddVersion{Version: v, Kind: i.Kind, Form: i.Form})
	if err != nil {
		return got, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bytes[i.Name] = all.Bytes()
	return lab.Imported{Version: changed.Versions[0], Format: "raw", New: int64(all.Len())}, nil
}

func (d *desk) Export(_ context.Context, ref lab.Ref, w io.Writer, _ func(done, of int64)) error {
	d.mu.Lock()
	b := d.bytes[ref.Name]
	d.mu.Unlock()
	if d.cut > 0 {
		if _, err := w.Write(b[:d.cut]); err != nil {
			return err
		}
		return fmt.Errorf("chunk 3 of %s: %w", ref, lab.ErrDamaged)
	}
	_, err := w.Write(b)
	return err
}

func (d *desk) Verify(_ context.Context, ref lab.Ref, progress func(done, of int64)) error {
	progress(1, 2)
	if ref.Version == 9 {
		return fmt.Errorf("chunk 0 of %s: %w", ref, lab.ErrDamaged)
	}
	return nil
}

func (d *desk) Doctor(context.Context) ([]lab.Finding, error) {
	return []lab.Finding{{What: "qemu", Must: true, Why: "not found", Fix: "apt-get install qemu-system-x86"}}, nil
}

// serve runs a lab behind a socket in dir for the length of the test.
func serve(t *testing.T, dir string, change func(*Server)) (*desk, *Client) {
	t.Helper()
	l, err := lab.Open(t.Context(), lab.Config{Book: book{}, Now: time.Now, Secret: make([]byte, 16)})
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{Lab: l, bytes: map[string][]byte{}, kept: make(chan error, 8)}
	s := &Server{Desk: d, Dir: dir, Version: "test", Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(s)
	}
	run(t, s)
	c, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return d, c
}

// run runs a server and returns what stops it.
func run(t *testing.T, s *Server) (stop func()) {
	t.Helper()
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestSayWatchTail(t *testing.T) {
	d, c := serve(t, t.TempDir(), nil)
	ctx := t.Context()
	changed, err := c.Say(ctx, lab.AddMachine{Name: "vm-1", Virtual: &lab.Virtual{}})
	if err != nil || len(changed.Machines) != 1 || changed.Machines[0].Virtual.DiskBytes != lab.DefaultDisk {
		t.Fatalf("add: %+v, %v", changed, err)
	}
	there, err := c.Watch(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	here, err := d.Watch(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(there, here) {
		t.Errorf("the snapshot changed on its way:\n%+v\n%+v", there, here)
	}
	d.Log(lab.Line{Machine: 1, Source: "serial", Text: "hello"})
	lines, next, lost, err := c.Tail(ctx, lab.Tail{Machine: 1, Wait: true})
	if err != nil || len(lines) != 1 || lines[0].Text != "hello" || next != 1 || lost != 0 {
		t.Errorf("tail: %v %d %d %v", lines, next, lost, err)
	}
	if f, err := c.Doctor(ctx); err != nil || len(f) != 1 || f[0].What != "qemu" {
		t.Errorf("doctor: %v %v", f, err)
	}
	if v, err := c.Version(ctx); err != nil || v.Version != "test" || v.PID != os.Getpid() {
		t.Errorf("version: %v %v", v, err)
	}
}

// Every verb that the table has crosses the socket, and an error keeps its kind, its words and its code.
func TestErrorsKeepTheirKind(t *testing.T) {
	_, c := serve(t, t.TempDir(), nil)
	ctx := t.Context()
	if _, err := c.Say(ctx, lab.AddMachine{Name: "vm-1", Virtual: &lab.Virtual{}}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		verb lab.Verb
		kind error
		code string
	}{
		{lab.AddMachine{Name: "vm-1", Virtual: &lab.Virtual{}}, lab.ErrBusy, "E-BUSY"},
		{lab.AddMachine{Name: "a b"}, lab.ErrInvalid, "E-INVALID"},
		{lab.Adopt{Machine: "x", Name: "y"}, lab.ErrNotFound, "E-NOT-FOUND"},
		{lab.Forget{Machine: "vm-1"}, lab.ErrConfirm, "E-CONFIRM"},
		{lab.ArmDisk{Machine: "vm-1", Disk: "x"}, lab.ErrRefused, "E-REFUSED"},
		{lab.Ignore{Machine: "x"}, lab.ErrNotFound, "E-NOT-FOUND"},
		{lab.SetMachine{Machine: "vm-1"}, lab.ErrInvalid, "E-INVALID"},
		{lab.PowerMachine{Machine: "vm-1", Want: "up"}, lab.ErrInvalid, "E-INVALID"},
		{lab.RemoveImage{Ref: lab.Ref{Name: "x"}}, lab.ErrNotFound, "E-NOT-FOUND"},
		{lab.PutStack{Stack: lab.Stack{Name: "x"}}, lab.ErrInvalid, "E-INVALID"},
		{lab.RemoveStack{Name: "x"}, lab.ErrNotFound, "E-NOT-FOUND"},
		{lab.Queue{Machine: "vm-1", Stack: "x"}, lab.ErrNotFound, "E-NOT-FOUND"},
		{lab.Stop{Boot: 1}, lab.ErrNotFound, "E-NOT-FOUND"},
		{lab.Retry{Boot: 1}, lab.ErrNotFound, "E-NOT-FOUND"},
		{lab.MoveBoot{Boot: 1}, lab.ErrNotFound, "E-NOT-FOUND"},
	} {
		_, err := c.Say(ctx, x.verb)
		var e *Error
		if !errors.Is(err, x.kind) || !errors.As(err, &e) || e.Code != x.code || e.Message == "" {
			t.Errorf("%T: %v, want %v", x.verb, err, x.kind)
		}
	}
	if _, err := c.Say(ctx, lab.AddVersion{}); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("a verb that is not people's: %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	_, c := serve(t, t.TempDir(), nil)
	for _, x := range []struct{ method, path, body, want string }{
		{"POST", "/verb/machine.fly", "{}", `verb "machine.fly": no such thing; there are `},
		{"POST", "/verb/boot.stop", `{"boot":`, "verb boot.stop: "},
		{"POST", "/verb/boot.stop", `{"boot":"seven"}`, "verb boot.stop: "},
		{"POST", "/verb/boot.stop", `{"boat":7}`, `unknown field "boat"`},
		{"POST", "/verb/boot.stop", strings.Repeat(" ", maxVerb+1), "too large"},
		{"GET", "/watch?after=x", "", `after="x" is not a number`},
		{"GET", "/tail?max=-1", "", `max="-1" is not a number`},
		{"GET", "/image/export?ref=../x", "", "letter"},
		{"POST", "/image/import?nme=x", "", `parameter "nme"`},
		{"GET", "/verb/boot.stop", "", "GET /verb/boot.stop: no such thing"},
	} {
		path, query, _ := strings.Cut(x.path, "?")
		_, err := c.send(t.Context(), x.method, path, parseQuery(t, query), strings.NewReader(x.body))
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s %s: %v, want %q", x.method, x.path, err, x.want)
		}
	}
}

func TestImages(t *testing.T) {
	d, c := serve(t, t.TempDir(), nil)
	ctx := t.Context()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var heard int64
	got, err := c.Import(ctx, bytes.NewReader(content), lab.Import{Name: "debian", Kind: "system", Form: lab.FormDisk, Message: "a ü & b", Author: "me"}, func(n int64) { heard = n })
	if err != nil || got.Version.Ref().String() != "debian@1" || got.Version.Message != "a ü & b" || heard == 0 {
		t.Fatalf("import: %+v, %v, heard %d", got, err, heard)
	}
	if err := <-d.kept; err != nil {
		t.Fatal(err)
	}
	var back bytes.Buffer
	var done, of int64
	if err := c.Export(ctx, lab.Ref{Name: "debian"}, &back, func(a, b int64) { done, of = a, b }); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.Bytes(), content) || done != int64(len(content)) || of != done {
		t.Errorf("export gave %d bytes of %d (%d of %d)", back.Len(), len(content), done, of)
	}
	d.cut = 100
	if err := c.Export(ctx, lab.Ref{Name: "debian"}, io.Discard, nil); !errors.Is(err, lab.ErrDamaged) || !strings.Contains(err.Error(), "chunk 3 of debian@1") {
		t.Errorf("a cut export: %v", err)
	}
	if err := c.Export(ctx, lab.Ref{Name: "x"}, io.Discard, nil); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("export of nothing: %v", err)
	}
	if err := c.Export(ctx, lab.Ref{Name: "debian"}, full{}, nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("export to a full disk: %v", err)
	}
	if err := c.Verify(ctx, lab.Ref{Name: "debian"}, nil); err != nil {
		t.Errorf("verify: %v", err)
	}
	if err := c.Verify(ctx, lab.Ref{Name: "debian", Version: 9}, nil); !errors.Is(err, lab.ErrDamaged) {
		t.Errorf("verify of a damaged one: %v", err)
	}
}

// The lab refuses an image in the middle: the client stops sending and knows why.
func TestImportRefusedInTheMiddle(t *testing.T) {
	d, c := serve(t, t.TempDir(), nil)
	endless := iotest.HalfReader(zeros{})
	_, err := c.Import(t.Context(), endless, lab.Import{Name: "x", Kind: "system", Form: lab.FormDisk, Message: "refuse"}, nil)
	if !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), "this is a cat") {
		t.Errorf("import: %v", err)
	}
	<-d.kept
}

// The client's file breaks, or the client goes, in the middle: the lab's import fails and keeps nothing.
func TestImportCutInTheMiddle(t *testing.T) {
	d, c := serve(t, t.TempDir(), nil)
	d.inside = make(chan struct{}, 1)
	i := lab.Import{Name: "x", Kind: "system", Form: lab.FormDisk}

	broken := errors.New("bad sector")
	_, err := c.Import(t.Context(), io.MultiReader(io.LimitReader(zeros{}, 1<<20), iotest.ErrReader(broken)), i, nil)
	if !errors.Is(err, broken) {
		t.Errorf("a broken file: %v", err)
	}
	<-d.inside
	if err := <-d.kept; err == nil {
		t.Error("the lab kept half of a broken file")
	}

	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-d.inside; cancel() }()
	if _, err := c.Import(ctx, zeros{}, i, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled import: %v", err)
	}
	if err := <-d.kept; err == nil {
		t.Error("the lab kept half of a cancelled import")
	}

	// All bytes are sent and the lab still works on them when the client goes.
	ctx, cancel = context.WithCancel(t.Context())
	i.Message = "think"
	go func() { <-d.inside; cancel() }()
	if _, err := c.Import(ctx, strings.NewReader("all of it"), i, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("import: %v", err)
	}
	if err := <-d.kept; err == nil {
		t.Error("the lab kept an import that was cancelled at its end")
	}
	if s, err := c.Watch(t.Context(), 0); err != nil || len(s.Images) > 0 {
		t.Errorf("the lab has %v, %v", s.Images, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestCancelAndStop(t *testing.T) {
	dir := t.TempDir()
	l, err := lab.Open(t.Context(), lab.Config{Book: book{}, Now: time.Now, Secret: make([]byte, 16)})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Desk: &desk{Lab: l}, Dir: dir, Log: slog.New(slog.DiscardHandler)}
	stop := run(t, s)
	c, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	now, err := c.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { _, err := c.Watch(ctx, now.Rev); ended <- err }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled watch: %v", err)
	}
	go func() {
		_, _, _, err := c.Tail(context.Background(), lab.Tail{Wait: true})
		ended <- err
	}()
	go func() { _, err := c.Watch(context.Background(), now.Rev); ended <- err }()
	until(t, func() bool { return s.inside.Load() == 2 })
	stop()
	for range 2 {
		if err := <-ended; !errors.Is(err, lab.ErrUnreachable) || errors.Is(err, context.Canceled) {
			t.Errorf("when the lab stops: %v", err)
		}
	}
	if _, err := Dial(dir); !errors.Is(err, lab.ErrUnreachable) || err.Error() != "no lab runs in "+dir+"; carte serve starts one: not reachable" {
		t.Errorf("afterwards: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, SocketName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestForeignUserIsRefused(t *testing.T) {
	for uid, want := range map[uint32]error{uint32(os.Getuid()): nil, 0: nil, 4711: lab.ErrDenied} {
		_, c := serve(t, t.TempDir(), func(s *Server) {
			s.peer = func(*net.UnixConn) (uint32, error) { return uid, nil }
		})
		if _, err := c.Watch(t.Context(), 0); !errors.Is(err, want) {
			t.Errorf("user %d: %v, want %v", uid, err, want)
		}
		if want == nil {
			continue
		}
		if _, err := c.Import(t.Context(), zeros{}, lab.Import{Name: "x"}, nil); !errors.Is(err, want) {
			t.Errorf("user %d imports: %v, want %v", uid, err, want)
		}
	}
}

func TestSocket(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("long-", 15), strings.Repeat("path-", 15))
	if err := os.MkdirAll(long, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"short": t.TempDir(), "long": long} {
		t.Run(name, func(t *testing.T) {
			// A socket that a killed lab left.
			left, err := listen(dir)
			if err != nil {
				t.Fatal(err)
			}
			left.Close()
			if _, err := Dial(dir); !errors.Is(err, lab.ErrUnreachable) {
				t.Errorf("nobody is there: %v", err)
			}
			_, c := serve(t, dir, nil)
			if _, err := c.Watch(t.Context(), 0); err != nil {
				t.Error(err)
			}
			st, err := os.Stat(filepath.Join(dir, SocketName))
			if err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("socket: %v %v", st.Mode(), err)
			}
			if _, err := listen(dir); !errors.Is(err, lab.ErrBusy) {
				t.Errorf("a second lab: %v", err)
			}
			if _, err := c.Watch(t.Context(), 0); err != nil {
				t.Errorf("after a second lab was refused: %v", err)
			}
		})
	}
}

func parseQuery(t *testing.T, q string) url.Values {
	t.Helper()
	v, err := url.ParseQuery(q)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// until waits for a state that nothing announces.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal("it did not happen")
		}
		runtime.Gosched()
	}
}
