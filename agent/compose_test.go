package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"carte/lab"
)

// What cannot be put together says why, and takes back what it had begun.
func TestComposeFails(t *testing.T) {
	h := host{sys: t.TempDir(), dev: t.TempDir()}
	if err := os.Mkdir(filepath.Join(h.sys, "block"), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := h.compose(t.Context(), lab.Orders{Disk: lab.DiskID{Serial: "none"}})
	if c != nil || !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("a tree on a disk that is not there: %v, %v", c, err)
	}
}
