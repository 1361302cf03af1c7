package labtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
)

// A spent is what one piece of work took. Bytes below 0 were not measured.
type spent struct {
	seconds float64
	cpu     float64 // seconds of all its processes that were waited for
	fetched int64   // that came from a store or over a wire, or went into a store
	written int64   // to the target
}

// races is a bench: the images, a scratch folder on the same file system, and the program.
type races struct {
	testing.TB
	images, dir, program string
	reps                 int
	address              string // of the share, once there is one
	table                [][]string
}

// image is the path of one of the six.
func (r *races) image(name string) string { return filepath.Join(r.images, name+".img") }

// path is a place in the scratch folder.
func (r *races) path(name string) string { return filepath.Join(r.dir, name) }

// warm puts files into the kernel's cache, so that everybody starts alike.
func (r *races) warm(files ...string) {
	r.Helper()
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			r.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{f}); err != nil {
			r.Fatal(err)
		}
		f.Close()
	}
}

// shell times a command line of sh, whose words $1 and so on are args. What the kernel counts as written by it is written.
func (r *races) shell(line string, args ...string) (s spent, out string) {
	r.Helper()
	cmd := exec.Command("/bin/bash", append([]string{"-euo", "pipefail", "-c", line, "bash"}, args...)...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "BORG_BASE_DIR="+r.path("borg-home"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes",
		"RESTIC_PASSWORD=bench", "RESTIC_CACHE_DIR="+r.path("restic-home"), "XDG_CACHE_HOME="+r.path("cache"), "CARTE_STATE=")
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	began := time.Now()
	err := cmd.Run()
	s.seconds = time.Since(began).Seconds()
	if err != nil {
		r.Fatalf("%s %q: %v:\n%s", line, args, err, &b)
	}
	use := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	s.cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	s.fetched, s.written = -1, use.Oublock*512
	return s, b.String()
}

// carte runs the program with --json, and reads its document.
func (r *races) carte(doc any, args ...string) (s spent) {
	r.Helper()
	cmd := exec.Command(r.program, append(args, "--json")...)
	cmd.Env = append(os.Environ(), "CARTE_STATE=")
	var b, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &e
	began := time.Now()
	err := cmd.Run()
	s.seconds = time.Since(began).Seconds()
	if err == nil {
		err = json.Unmarshal(b.Bytes(), doc)
	}
	if err != nil {
		r.Fatalf("carte %q: %v:\n%s%s", args, err, &b, &e)
	}
	s.cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	return s
}

// flash lays a version onto a target over HTTP from the share.
func (r *races) flash(ref, to string, flags ...string) (spent, lab.Flashed) {
	r.Helper()
	var d lab.Flashed
	s := r.carte(&d, append([]string{"--state", r.path("nowhere"), "flash", ref, "--to", to, "--from", r.address}, flags...)...)
	s.fetched, s.written = d.Fetched, d.Written+d.Zeroed
	return s, d
}

// same stops the bench when a target is not what an image is. What the image's file system calls free may be anything: carte
// and partclone leave it alone.
func (r *races) same(target, image string) {
	r.Helper()
	open := func(name string) *os.File {
		f, err := os.Open(name)
		if err != nil {
			r.Fatal(err)
		}
		return f
	}
	have, want := open(target), open(image)
	defer have.Close()
	defer want.Close()
	size := sizeOf(r, image)
	used, err := layout.Read(r.Context(), want, size)
	if err != nil {
		r.Fatal(err)
	}
	x, y := make([]byte, chunk.Size), make([]byte, chunk.Size)
	for off := int64(0); off < size; off += chunk.Size {
		n := min(chunk.Size, size-off)
		_, err1 := have.ReadAt(x[:n], off)
		_, err2 := want.ReadAt(y[:n], off)
		if err := errors.Join(err1, err2); err != nil {
			r.Fatal(err)
		}
		used.Blank(x[:n], off)
		used.Blank(y[:n], off)
		if !bytes.Equal(x[:n], y[:n]) {
			r.Fatalf("%s is not %s at byte %d", target, image, off)
		}
	}
	if out, err := exec.Command("e2fsck", "-fn", target).CombinedOutput(); err != nil {
		r.Fatalf("e2fsck %s: %v:\n%s", target, err, out)
	}
}

// refill makes a target a copy of an image, on disk.
func (r *races) refill(image, target string) {
	r.Helper()
	r.shell(`cp --sparse=auto "$1" "$2" && sync "$2"`, image, target)
}

// laid makes a target a disk that carte has laid an image onto, as refill does for those that copy images whole.
func (r *races) laid(image, target string) {
	r.Helper()
	os.Remove(target)
	r.flash(ref(image), target)
}

func sizeOf(tb testing.TB, name string) int64 {
	tb.Helper()
	st, err := os.Stat(name)
	if err != nil {
		tb.Fatal(err)
	}
	return st.Size()
}

// weigh adds up the files in a folder, but for those named.
func weigh(tb testing.TB, dir string, without ...string) (n int64) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || slices.Contains(without, d.Name()) {
			return err
		}
		st, err := d.Info()
		if err == nil {
			n += st.Size()
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// A racer is one tool at one kind of work. run is called reps times, or once where it is slow.
type racer struct {
	name string
	once bool
	run  func(rep int) spent
}

// A limit is what carte must keep. Zero: none.
type limit struct {
	of      string  // the tool that times are compared with; "": the fastest
	times   float64 // of that tool's time
	fetched int64
	stored  int64 // as fetched, into a store
	written int64
}

// race runs the tools in turns, so that a noisy minute hits all of them, and adds rows to the table. Carte is the last.
func (r *races) race(work string, l limit, all ...racer) {
	r.Helper()
	runs := make([][]spent, len(all))
	for rep := range r.reps {
		for i, x := range all {
			if rep == 0 || !x.once {
				runs[i] = append(runs[i], x.run(rep))
			}
		}
	}
	best := 0.0
	for i, x := range all {
		m := median(runs[i])
		row := []string{work, x.name, fmt.Sprintf("%.2f", m.seconds), fmt.Sprintf("%.1f", m.cpu), bytesOr(m.fetched), bytesOr(m.written), "", "", ""}
		if i == len(all)-1 {
			l.judge(row, m, best)
		} else if l.of == x.name || l.of == "" && (best == 0 || m.seconds < best) {
			best = m.seconds
		}
		r.row(row...)
		work = ""
	}
}

// judge fills in what carte was to keep, and whether it did.
func (l limit) judge(row []string, m spent, best float64) {
	var limits, ratios []string
	over := false
	if l.times > 0 {
		limits, ratios = append(limits, fmt.Sprintf("%.2f x %s", l.times, or(l.of, "best"))), append(ratios, fmt.Sprintf("%.2f", m.seconds/best))
		over = m.seconds > l.times*best
	}
	for _, x := range []struct {
		what     string
		is, most int64
	}{{"fetched", m.fetched, l.fetched}, {"stored", m.fetched, l.stored}, {"written", m.written, l.written}} {
		if x.most > 0 {
			limits = append(limits, fmt.Sprintf("%s %s", lab.Bytes(x.most), x.what))
			over = over || x.is > x.most
		}
	}
	row[6], row[7], row[8] = strings.Join(limits, ", "), strings.Join(ratios, ", "), verdict(over)
}

func verdict(over bool) string {
	if over {
		return "OVER"
	}
	return "OK"
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func bytesOr(n int64) string {
	if n < 0 {
		return "–"
	}
	return lab.Bytes(n)
}

// median is the run whose time is the middle one, with the greatest bytes of all.
func median(runs []spent) spent {
	s := slices.Clone(runs)
	slices.SortFunc(s, func(a, b spent) int { return int(1e6 * (a.seconds - b.seconds)) })
	m := s[len(s)/2]
	for _, x := range s {
		m.fetched, m.written = max(m.fetched, x.fetched), max(m.written, x.written)
	}
	return m
}

// head is the table's.
var head = []string{"work", "tool", "seconds", "cpu s", "fetched or stored", "written", "limit", "ratio", ""}

// row adds a row, and shows it at once: the whole takes a while.
func (r *races) row(cells ...string) {
	r.table = append(r.table, cells)
	fmt.Fprintln(os.Stderr, strings.Join(cells, " | "))
}

// print writes the table, aligned, to standard output.
func (r *races) print() {
	rows := append([][]string{head}, r.table...)
	widths := make([]int, len(head))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], len([]rune(c)))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		line := ""
		for i, c := range row {
			line += c + strings.Repeat(" ", widths[i]-len([]rune(c))+2)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	fmt.Print("\n" + b.String() + "\n")
}

// load is how busy the computer is, in runnable processes over the last minute.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(b))[0]
}
