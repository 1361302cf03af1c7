package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// keeper takes captures into a shelf.
type keeper struct {
	*shelf
	kept []lab.Version
	came int   // chunks
	fail error // of the third chunk
}

func (k *keeper) Lacks(_ context.Context, ids []chunk.ID) (lacking []chunk.ID, err error) {
	for _, id := range ids {
		if k.stored[id] == nil {
			lacking = append(lacking, id)
		}
	}
	return lacking, nil
}

func (k *keeper) Keep(_ context.Context, c lab.Capture, m chunk.Manifest, next func() (chunk.ID, []byte, error)) (got lab.Imported, err error) {
	for {
		id, stored, err := next()
		if err == io.EOF {
			break
		}
		if k.came++; err == nil && k.came == 3 {
			err = k.fail
		}
		if err == nil {
			_, err = chunk.UnpackAny(nil, stored, id)
		}
		if err != nil {
			return got, err
		}
		k.stored[id] = append([]byte(nil), stored...)
		got.New += int64(len(stored))
	}
	for i, id := range m.IDs {
		if !id.IsZero() && k.stored[id] == nil {
			return got, fmt.Errorf("chunk %d is missing", i)
		}
	}
	k.m[m.Root()] = m
	got.Version = lab.Version{Image: c.Name, Number: len(k.kept) + 1, Root: m.Root(), Bytes: m.Size, Parent: c.Base}
	k.kept = append(k.kept, got.Version)
	return got, nil
}

// Only what is new travels, once; what was captured can be flashed; the same again makes nothing.
func TestCapture(t *testing.T) {
	k := &keeper{shelf: newShelf()}
	first := joined(noise(1, 30*c), make([]byte, 50*c), noise(1, 5*c), noise(2, 999))
	v1 := k.add(t, 1, first)
	second := joined(first[:7*c], noise(5, 2*c), first[9*c:], noise(5, 2*c), make([]byte, 3*c))
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, second, 0o600); err != nil {
		t.Fatal(err)
	}
	done, got, err := Capture(t.Context(), k, lab.Capture{Import: lab.Import{Name: "im"}, From: path, Base: 1}, []lab.Version{v1}, Audience{})
	if err != nil || got.Same || got.Version.Parent != 1 || got.Version.Bytes != int64(len(second)) {
		t.Fatalf("%+v, %v", got, err)
	}
	// The two new chunks, and those that are shifted by the 999 bytes.
	if done.Sent == 0 || k.came > 6 || done.Sent > 6*(c+1) {
		t.Errorf("%d chunks came, %+v", k.came, done)
	}
	out := filepath.Join(t.TempDir(), "out")
	if _, err := Flash(t.Context(), k, lab.Flash{Version: got.Version, To: out}, Audience{}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != string(second) {
		t.Errorf("what was captured is not what comes back: %v", err)
	}
	k.came = 0
	done, again, err := Capture(t.Context(), k, lab.Capture{Import: lab.Import{Name: "im"}, From: path}, []lab.Version{got.Version}, Audience{})
	if err != nil || !again.Same || again.Version.Ref() != got.Version.Ref() || again.Version.Root != got.Version.Root || k.came != 0 || len(k.kept) != 1 || done.Sent != 0 {
		t.Errorf("again: %+v, %+v, %v", done, again, err)
	}
}

// A sparse file's holes are not read, and a capture that fails leaves nothing.
func TestCaptureSparseAndBroken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, noise(1, 6*c), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4<<30); err != nil {
		t.Fatal(err)
	}
	k := &keeper{shelf: newShelf(), fail: errDisk}
	if _, _, err := Capture(t.Context(), k, lab.Capture{Import: lab.Import{Name: "im"}, From: path}, nil, Audience{}); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "no version was made") || len(k.kept) > 0 {
		t.Errorf("error %v", err)
	}
	k.fail = nil
	done, got, err := Capture(t.Context(), k, lab.Capture{Import: lab.Import{Name: "im"}, From: path}, nil, Audience{})
	if err != nil || got.Version.Bytes != 4<<30 || done.Read > 12*c {
		t.Errorf("%+v, %+v, %v", done, got, err)
	}
	for from, kind := range map[string]error{filepath.Dir(path): lab.ErrInvalid, path + "x": lab.ErrNotFound, "/dev/null": lab.ErrInvalid} {
		if _, _, err := Capture(t.Context(), k, lab.Capture{Import: lab.Import{Name: "im"}, From: from}, nil, Audience{}); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", from, err, kind)
		}
	}
}
