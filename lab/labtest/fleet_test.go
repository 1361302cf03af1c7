package labtest_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
)

// fleet boots one image on many machines at once and returns how long it took.
func fleet(t testing.TB, b lab.Desk, sims []*labtest.Sim, v lab.Version) time.Duration {
	begin := time.Now()
	var ids []int64
	for i := range sims {
		ids = append(ids, labtest.Boot(t, b, "deb", labtest.MetalName(i)))
	}
	var off []func()
	for _, sim := range sims {
		f, _ := labtest.On(t, sim)
		off = append(off, f)
	}
	s := labtest.Until(t, b, "the end of all boots", func(s lab.Snapshot) bool {
		for _, id := range ids {
			if !s.Boots[id].State.Final() {
				return false
			}
		}
		return true
	})
	took := time.Since(begin)
	for _, f := range off {
		f()
	}
	for i, id := range ids {
		if boot := s.Boots[id]; boot.State != lab.Done {
			t.Errorf("%s: %s: %s", labtest.MetalName(i), boot.State, boot.Reason)
		}
		if got := labtest.FileRoot(t, sims[i].Disk.File, v.Bytes); got != v.Root {
			t.Errorf("%s holds %s, want %s", labtest.MetalName(i), got, v.Root)
		}
	}
	return took
}

func muster(t testing.TB, b *labtest.Bench, n int, disk int64) []*labtest.Sim {
	return musterBy(n, func(i int) *labtest.Sim { return labtest.Metal(t, b, i, disk) })
}

func musterBy(n int, metal func(i int) *labtest.Sim) []*labtest.Sim {
	sims := make([]*labtest.Sim, n)
	var all sync.WaitGroup
	for i := range sims {
		all.Go(func() { sims[i] = metal(i) })
	}
	all.Wait()
	return sims
}

// Fifty machines with the real agent boot one image at once against one server.
func TestFleet(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	v := labtest.Import(t, b, "deb", lab.FormDisk, labtest.Image(8<<20, 1))
	took := fleet(t, b, muster(t, b, 50, 16<<20), v)
	t.Logf("50 machines in %.1f s", took.Seconds())
}

// BenchmarkFleet prints what fifty machines at once cost the process that serves them (and, here, also runs them).
func BenchmarkFleet(bm *testing.B) {
	for range bm.N {
		b := labtest.New(bm, netboot.Config{})
		v := labtest.Import(bm, b, "deb", lab.FormDisk, labtest.Image(64<<20, 1))
		sims := muster(bm, b, 50, 64<<20)
		took := fleet(bm, b, sims, v)
		measure(bm, b, sims, took)
		bm.ReportMetric(peak(bm, os.Getpid()), "MB-peak-of-300")
	}
}

// BenchmarkFleetServed is BenchmarkFleet against carte serve in a process of its own: the memory is the server's alone.
func BenchmarkFleetServed(bm *testing.B) {
	for range bm.N {
		b := labtest.Serve(bm, labtest.SmallFiles(bm)...)
		v := labtest.Import(bm, b, "deb", lab.FormDisk, labtest.Image(64<<20, 1))
		sims := make([]*labtest.Sim, 50)
		for i := range sims {
			sims[i] = b.Metal(bm, i, 64<<20)
		}
		took := fleet(bm, b, sims, v)
		measure(bm, b, sims, took)
		bm.ReportMetric(peak(bm, b.PID()), "MB-server-peak-of-300")
		bm.ReportMetric(cpu(bm, b.PID()), "s-server-CPU")
		b.Stop(bm)
	}
}

// measure says what a fleet was given, and how long the slowest of its scripts took.
func measure(bm *testing.B, b lab.Desk, sims []*labtest.Sim, took time.Duration) {
	var slowest int64
	for _, s := range sims {
		slowest = max(slowest, s.Slowest.Load())
	}
	var served int64
	for _, x := range labtest.Now(bm, b).Boots {
		served += x.Moved.Fetched
	}
	bm.ReportMetric(took.Seconds(), "s/fleet")
	bm.ReportMetric(float64(served)/1e6, "MB-served")
	bm.ReportMetric(float64(served)/1e6/took.Seconds(), "MB/s")
	bm.ReportMetric(float64(slowest)/1e6, "ms-slowest-script")
}

// cpu is the time that a process has spent, in seconds (proc_pid_stat(5): a tick is 10 ms).
func cpu(t testing.TB, pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err1 := strconv.ParseFloat(words[11], 64)
	system, err2 := strconv.ParseFloat(words[12], 64)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return (user + system) / 100
}

// peak is the most memory that a process has had, in MB.
func peak(t testing.TB, pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb * 1024 / 1e6
		}
	}
	t.Fatalf("no VmHWM in /proc/%d/status", pid)
	return 0
}
