package labtest

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// An image crosses from one lab to a file through what carte image serve prints, and through the lab's folder.
func TestFlashFromAnotherLab(t *testing.T) {
	dir := t.TempDir()
	if err := place(dir); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "carte")
	source, here := filepath.Join(dir, "source"), filepath.Join(dir, "here")
	disk := filepath.Join(dir, "disk.raw")
	data := bytes.Repeat([]byte("carte and others "), 99_999)
	data = data[:len(data)/512*512]
	if err := os.WriteFile(disk, data, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(want string, args ...string) {
		t.Helper()
		out, err := exec.Command(program, args...).CombinedOutput()
		if (err != nil) != (want != "") || !strings.Contains(string(out), want) {
			t.Errorf("carte %s: %v, without %q: %s", strings.Join(args, " "), err, want, out)
		}
	}
	run("", "--state", source, "image", "import", disk)
	address, _, _ := shareOf(t, program, source)
	for range 2 { // an empty target, and one that holds it already
		out := filepath.Join(dir, "out")
		run("", "--state", here, "flash", "disk", "--to", out, "--from", address)
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes came of %d, %v", len(got), len(data), err)
		}
	}
	run("the lab at that address has no other", "--state", here, "flash", "other", "--to", disk, "--from", address)
	run("no longer, good; carte image serve prints", "--state", here, "flash", "disk", "--to", disk, "--from", address+"x")
	run("there is no lab in it", "--state", here, "flash", "disk", "--to", disk, "--from", dir)
	run("carte image serve printed", "--state", here, "flash", "disk", "--to", disk, "--from", "https://desk")
	if _, err := os.Stat(here); err == nil {
		t.Error("a lab was made where none was needed")
	}
}

// A lab's folder is a source too, when no lab runs there.
func TestFlashFromAFolder(t *testing.T) {
	dir := t.TempDir()
	if err := place(dir); err != nil {
		t.Fatal(err)
	}
	program, disk, out := filepath.Join(dir, "carte"), filepath.Join(dir, "disk.raw"), filepath.Join(dir, "out")
	if err := os.WriteFile(disk, bytes.Repeat([]byte("folder"), 512*99), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"image import " + disk + " --state " + dir + "/source", "flash disk --to " + out + " --state " + dir + "/here --from " + dir + "/source"} {
		if text, err := exec.Command(program, strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("carte %s: %v: %s", line, err, text)
		}
	}
	want, _ := os.ReadFile(disk)
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes came of %d, %v", len(got), len(want), err)
	}
}

// shareOf runs carte image serve until the test ends, or stop is called, and returns the address that it
// prints, and its process.
func shareOf(t testing.TB, program, state string) (address string, pid int, stop func()) {
	t.Helper()
	cmd := exec.Command(program, "--state", state, "image", "serve", "--quiet")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("carte image serve ended with %v", err)
		}
	})
	t.Cleanup(stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("carte image serve printed %q, %v", line, err)
	}
	return strings.TrimSpace(line), cmd.Process.Pid, stop
}
