package initrd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Another program unpacks what is packed here, and what is put behind it.
func TestArchive(t *testing.T) {
	program, err := exec.LookPath("cpio")
	if err != nil {
		program, err = exec.LookPath("busybox")
	}
	if err != nil {
		t.Skip("there is neither cpio nor busybox to unpack with")
	}
	var a Archive
	a.Dir("carte")
	a.File("carte/odd", 0o644, []byte("12345"))
	a.File("carte/empty", 0o600, nil)
	a.End()
	first := a.Len()
	a.Dir("carte")
	a.Dir("carte/modules")
	if one, two := a.Module("kernel/fs/b.ko.xz", []byte("b")), a.Module("a.ko", []byte("a")); one != "000-b.ko.xz" || two != "001-a.ko" {
		t.Errorf("modules are %s and %s", one, two)
	}
	a.End()
	unpack := func(b []byte) string {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), program, "-idm", "--no-absolute-filenames")
		if filepath.Base(program) == "busybox" {
			cmd = exec.CommandContext(t.Context(), program, "cpio", "-idm")
		}
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(b)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var text []byte
		for _, name := range []string{"carte/odd", "carte/empty", Modules + "/001-a.ko"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				b = []byte("-")
			}
			text = append(append(text, b...), '|')
		}
		return string(text)
	}
	if got := unpack(a.Bytes()); got != "12345||-|" {
		t.Errorf("unpacked %q", got)
	}
	if got := unpack(a.Bytes()[first:]); got != "-|-|a|" {
		t.Errorf("behind it is %q", got)
	}
}
