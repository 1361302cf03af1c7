package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"carte/lab"
)

// fill writes until nothing fits any more, and returns the file.
func fill(t *testing.T, dir string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return f.Name()
}

// On a full disk an image can be removed, by a command alone and by a lab that runs, and there is room again. It runs in a mount namespace of its own.
func TestFullDiskIsNoDeadEnd(t *testing.T) {
	dir := inSmallDisk(t, "96m")
	if dir == "" {
		return
	}
	ctx := t.Context()
	d := hold(t, dir)
	for i, name := range []string{"one", "two"} {
		if _, err := d.Import(ctx, bytes.NewReader(noise(12<<20, uint64(i))), lab.Import{Name: name, Kind: "system", Form: lab.FormDisk}, nil); err != nil {
			t.Fatal(err)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Stat(d.State.reservePath(), &st); err != nil || st.Blocks*512 < reserveSize || !d.State.Reserved() {
		t.Fatalf("the reserve takes %d bytes, %v", st.Blocks*512, err)
	}
	if err := d.State.Close(); err != nil {
		t.Fatal(err)
	}
	ballast := fill(t, filepath.Dir(dir))

	d = hold(t, dir)
	if d.State.Reserved() || !strings.Contains(strings.Join(d.State.Notes, "\n"), "disk is full") {
		t.Errorf("opened on a full disk, reserve kept: %v, notes %q", d.State.Reserved(), d.State.Notes)
	}
	if f := d.room(); f.OK || !strings.Contains(f.Why, "in use") {
		t.Errorf("the doctor says %+v", f)
	}
	if _, err := d.Say(ctx, lab.RemoveImage{Ref: lab.Ref{Name: "one"}, Confirm: "one"}); err != nil {
		t.Fatalf("remove an image: %v", err)
	}
	if err := d.State.Close(); err != nil {
		t.Fatal(err)
	}
	d = hold(t, dir)
	if got, err := d.Collect(ctx, false); err != nil || got.Bytes < 12<<20 {
		t.Errorf("collect = %+v, %v", got, err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Collect(ctx, false); err != nil || !d.State.Reserved() {
		t.Errorf("with room again: reserve kept: %v, %v", d.State.Reserved(), err)
	}

	// And beside a lab that runs.
	fill(t, filepath.Dir(dir))
	for i := 0; d.State.Reserved() && i < 2000; i++ { // some room is left in the write-ahead log's file
		if _, err := d.Say(ctx, lab.AddMachine{Name: fmt.Sprint("m", i), Virtual: &lab.Virtual{}}); err != nil {
			t.Fatal(err)
		}
	}
	if d.State.Reserved() {
		t.Error("the reserve was never needed")
	}
	if _, err := d.Say(ctx, lab.RemoveImage{Ref: lab.Ref{Name: "two"}, Confirm: "two"}); err != nil {
		t.Errorf("remove an image: %v", err)
	}
	if err := d.State.Close(); err != nil {
		t.Error(err)
	}
}

func TestErrorsThatMeanFull(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{fmt.Errorf("write: %w", syscall.ENOSPC), true}, {&os.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT}, true},
		{syscall.EIO, false}, {nil, false},
	} {
		if got := isFull(c.err); got != c.want {
			t.Errorf("isFull(%v) = %v", c.err, got)
		}
	}
}
