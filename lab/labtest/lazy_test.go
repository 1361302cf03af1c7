package labtest_test

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/labtest"
	"carte/netboot"
	"carte/store"
)

// lazyInit says when the system has reached its target, waits for a line on the console, and then reads all that there is.
const lazyInit = `#!/bin/sh
bad() { echo "::carte fail $1"; exec /bin/busybox poweroff -f; }
test "$(cat /data/hello)" = hello || bad "/data/hello is wrong"
test -d /lib/modules/$(uname -r) && echo "::carte metric own_kernel=1"
echo "::carte metric target_s=$(cut -d' ' -f1 /proc/uptime) s"
read line </dev/console
case "$line" in through*) ls /sys/block/dm-*/slaves | grep -q loop && bad "it still reads through carte";; esac
sum=$(/bin/busybox md5sum </data/noise | cut -d' ' -f1)
test "$sum" = "$(cat /data/sum)" || bad "/data/noise is wrong: $sum"
/bin/busybox free -m
echo "::carte done"
exec /bin/busybox poweroff -f
`

// A slowWire is a source of chunks that hands over so many bytes of lazy layers a second. What is to be there before a system
// starts, a kernel, it does not hold up.
type slowWire struct {
	netboot.ChunkSource

	mu   sync.Mutex
	lazy map[chunk.ID]bool // chunks of lazy layers
	rate float64           // their bytes a second; 0: as fast as it goes
	free time.Time         // when the wire is free again
	sent int64             // their bytes that have left
}

func (w *slowWire) Stored(id chunk.ID) ([]byte, error) {
	b, err := w.ChunkSource.Stored(id)
	w.mu.Lock()
	rest, slow := time.Duration(0), w.lazy[id]
	if now := time.Now(); slow && w.rate > 0 {
		if w.free.Before(now) {
			w.free = now
		}
		w.free = w.free.Add(time.Duration(float64(len(b)) / w.rate * 1e9))
		rest = w.free.Sub(now)
	}
	w.mu.Unlock()
	<-time.After(rest) // which is what a wire does
	w.mu.Lock()
	defer w.mu.Unlock()
	if slow {
		w.sent += int64(len(b))
	}
	return b, err
}

// holds up the chunks of a version from now on.
func (w *slowWire) holds(t testing.TB, v lab.Version, c *store.Chunks) {
	m, err := c.Manifest(v.Root)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range m.IDs {
		w.lazy[id] = true
	}
}

func (w *slowWire) at(rate float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rate = rate
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

// What lies in lazy layers in these tests: the 300 MB, over a wire of 5 MB a second, and a fifth of that over a fifth of
// the wire, which costs less to prove under emulation. All of it takes the wire a minute.
const (
	lazyLarge  = 300_000_000
	lazySmall  = 60_000_000
	lazyMinute = 60
)

// lazyBench is a lab with a small system, whose bytes are in lazy layers, too.
type lazyBench struct {
	*labtest.Bench
	wire *slowWire
	vms  *labtest.VMs
	tree lab.Version
}

func newLazyBench(t testing.TB) *lazyBench {
	labtest.QEMU(t)
	l := &lazyBench{wire: &slowWire{lazy: map[chunk.ID]bool{}}}
	l.Bench = labtest.New(t, netboot.Config{Payload: labtest.RealPayload(t), Chunks: l.wire})
	l.wire.ChunkSource = l.State.Chunks
	l.vms = labtest.NewVMs(t, l.Bench)
	offers := lab.Terms{lab.Lazy: lab.Optional, lab.Overlay: lab.Optional, lab.Heartbeat: lab.Optional}
	l.tree = loaded(t, l.Bench, busyboxSystem(t, lazyInit), lab.Import{Name: "base", Kind: "system", Form: lab.FormTree, Offers: offers})
	l.wire.holds(t, l.tree, l.State.Chunks)
	return l
}

// layer makes a lazy layer of that many bytes, which no other has: the server keeps at hand what several machines ask for.
func (l *lazyBench) layer(t testing.TB, name string, bytes int) lab.Version {
	noise := make([]byte, bytes)
	rand.NewChaCha8(chunk.Sum([]byte(name))).Read(noise)
	v := loaded(t, l.Bench, tarOf(t, file{name: "noise", text: string(noise)}, file{name: "sum", text: md5Of(noise)}, file{name: "hello", text: "hello\n"}),
		lab.Import{Name: name, Kind: "system", Form: lab.FormFiles, Place: "/data", Offers: lab.Terms{lab.Lazy: lab.Optional}})
	l.wire.holds(t, v, l.State.Chunks)
	return v
}

// A lazyMachine has a stack of its own, with its own name.
type lazyMachine struct {
	*lazyBench
	m     lab.Machine
	stack lab.Stack
	data  lab.Version
	bytes int64 // in the lazy layer
}

// machine makes one for a start, with a lazy layer of that many bytes at /data, and more layers.
func (l *lazyBench) machine(t testing.TB, name string, start lab.Start, need lab.Need, bytes int, more ...lab.Version) lazyMachine {
	x := lazyMachine{lazyBench: l, data: l.layer(t, "data-"+name, bytes), bytes: int64(bytes)}
	x.stack = lab.Stack{Name: name, Layers: []lab.Ref{l.tree.Ref(), x.data.Ref()}, Start: start, Reset: lab.ResetTrust, Asks: lab.Terms{lab.Lazy: need}}
	for _, v := range more {
		x.stack.Layers = append(x.stack.Layers, v.Ref())
	}
	labtest.Say(t, l, lab.PutStack{Stack: x.stack})
	x.m = labtest.Say(t, l, lab.AddMachine{Name: name, Virtual: &lab.Virtual{DiskBytes: 2 << 30}}).Machines[0]
	return x
}

// start boots the system to its target, and returns the boot, how many bytes had come over the wire by then, and how long it
// took from the agent's handover.
func (l lazyMachine) start(t testing.TB) (x lab.Boot, sent int64, took time.Duration) {
	t.Helper()
	before := l.wire.count()
	id := labtest.Boot(t, l, l.stack.Name, l.m.Name)
	x = labtest.UntilIn(t, l, labtest.Long, "the system's target", func(s lab.Snapshot) bool {
		_, there := s.Boots[id].Metrics["target_s"]
		return there || s.Boots[id].State.Final()
	}).Boots[id]
	now := time.Now()
	sent = l.wire.count() - before
	if x.State != lab.Running {
		t.Fatalf("boot %d is %s: %s\n%s", id, x.State, x.Reason, l.said(t))
	}
	for _, k := range x.Climbs {
		t.Logf("%s  %s", k.At.Format("15:04:05.000"), k.Rung)
	}
	return x, sent, now.Sub(climbedAt(x, lab.RungHandover))
}

// said is what the machine said last.
func (l lazyMachine) said(t testing.TB) string {
	lines, _, _, err := l.Tail(context.Background(), lab.Tail{Machine: l.m.ID, Max: 60})
	if err != nil {
		t.Error(err)
	}
	var all strings.Builder
	for _, x := range lines {
		fmt.Fprintf(&all, "%s %s: %s\n", x.At.Format("15:04:05"), x.Source, x.Text)
	}
	return all.String()
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
func (l lazyMachine) whole(t testing.TB) {
	t.Helper()
	labtest.UntilIn(t, l, labtest.Long, "all bytes", func(s lab.Snapshot) bool {
		h := s.Machines[l.m.ID].Holds
		return len(h) == 1 && !h[0].Dirty && h[0].Absent == 0
	})
}

// end lets the system read all that it has, and waits for its end.
func (l lazyMachine) end(t testing.TB, x lab.Boot, line string) {
	t.Helper()
	if err := l.vms.Type(l.m, []byte(line+"\n")); err != nil {
		t.Fatal(err)
	}
	x = labtest.UntilIn(t, l, labtest.Long, "the end of a boot", func(s lab.Snapshot) bool { return s.Boots[x.ID].State.Final() }).Boots[x.ID]
	if x.State != lab.Done || x.Strikes > 0 {
		t.Fatalf("boot %d is %s after %d strikes: %s\n%s", x.ID, x.State, x.Strikes, x.Reason, l.said(t))
	}
	off(t, l.Bench, l.m)
	at, _ := x.Plan.Places()
	for i, v := range []lab.Version{l.tree, l.data} { // a kernel comes behind them
		if err := labtest.HoldsAt(t, l.State.Chunks, l.vms.Disk(l.m), at[i], v); err != nil {
			t.Error(err)
		}
	}
}

// lazyFigures is how a system in lazy layers has come up.
type lazyFigures struct {
	target, whole time.Duration // from the handover to the target, and to the last byte
	early, all    int64         // bytes that had come to the target, and to the last byte
}

// measure boots the system, and proves what it reads. With hurry, the wire is slow to its target only.
func (l lazyMachine) measure(t testing.TB, hurry bool) (f lazyFigures) {
	t.Helper()
	l.wire.at(float64(l.bytes) / lazyMinute)
	f.all = -l.wire.count()
	x, sent, took := l.start(t)
	f.target, f.early = took, sent
	t.Logf("at its target after %.1f s, with %s of %s", took.Seconds(), lab.Bytes(sent), lab.Bytes(l.bytes))
	if h := labtest.Now(t, l).Machines[l.m.ID].Holds[0]; h.Absent == 0 || h.Dirty {
		t.Errorf("the disk counts as %+v", h)
	}
	if hurry {
		l.wire.at(0)
	}
	l.whole(t)
	f.whole = time.Since(climbedAt(labtest.Now(t, l).Boots[x.ID], lab.RungHandover))
	f.all += l.wire.count()
	t.Logf("whole after %.1f s", f.whole.Seconds())
	l.end(t, x, "through the disk")
	return f
}

// again boots it with all on the disk.
func (l lazyMachine) again(t testing.TB) (took time.Duration, sent int64) {
	t.Helper()
	x, sent, took := l.start(t)
	t.Logf("with all on the disk after %.1f s", took.Seconds())
	l.end(t, x, "again")
	return took, sent
}

// With 300 MB in lazy layers and 5 MB a second, a system reaches its target before a fifth of them has arrived, however it is
// started; the rest comes while it runs, and is read straight from the disk then. With all on the disk, nothing is waited for, and
// nothing comes. Under a kernel that cannot serve a lazy layer, and of which nobody knew, all is fetched before the system starts.
func TestLazy(t *testing.T) {
	t.Parallel()
	l := newLazyBench(t)
	early := func(t *testing.T, m lazyMachine) {
		f := m.measure(t, true)
		if f.early > m.bytes/5 {
			t.Errorf("%s had arrived", lab.Bytes(f.early))
		}
		if f.all < m.bytes || f.all > m.bytes*11/10+l.tree.Bytes {
			t.Errorf("%s came in all", lab.Bytes(f.all))
		}
	}
	t.Run("pivot", func(t *testing.T) {
		m := l.machine(t, "pivot", lab.StartPivot, lab.Required, lazyLarge)
		early(t, m)
		if _, sent := m.again(t); sent != 0 {
			t.Errorf("with all on the disk %s came", lab.Bytes(sent))
		}
	})
	kernel := t.TempDir()
	for _, start := range []lab.Start{lab.StartKexec, lab.StartNetboot} {
		t.Run(string(start), func(t *testing.T) {
			m := l.machine(t, string(start), start, lab.Required, lazySmall, debianKernel(t, l.Bench, "kernel-"+string(start), kernel))
			early(t, m)
			if x := labtest.Now(t, l).SortedBoots(); x[len(x)-1].Metrics["own_kernel"].Value != 1 {
				t.Errorf("it said %+v", x[len(x)-1].Metrics)
			}
		})
	}
	t.Run("a kernel without FUSE", func(t *testing.T) {
		bare := debianKernel(t, l.Bench, "bare", kernel, "fuse.ko*", "virtiofs.ko*", "cuse.ko*", "modules.builtin*")
		m := l.machine(t, "bare", lab.StartKexec, lab.Optional, lazySmall, bare)
		l.wire.at(0)
		x, sent, _ := m.start(t)
		if h := labtest.Now(t, l).Machines[m.m.ID].Holds[0]; sent < lazySmall || h.Absent > 0 || h.Dirty {
			t.Errorf("%s had arrived, the disk counts as %+v", lab.Bytes(sent), h)
		}
		toldOf(t, l.Bench, m.m, "clause lazy is not given: under Linux")
		m.end(t, x, "through the disk")
	})
}

// BenchmarkLazy prints when a system with 300 MB in lazy layers has reached its target over a wire of 5 MB a second, which takes
// 60 s for all of them, beside the limit of a fifth; and when it has with all of them on the disk, beside the same without the
// clause. All seconds are from the handover, under emulation.
func BenchmarkLazy(b *testing.B) {
	for range b.N {
		l := newLazyBench(b)
		m := l.machine(b, "lazy", lab.StartPivot, lab.Required, lazyLarge)
		f := m.measure(b, false)
		b.ReportMetric(float64(f.early)/1e6, "MB-to-target-of-60")
		b.ReportMetric(float64(f.early)/lazyLarge*100, "%-to-target-of-20")
		b.ReportMetric(f.target.Seconds(), "s-to-target")
		b.ReportMetric(f.whole.Seconds(), "s-to-last-byte")
		took, sent := m.again(b)
		b.ReportMetric(took.Seconds(), "s-to-target-on-disk")
		b.ReportMetric(float64(sent)/1e6, "MB-on-disk-of-0")
		m.stack.Asks = nil
		labtest.Say(b, m, lab.PutStack{Stack: m.stack, Edit: true})
		took, _ = m.again(b)
		b.ReportMetric(took.Seconds(), "s-to-target-not-lazy")
	}
}
