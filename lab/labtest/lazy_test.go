package labtest_test

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/labtest"
	"carte/netboot"
)

// lazyInit says when the system has reached its target, waits for a line on the console, and then reads all that there is.
const lazyInit = `#!/bin/sh
bad() { echo "::carte fail $1"; exec /bin/busybox poweroff -f; }
test "$(cat /data/hello)" = hello || bad "/data/hello is wrong"
echo "::carte metric target_s=$(cut -d' ' -f1 /proc/uptime) s"
read line </dev/console
case "$line" in through*) ls /sys/block/dm-*/slaves | grep -q loop && bad "it still reads through carte";; esac
sum=$(/bin/busybox md5sum </data/noise | cut -d' ' -f1)
test "$sum" = "$(cat /data/sum)" || bad "/data/noise is wrong: $sum"
/bin/busybox free -m
echo "::carte done"
exec /bin/busybox poweroff -f
`

// A slowWire is a source of chunks that hands over so many bytes a second.
type slowWire struct {
	netboot.ChunkSource
	rate float64

	mu   sync.Mutex
	free time.Time // when the wire is free again
	sent int64     // bytes of chunks that have left
}

func (w *slowWire) Stored(id chunk.ID) ([]byte, error) {
	b, err := w.ChunkSource.Stored(id)
	w.mu.Lock()
	now := time.Now()
	if w.free.Before(now) {
		w.free = now
	}
	w.free = w.free.Add(time.Duration(float64(len(b)) / w.rate * 1e9))
	rest := w.free.Sub(now)
	w.mu.Unlock()
	<-time.After(rest) // which is what a wire does
	w.mu.Lock()
	w.sent += int64(len(b))
	w.mu.Unlock()
	return b, err
}

func (w *slowWire) count() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent
}

func md5Of(b []byte) string {
	sum := md5.Sum(b)
	return hex.EncodeToString(sum[:]) + "\n"
}

// lazyBench is a lab with a machine, whose system has most of its bytes in lazy layers.
type lazyBench struct {
	*labtest.Bench
	wire       *slowWire
	vms        *labtest.VMs
	m          lab.Machine
	tree, data lab.Version
}

func newLazyBench(t testing.TB, init string, bytes int, rate float64) *lazyBench {
	labtest.QEMU(t)
	l := &lazyBench{wire: &slowWire{rate: rate}}
	l.Bench = labtest.New(t, netboot.Config{Payload: labtest.RealPayload(t), Chunks: l.wire})
	l.wire.ChunkSource = l.State.Chunks
	l.vms = labtest.NewVMs(t, l.Bench)
	t.Cleanup(func() {
		lines, _, _, err := l.Tail(context.Background(), lab.Tail{Max: 60})
		for _, x := range lines {
			if t.Failed() {
				t.Logf("%s %s: %s", x.At.Format("15:04:05"), x.Source, x.Text)
			}
		}
		if err != nil {
			t.Error(err)
		}
	})
	noise := make([]byte, bytes)
	rand.NewChaCha8([32]byte{7}).Read(noise)
	offers := lab.Terms{lab.Lazy: lab.Optional, lab.Overlay: lab.Optional, lab.Heartbeat: lab.Optional}
	l.tree = loaded(t, l.Bench, busyboxSystem(t, init), lab.Import{Name: "base", Kind: "system", Form: lab.FormTree, Offers: offers})
	l.data = loaded(t, l.Bench, tarOf(t, file{name: "noise", text: string(noise)}, file{name: "sum", text: md5Of(noise)}, file{name: "hello", text: "hello\n"}),
		lab.Import{Name: "data", Kind: "system", Form: lab.FormFiles, Place: "/data", Offers: lab.Terms{lab.Lazy: lab.Optional}})
	labtest.Say(t, l, lab.PutStack{Stack: lab.Stack{Name: "lazy", Layers: []lab.Ref{{Name: "base"}, {Name: "data"}}, Asks: lab.Terms{lab.Lazy: lab.Required}}})
	l.m = labtest.Say(t, l, lab.AddMachine{Name: "vm", Virtual: &lab.Virtual{DiskBytes: 1 << 30}}).Machines[0]
	return l
}

// start boots the system to its target, and returns the boot, how many bytes had come over the wire by then, and how long it
// took from the agent's handover.
func (l *lazyBench) start(t testing.TB) (id, sent int64, took time.Duration) {
	t.Helper()
	before := l.wire.count()
	id = labtest.Boot(t, l, "lazy", "vm")
	x := labtest.UntilIn(t, l, labtest.Long, "the system's target", func(s lab.Snapshot) bool {
		_, there := s.Boots[id].Metrics["target_s"]
		return there || s.Boots[id].State.Final()
	}).Boots[id]
	sent = l.wire.count() - before
	if x.State != lab.Running {
		t.Fatalf("boot %d is %s: %s", id, x.State, x.Reason)
	}
	for _, k := range x.Climbs {
		t.Logf("%s  %s", k.At.Format("15:04:05.000"), k.Rung)
	}
	return id, sent, time.Since(climbedAt(x, lab.RungHandover))
}

func climbedAt(b lab.Boot, r lab.Rung) (at time.Time) {
	for _, c := range b.Climbs {
		if c.Rung == r {
			at = c.At
		}
	}
	return at
}

// whole waits until the server was told that all is on the disk.
func (l *lazyBench) whole(t testing.TB) {
	t.Helper()
	labtest.UntilIn(t, l, labtest.Long, "all bytes", func(s lab.Snapshot) bool {
		h := s.Machines[l.m.ID].Holds
		return len(h) == 1 && !h[0].Dirty && h[0].Absent == 0
	})
}

// end lets the system read all that it has, and waits for its end.
func (l *lazyBench) end(t testing.TB, id int64, line string) {
	t.Helper()
	if err := l.vms.Type(l.m, []byte(line+"\n")); err != nil {
		t.Fatal(err)
	}
	x := labtest.UntilIn(t, l, labtest.Long, "the end of a boot", func(s lab.Snapshot) bool { return s.Boots[id].State.Final() }).Boots[id]
	if x.State != lab.Done || x.Strikes > 0 {
		t.Fatalf("boot %d is %s after %d strikes: %s", id, x.State, x.Strikes, x.Reason)
	}
	off(t, l.Bench, l.m)
	at, _ := x.Plan.Places()
	for i, v := range []lab.Version{l.tree, l.data} {
		if err := labtest.HoldsAt(t, l.State.Chunks, l.vms.Disk(l.m), at[i], v); err != nil {
			t.Error(err)
		}
	}
}

// lazyFigures is how a system in lazy layers has come up.
type lazyFigures struct {
	first, whole, second  time.Duration // from the handover to the target, to the last byte, and to the target with all on the disk
	early, between, later int64         // bytes that had come to the first target, to the last byte, and the second time
}

// measureLazy boots a system twice, with so many bytes in lazy layers, over a wire with so many a second.
func measureLazy(t testing.TB, bytes int, rate float64) (f lazyFigures) {
	t.Helper()
	l := newLazyBench(t, lazyInit, bytes, rate)
	id, sent, took := l.start(t)
	f.first, f.early = took, sent
	t.Logf("at its target after %.1f s, with %s of %s", took.Seconds(), lab.Bytes(sent), lab.Bytes(int64(bytes)))
	if h := labtest.Now(t, l).Machines[l.m.ID].Holds[0]; h.Absent == 0 || h.Dirty {
		t.Errorf("the disk counts as %+v", h)
	}
	l.whole(t)
	f.whole, f.between = time.Since(climbedAt(labtest.Now(t, l).Boots[id], lab.RungHandover)), l.wire.count()
	l.end(t, id, "through the disk")

	id, f.later, f.second = l.start(t)
	t.Logf("with all on the disk after %.1f s", f.second.Seconds())
	l.end(t, id, "again")
	return f
}

// With 300 MB in lazy layers and 5 MB a second, a system reaches its target before a fifth of them has arrived; the rest comes
// while it runs, and is read straight from the disk then. With all on the disk, nothing is waited for, and nothing comes.
func TestLazy(t *testing.T) {
	t.Parallel()
	const bytes, rate = 300_000_000, 5e6
	f := measureLazy(t, bytes, rate)
	if f.early > bytes/5 {
		t.Errorf("%s had arrived", lab.Bytes(f.early))
	}
	if f.between < bytes || f.between > bytes*11/10 {
		t.Errorf("%s came in all", lab.Bytes(f.between))
	}
	if f.later != 0 || f.second > f.first+5*time.Second {
		t.Errorf("with all on the disk %s came, and it took %v after %v", lab.Bytes(f.later), f.second, f.first)
	}
}

// BenchmarkLazy prints when a system with 300 MB in lazy layers has reached its target over a wire of 5 MB a second, which takes
// 60 s for all of them, beside the limit of a fifth.
func BenchmarkLazy(b *testing.B) {
	for range b.N {
		f := measureLazy(b, 300_000_000, 5e6)
		b.ReportMetric(float64(f.early)/1e6, "MB-to-target-of-60")
		b.ReportMetric(f.first.Seconds(), "s-to-target-of-60")
		b.ReportMetric(f.whole.Seconds(), "s-to-last-byte")
		b.ReportMetric(f.second.Seconds(), "s-to-target-again")
		b.ReportMetric(float64(f.later)/1e6, "MB-again-of-0")
	}
}
