package power

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"carte/lab"
)

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	if err := Sweep(filepath.Join(dir, "none"), nil); err != nil {
		t.Errorf("without a folder: %v", err)
	}
	for _, name := range []string{"1", "2", "notes"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(dir, map[int64]lab.Machine{2: {}}); err != nil {
		t.Fatal(err)
	}
	var left []string
	all, err := os.ReadDir(dir)
	for _, f := range all {
		left = append(left, f.Name())
	}
	if err != nil || !slices.Equal(left, []string{"2", "notes"}) {
		t.Errorf("left: %v, %v", left, err)
	}
}
