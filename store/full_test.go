package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/chunk"
)

// A catalogue on a full disk takes nothing, says so, and works on when there is room again. It runs in a mount namespace of its own.
func TestFullDiskUnderTheCatalogue(t *testing.T) {
	dir := inSmallDisk(t, "4m")
	if dir == "" {
		return
	}
	d := hold(t, dir)
	defer d.State.Close()
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	before, _ := d.Watch(t.Context(), 0)
	refused := 0
	for i := range 200 { // some room is left in the write-ahead log's file
		_, err = d.Say(t.Context(), lab.AddMachine{Name: fmt.Sprint("a", i), Virtual: &lab.Virtual{}})
		if err == nil {
			continue
		}
		refused++
		if strings.Count(err.Error(), "nothing was changed") != 1 || !strings.Contains(err.Error(), "free some space") {
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Error("the disk is not full")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Say(t.Context(), lab.AddMachine{Name: "b", Virtual: &lab.Virtual{}}); err != nil {
		t.Errorf("with room again: %v", err)
	}
	mem, _ := d.Watch(t.Context(), 0)
	disk, err := d.State.DB.Load(t.Context())
	if err != nil || len(disk.Machines) != len(mem.Machines) || len(mem.Machines) != len(before.Machines)+200-refused+1 {
		t.Errorf("%d machines on disk, %d in memory, %v", len(disk.Machines), len(mem.Machines), err)
	}
}

// Whatever room there is, from none at all to enough, page by page: an import, a capture and a collection say that the disk is full, leave nothing
// that anybody sees or that the next collection does not take, and hurt nothing; with room they do what they are for. The smallest room that suffices is reached by every phase having failed once.
func TestFullDiskAtEveryPhase(t *testing.T) {
	d := deskOnSmallDisk(t, "12m")
	if d == nil {
		return
	}
	const size = 5*chunk.Size + 4096 // more than a writer gathers
	base := noise(size, 1)
	mustAdd(t, d, "base", base)
	mustAdd(t, d, "old", append(bytes.Clone(base[:chunk.Size]), noise(4*chunk.Size, 2)...)) // its pack is mostly of no use when it is gone
	for n, op := range []struct {
		what string
		do   func(ctx context.Context, b []byte) error
	}{
		{"import", func(ctx context.Context, b []byte) error {
			_, err := d.Import(ctx, bytes.NewReader(b), lab.Import{Name: "import", Kind: "system", Form: lab.FormDisk}, nil)
			return err
		}},
		{"capture", func(ctx context.Context, b []byte) error {
			m, next := framesOf(b)
			_, err := d.Keep(ctx, lab.Capture{Import: lab.Import{Name: "capture", Kind: "system", Form: lab.FormDisk}}, m, next)
			return err
		}},
	} {
		b := noise(size, uint64(10+n))
		before, refused := filesOfStore(t, d), map[string]int{}
		for room := int64(0); ; room = roomier(room, size) {
			free := fillBut(t, d, room)
			err := op.do(t.Context(), b)
			free()
			if err == nil {
				break
			}
			if !isFull(err) || !strings.Contains(err.Error(), "free some space") || !strings.Contains(err.Error(), "nothing was") {
				t.Fatalf("%s with %d bytes of room: %v", op.what, room, err)
			}
			refused[phaseOf(err)]++
			if s, err := d.Watch(t.Context(), 0); err != nil || s.Images[op.what].Latest != 0 {
				t.Fatalf("%s with %d bytes of room: there is an image: %v", op.what, room, err)
			}
			if _, err := d.Collect(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			if got := filesOfStore(t, d); !slices.Equal(got, before) {
				t.Fatalf("%s with %d bytes of room: %v; before: %v", op.what, room, got, before)
			}
		}
		t.Logf("%s: refused in these phases: %v", op.what, refused)
		if len(refused) < 3 {
			t.Errorf("%s: only %v failed", op.what, refused)
		}
		wantBytes(t, d, op.what, b)
		wantBytes(t, d, "base", base)
	}
}

// A collection that has no room to write a pack anew leaves it, says so, and does it when there is room.
func TestFullDiskUnderACollection(t *testing.T) {
	d := deskOnSmallDisk(t, "12m")
	if d == nil {
		return
	}
	old := noise(6*chunk.Size, 2)
	mustAdd(t, d, "old", old)
	mustAdd(t, d, "part", old[:chunk.Size])
	if _, err := d.Say(t.Context(), lab.RemoveImage{Ref: lab.Ref{Name: "old"}, Confirm: "old"}); err != nil {
		t.Fatal(err)
	}
	left := 0
	for room := int64(0); ; room += 8 * 4096 {
		free := fillBut(t, d, room)
		got, err := d.Collect(t.Context(), false)
		free()
		if err != nil && !isFull(err) {
			t.Fatalf("%d bytes of room: %v", room, err)
		}
		wantBytes(t, d, "part", old[:chunk.Size])
		if err == nil && got.Chunks > 0 {
			break
		}
		if left++; err == nil && !strings.Contains(fmt.Sprint(got.Notes), "no room") {
			t.Fatalf("%d bytes of room: %+v", room, got)
		}
	}
	if left < 4 {
		t.Errorf("the disk was full only %d times", left)
	}
	if got, err := d.Collect(t.Context(), false); err != nil || got.Bytes != 0 {
		t.Errorf("once more: %+v, %v", got, err)
	}
	wantBytes(t, d, "part", old[:chunk.Size])
}

// roomier takes large steps as long as not even the chunks fit.
func roomier(room, size int64) int64 {
	if room < size-128<<10 {
		return room + 96<<10
	}
	return room + 4096
}

// phaseOf is the file that an error of a full disk is about, without its number.
func phaseOf(err error) string {
	var of *os.PathError
	if !errors.As(err, &of) {
		return "the catalogue"
	}
	if filepath.Base(filepath.Dir(of.Path)) == "manifests" {
		return "manifest"
	}
	return filepath.Base(filepath.Dir(of.Path)) + " " + filepath.Ext(strings.TrimSuffix(of.Path, temporary))
}

// fillBut fills the disk but for some room; free empties it again.
func fillBut(t *testing.T, d *Desk, room int64) (free func()) {
	t.Helper()
	have, err := d.State.Free()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(d.State.Dir), "ballast")
	f, err := os.Create(path)
	if err == nil && have > room {
		err = unix.Fallocate(int(f.Fd()), 0, 0, have-room)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// filesOfStore lists packs, manifests and cards.
func filesOfStore(t *testing.T, d *Desk) (names []string) {
	t.Helper()
	for _, name := range everyFile(t, d.State.Dir) {
		if dir := filepath.Base(filepath.Dir(name)); dir == "packs" || dir == "manifests" || dir == "versions" {
			names = append(names, name)
		}
	}
	return names
}

func mustAdd(t *testing.T, d *Desk, name string, b []byte) {
	t.Helper()
	if _, err := d.Import(t.Context(), bytes.NewReader(b), lab.Import{Name: name, Kind: "system", Form: lab.FormDisk}, nil); err != nil {
		t.Fatal(err)
	}
}

func wantBytes(t *testing.T, d *Desk, name string, want []byte) {
	t.Helper()
	var got bytes.Buffer
	if err := d.Export(t.Context(), lab.Ref{Name: name}, &got, nil); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s is not what it was: %d bytes, %v", name, got.Len(), err)
	}
}

// framesOf is what an agent would send of a disk that holds b.
func framesOf(b []byte) (m chunk.Manifest, next func() (chunk.ID, []byte, error)) {
	m.Size = int64(len(b))
	for part := range slices.Chunk(b, chunk.Size) {
		m.IDs = append(m.IDs, chunk.Sum(part))
	}
	i := 0
	return m, func() (chunk.ID, []byte, error) {
		for ; i < len(m.IDs); i++ {
			if id := m.IDs[i]; !id.Implied() {
				at := i * chunk.Size
				i++
				return id, chunk.Pack(nil, b[at:min(len(b), at+chunk.Size)]), nil
			}
		}
		return chunk.ID{}, nil, io.EOF
	}
}

// deskOnSmallDisk is inSmallDisk with a desk; nil for the one that started it.
func deskOnSmallDisk(t *testing.T, size string) *Desk {
	t.Helper()
	dir := inSmallDisk(t, size)
	if dir == "" {
		return nil
	}
	d := hold(t, dir)
	t.Cleanup(func() { d.State.Close() })
	return d
}

// inSmallDisk runs the test again with a tmpfs of that size that nobody else sees, and gives the path there; empty for the one that started it.
func inSmallDisk(t *testing.T, size string) string {
	const env = "CARTE_TEST_SMALL_DISK"
	if dir := os.Getenv(env); dir != "" {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, "lab")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), env+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Skipf("no mount namespace to be had here: %v", err)
	}
	if err != nil || !bytes.Contains(out, []byte("PASS: "+t.Name())) {
		t.Errorf("in the namespace: %v\n%s", err, out)
	}
	return ""
}
