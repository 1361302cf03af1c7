package cli

import (
	"archive/tar"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carte/lab"
)

func (d *testDesk) Results(_ context.Context, _ int64, w io.Writer) error {
	out := tar.NewWriter(w)
	if err := out.WriteHeader(&tar.Header{Name: "speed", Mode: 0o644, Size: 3}); err != nil {
		return err
	}
	if _, err := io.WriteString(out, "1.5"); err != nil {
		return err
	}
	return out.Close()
}

func TestBootForget(t *testing.T) {
	b := newBench(t)
	b.furnish()
	if out := b.ok("boot out"); out != "" {
		t.Errorf("nothing is there: %q", out)
	}
	if err := b.desk.Collected(t.Context(), 1, []lab.Result{{Path: "speed", Bytes: 3, Sum: "x"}}); err != nil {
		t.Fatal(err)
	}
	if out := b.ok("boot out"); !strings.Contains(out, "1\tdemo\tvm-1\t1 file\t3 B\tnot yet") {
		t.Errorf("boot out: %q", out)
	}
	if out := b.ok("status"); !strings.Contains(out, "results\t3 B of 1 boot, 1 not taken home yet") {
		t.Errorf("status: %q", out)
	}
	_, errs, code := b.run("boot", "forget", "1")
	if code != 9 || !strings.Contains(errs, "carte boot forget 1 --state") || !strings.Contains(errs, "carte boot out 1") {
		t.Errorf("nobody has it: exit %d %s", code, errs)
	}
	if out := b.ok("boot forget --older 1d"); !strings.Contains(out, "nothing is that old") && out != "" {
		t.Errorf("too young: %q", out)
	}
	b.pass(100 * 24 * time.Hour)
	if out := b.ok("boot forget --older 90d"); !strings.Contains(out, "stays: nobody has taken it home; carte boot out 1") {
		t.Errorf("untaken: %q", out)
	}
	if out, _, code := b.run("boot", "out", "1", "-o", "-"); code != 0 || len(out) < 512 {
		t.Errorf("to a pipe: exit %d, %d bytes", code, len(out))
	}
	if out := b.ok("boot out"); !strings.Contains(out, "not yet") {
		t.Errorf("what went through a pipe counts as taken: %q", out)
	}
	dir := filepath.Join(b.dir, "home")
	b.ok("boot out 1 --to " + dir)
	if text, err := os.ReadFile(filepath.Join(dir, "speed")); err != nil || string(text) != "1.5" {
		t.Errorf("%q, %v", text, err)
	}
	if out := b.ok("boot forget --older 90d --dry-run"); !strings.Contains(out, "1\tdemo\tvm-1\t1 file\t3 B\twould go") {
		t.Errorf("dry: %q", out)
	}
	if out := b.ok("boot forget --older 90d --json"); !strings.Contains(out, `"removed":[{"boot":1,`) || !strings.Contains(out, `"freed_bytes":3`) {
		t.Errorf("as JSON: %q", out)
	}
	if out := b.ok("boot show 1"); !strings.Contains(out, "1 file, 3 B: removed ") {
		t.Errorf("show: %q", out)
	}
	for line, want := range map[string]string{
		"boot out 1":                    "was removed at",
		"boot out --to x":               "which? carte boot out lists them",
		"boot forget":                   "either boots by their numbers",
		"boot forget vm-1":              "is not the number of a boot",
		"boot forget 1 --older 3d":      "either boots by their numbers",
		"boot forget --older -3d":       "as in 90d or 12h",
		"boot forget --older 99999999d": "as in 90d or 12h",
		"boot forget 2":                 "may yet bring results",
	} {
		if _, errs, code := b.run(strings.Fields(line)...); code == 0 || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d %s", line, code, errs)
		}
	}
}
