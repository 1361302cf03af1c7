package labtest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/layout"
)

// The rows that compare carte with what cannot be done without, rather than with a tool.

// capture makes the aged disk the next version, in a lab that has the base.
func (s *stores) capture() {
	needed := s.changed("base", "aged")
	s.warm(s.image("aged"))
	var d lab.Flashed
	x := s.carte(&d, "--state", s.path("carte-0"), "capture", "debian", "--base", "1", "--form", "tree", "--from", s.image("aged"))
	s.row("capture of the aged disk", "changed chunks, packed", "", "", bytesOr(needed), "", "", "", "")
	s.row("", "carte", fmt.Sprintf("%.2f", x.seconds), fmt.Sprintf("%.1f", x.cpu), bytesOr(d.Sent), "", "1.20 x these", fmt.Sprintf("%.2f", float64(d.Sent)/float64(needed)), verdict(float64(d.Sent) > 1.2*float64(needed)))
}

// changed is how long the chunks of b that a has not are when they are stored, each once, without what is free in them.
func (r *races) changed(a, b string) (n int64) {
	r.Helper()
	seen := map[chunk.ID]bool{{}: true}
	r.chunks(a, func(id chunk.ID, _ []byte) { seen[id] = true })
	var packed []byte
	r.chunks(b, func(id chunk.ID, raw []byte) {
		if !seen[id] {
			seen[id] = true
			packed = chunk.Pack(packed, raw)
			n += int64(len(packed))
		}
	})
	return n
}

// chunks hands over the chunks of an image.
func (r *races) chunks(image string, each func(id chunk.ID, raw []byte)) {
	r.Helper()
	f, err := os.Open(r.image(image))
	if err != nil {
		r.Fatal(err)
	}
	defer f.Close()
	size := sizeOf(r, f.Name())
	used, err := layout.Read(r.Context(), f, size)
	if err != nil {
		r.Fatal(err)
	}
	buf := make([]byte, chunk.Size)
	for off := int64(0); off < size; off += chunk.Size {
		b := buf[:min(chunk.Size, size-off)]
		if _, err := f.ReadAt(b, off); err != nil {
			r.Fatal(err)
		}
		used.Blank(b, off)
		each(chunk.Sum(b), b)
	}
}

// flashSame lays the version onto a target that holds it, beside reading and hashing that target in this process.
func (r *races) flashSame() {
	at := r.path("variant-carte") // holds the aged one
	r.race("the same version again", limit{of: "read and hash", times: 1.3},
		racer{"read and hash", false, func(int) spent {
			r.warm(at)
			began := time.Now()
			r.readAndHash(at)
			return spent{seconds: time.Since(began).Seconds(), fetched: -1, written: -1}
		}},
		racer{"carte", false, func(int) spent {
			r.warm(at)
			s, d := r.flash(ref("aged"), at)
			if d.Fetched != 0 || d.Written != 0 || d.Zeroed != 0 {
				r.Errorf("the same version again moved %+v", d)
			}
			return s
		}})
}

// readAndHash is what anybody must do who wants to know what a file holds, on every core.
func (r *races) readAndHash(name string) {
	r.Helper()
	f, err := os.Open(name)
	if err != nil {
		r.Fatal(err)
	}
	defer f.Close()
	size := sizeOf(r, name)
	var all sync.WaitGroup
	n := int64(runtime.GOMAXPROCS(0))
	for w := range n {
		all.Go(func() {
			buf := make([]byte, chunk.Size)
			for off := w * chunk.Size; off < size; off += n * chunk.Size {
				k, err := f.ReadAt(buf, off)
				if err != nil && err != io.EOF {
					r.Error(err)
					return
				}
				chunk.Sum(buf[:k])
			}
		})
	}
	all.Wait()
}

// sweep is an experiment of 5 parameters, each a kernel, and 10 repetitions, which each begin with a flash.
func (r *races) sweep() {
	const repetitions = 10
	at := r.path("variant-carte")
	r.laid("kernel-4", at)
	var sum spent
	for _, image := range six[:5] {
		for range repetitions {
			s, _ := r.flash(ref(image), at)
			sum.seconds, sum.cpu, sum.fetched, sum.written = sum.seconds+s.seconds, sum.cpu+s.cpu, sum.fetched+s.fetched, sum.written+s.written
		}
		r.same(at, r.image(image))
	}
	naive := 5 * repetitions * sizeOf(r, r.image("base"))
	r.row("sweep of 5 x 10", "all of it each time", "", "", bytesOr(naive), bytesOr(naive), "", "", "")
	r.row("", "carte", fmt.Sprintf("%.2f", sum.seconds), fmt.Sprintf("%.1f", sum.cpu), bytesOr(sum.fetched), bytesOr(sum.written), "80 MB each", "", verdict(max(sum.fetched, sum.written) > 80_000_000))
}

// memory flashes 2 GiB and 20 GiB, and asks the kernel what carte and the share that it read from needed at most.
func (r *races) memory(server int) {
	const agentMost, serverMost = 128 << 20, 200 << 20
	work := "peak memory"
	show := func(what string, rss, most int64) {
		r.row(work, what, "", "", bytesOr(rss), "", bytesOr(most), "", verdict(rss > most))
		work = ""
	}
	big, target := r.path("big.img"), r.path("big-target")
	r.refill(r.image("base"), big)
	for _, x := range []struct {
		what string
		gib  int64
	}{{"2 GiB", 2}, {"20 GiB sparse", 20}} {
		if err := os.Truncate(big, x.gib<<30); err != nil {
			r.Fatal(err)
		}
		state := r.path("carte-big")
		out := r.measured("--state", state, "image", "import", big, "--name", "big", "--form", "disk")
		show("import of "+x.what, out, serverMost)
		address, pid, stop := shareOf(r, r.program, state)
		from := r.address
		r.address = address
		os.Remove(target)
		_, d := r.flash("big", target)
		show("flash of "+x.what, d.PeakRSS, agentMost)
		_, d = r.flash("big", target, "--strategy", "differential")
		show("again", d.PeakRSS, agentMost)
		show("share, after both", peakOf(r, pid), serverMost)
		stop()
		r.address = from
	}
	show("share, after all flashes", peakOf(r, server), serverMost)
}

// measured runs the program, and returns the most memory that it had: what the kernel knew shortly before its end, since
// what wait4(2) tells counts the memory of who started it.
func (r *races) measured(args ...string) (most int64) {
	r.Helper()
	cmd := exec.Command(r.program, args...)
	cmd.Env = append(os.Environ(), "CARTE_STATE=")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		r.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)); err == nil {
				most = max(most, numberIn(string(b), "VmHWM:")<<10)
			}
		case err := <-ended:
			if err != nil {
				r.Fatalf("carte %q: %v:\n%s", args, err, &out)
			}
			return most
		}
	}
}

// peakOf is the most memory that a process has had (proc(5), VmHWM).
func peakOf(tb testing.TB, pid int) int64 {
	tb.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	return numberIn(string(b), "VmHWM:") << 10
}

// numberIn reads the number behind a word, of which rsync groups the digits.
func numberIn(out, word string) int64 {
	_, rest, _ := strings.Cut(out, word)
	rest, _, _ = strings.Cut(rest, "\n")
	n, err := strconv.ParseInt(strings.ReplaceAll(strings.Fields(rest + " x")[0], ",", ""), 10, 64)
	if err != nil {
		return -1
	}
	return n
}
