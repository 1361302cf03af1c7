package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A named pipe that nobody writes into is waited for only as long as anybody wants.
func TestOpenPipe(t *testing.T) {
	at := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(at, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if f, err := open(ctx, at); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(f, err)
	}
	w, err := os.OpenFile(at, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	f, err := open(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, 9)
	if n, err := f.Read(got); err != nil || string(got[:n]) != "hello" {
		t.Errorf("%q, %v", got[:n], err)
	}
}
