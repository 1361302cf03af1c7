package labtest_test

import (
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
func fleet(t testing.TB, b *labtest.Bench, sims []*labtest.Sim, v lab.Version) time.Duration {
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
	sims := make([]*labtest.Sim, n)
	var all sync.WaitGroup
	for i := range sims {
		all.Go(func() { sims[i] = labtest.Metal(t, b, i, disk) })
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
		var slowest int64
		for _, s := range sims {
			slowest = max(slowest, s.Slowest.Load())
		}
		s, err := b.Watch(bm.Context(), 0)
		if err != nil {
			bm.Fatal(err)
		}
		var served int64
		for _, x := range s.Boots {
			served += x.Moved.Fetched
		}
		bm.ReportMetric(took.Seconds(), "s/fleet")
		bm.ReportMetric(float64(served)/1e6, "MB-served")
		bm.ReportMetric(float64(served)/1e6/took.Seconds(), "MB/s")
		bm.ReportMetric(float64(slowest)/1e6, "ms-slowest-script")
		bm.ReportMetric(peak(bm), "MB-peak-of-300")
	}
}

// peak is the most memory that this process has had, in MB.
func peak(t testing.TB) float64 {
	text, err := os.ReadFile("/proc/self/status")
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
	t.Fatal(fmt.Errorf("no VmHWM in /proc/self/status"))
	return 0
}
