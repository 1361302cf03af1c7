package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"carte/lab"
)

// TestKilled runs itself again as a process that imports images and says verbs without end, and kills that with SIGKILL at random moments. What the
// process said was done is there afterwards, and nothing that is there is half.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(toBeKilled); dir != "" {
		busy(t, dir)
		return
	}
	rounds := kills(15)
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(11, uint64(time.Now().UnixNano())))
	versions, machines := map[string]string{}, map[string]bool{} // that were acknowledged
	for round := range rounds {
		untilKilled(t, dir, 10*time.Second, func(kill *time.Timer, word, rest string) bool {
			switch word {
			case "open": // from here on, at any moment
				kill.Reset(time.Duration(r.IntN(150_000)) * time.Microsecond)
			case "version":
				ref, root, _ := strings.Cut(rest, " ")
				versions[ref] = root
			case "machine":
				machines[rest] = true
			default:
				return false
			}
			return true
		})
		wholeAfterKill(t, dir, versions, machines)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	t.Logf("%d kills; %d versions and %d machines were acknowledged and are there", rounds, len(versions), len(machines))
	if len(versions) == 0 || len(machines) == 0 {
		t.Error("the process was killed before it did anything")
	}
}

// busy works until it is killed, and says what is done.
func busy(t *testing.T, dir string) {
	d := hold(t, dir)
	fmt.Println("open")
	s, err := d.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for n := s.LastMachine; ; n++ {
		name := fmt.Sprint("m", n+1)
		if _, err := d.Say(t.Context(), lab.AddMachine{Name: name, Virtual: &lab.Virtual{}}); err != nil {
			t.Fatal(err)
		}
		fmt.Println("machine", name)
		i := lab.Import{Name: fmt.Sprint("image-", n%3), Kind: "system", Form: lab.FormDisk}
		done, err := d.Import(t.Context(), bytes.NewReader(noise(700_000, uint64(n)*7+uint64(os.Getpid()))), i, nil)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("version", done.Version.Ref(), done.Version.Root)
	}
}

func wholeAfterKill(t *testing.T, dir string, versions map[string]string, machines map[string]bool) {
	t.Helper()
	d := hold(t, dir)
	defer d.State.Close()
	s, err := d.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for ref, root := range versions {
		if v, ok := s.Versions[ref]; !ok || v.Root.String() != root {
			t.Errorf("%s was acknowledged and is lost", ref)
		}
	}
	for name := range machines {
		if _, err := s.Find(name); err != nil {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	for ref, v := range s.Versions {
		if err := d.Verify(t.Context(), v.Ref(), nil); err != nil {
			t.Errorf("%s is there and not whole: %v", ref, err)
		}
		if _, err := readCard(d.State.DB.cardPath(ref)); err != nil {
			t.Errorf("%s has no card: %v", ref, err)
		}
	}
	if err := d.State.DB.Check(t.Context()); err != nil {
		t.Error(err)
	}
	for _, f := range everyFile(t, dir) {
		if strings.HasSuffix(f, temporary) {
			t.Errorf("%s is left", f)
		}
	}
}

func everyFile(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// toBeKilled names the folder in which a process works that untilKilled has started; a test has none in its environment.
const toBeKilled = "CARTE_TEST_KILLED"

// kills is how often a test kills: n times, or a few where it is to be short.
func kills(n int) int {
	if testing.Short() {
		return max(3, n/6)
	}
	return n
}

// untilKilled runs the test again as a process of its own that works in dir, hears what it prints line by line, and returns when it was killed: by the
// timer that hear is handed, after limit unless hear resets it. A line that hear does not know, or an end that is none by SIGKILL, fails the test.
func untilKilled(t *testing.T, dir string, limit time.Duration, hear func(kill *time.Timer, word, rest string) bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), toBeKilled+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if word, rest, _ := strings.Cut(lines.Text(), " "); !hear(kill, word, rest) {
			t.Fatal(lines.Text())
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process ended by itself: %v", err)
	}
}
