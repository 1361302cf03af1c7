package tui

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"carte/lab"
)

// fifty is a lab of fifty machines that are all being flashed.
func fifty(rev uint64) lab.Snapshot {
	s := bench()
	s.Rev = rev
	for i := int64(10); i < 51; i++ {
		s.Machines[i] = lab.Machine{ID: i, Name: fmt.Sprintf("node-%02d", i), Standing: lab.Adopted, MACs: []lab.MAC{lab.MAC(fmt.Sprintf("52:54:00:00:01:%02x", i))}}
		s.Live[i] = lab.Live{Machine: i, Seen: noon, Power: "on", Agent: true, Progress: lab.Progress{Rung: lab.RungWrite, Done: int64(rev*1e7+uint64(i)*1e8) % 2e10, Of: 2e10, Rate: 4e8 + float64(rev%100)*1e6}}
		b := s.Boots[77]
		b.ID, b.Machine = 1000+i, i
		s.Boots[b.ID] = b
	}
	return s
}

// BenchmarkView draws fifty machines at 200x50. The limit is 1 ms.
func BenchmarkView(b *testing.B) {
	m, _ := newTest(b, fifty(1), 200, 50, Options{})
	b.ReportAllocs()
	used := cpu(b)
	for b.Loop() {
		m.dirty = true
		m.View()
	}
	each := (cpu(b) - used) / time.Duration(b.N) // not the clock: others work on this computer, too
	b.ReportMetric(float64(each.Microseconds()), "cpu-us/op")
	if each > time.Millisecond && b.N > 100 {
		b.Errorf("a picture takes %s, the limit is 1 ms", each)
	}
}

// BenchmarkSnapshot takes in a new snapshot and draws it.
func BenchmarkSnapshot(b *testing.B) {
	m, _ := newTest(b, fifty(1), 200, 50, Options{})
	two := [2]lab.Snapshot{fifty(2), fifty(3)}
	i := 0
	for b.Loop() {
		m.Update(wakeMsg{at: noon, snap: &two[i%2]})
		m.View()
		i++
	}
}

// A flood is a lab in which fifty machines report and 5000 lines are logged each second.
type flood struct {
	still
	snaps [16]lab.Snapshot
	lines []lab.Line
	began time.Time
}

const linesPerSecond = 5000

func (d *flood) Watch(ctx context.Context, after uint64) (lab.Snapshot, error) {
	if after > 0 && !rest(ctx, 20*time.Millisecond) {
		return lab.Snapshot{}, ctx.Err()
	}
	s := d.snaps[after%16]
	s.Rev = after + 1
	return s, nil
}

func (d *flood) Tail(ctx context.Context, t lab.Tail) (lines []lab.Line, next, lost int64, err error) {
	for {
		next = int64(time.Since(d.began).Seconds() * linesPerSecond)
		if next > t.After {
			break
		}
		if !rest(ctx, time.Millisecond) {
			return nil, 0, 0, ctx.Err()
		}
	}
	for seq := t.After + 1; seq <= next; seq++ {
		l := d.lines[seq%int64(len(d.lines))]
		l.Seq, l.At = seq, noon
		lines = append(lines, l)
	}
	return lines, next, 0, nil
}

// limit is how much of a core the screen may take while the flood is on, in percent.
const limit = 10

// BenchmarkScreen runs the whole screen on a pseudo terminal of 200x50 for some seconds and prints how much of a core
// that takes, the flood and the reading of the terminal's other end included.
func BenchmarkScreen(b *testing.B) {
	for b.Loop() {
		g := newGlass(b, 200, 50)
		g.deaf = true
		d := &flood{began: time.Now()}
		for i := range d.snaps {
			d.snaps[i] = fifty(uint64(i + 1))
		}
		for i := range 500 {
			d.lines = append(d.lines, lab.Line{Machine: int64(10 + i%40), Source: "agent", Text: fmt.Sprintf("wrote chunk %08x at lba %d (%d KiB) in %d us", i*2654435761, i*2048, 64+i%64, 300+i%977)})
		}
		o := options(g)
		o.Now = time.Now
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		used, began := cpu(b), time.Now()
		if err := Run(ctx, d, o); err != context.DeadlineExceeded {
			b.Fatalf("Run: %v", err)
		}
		cancel()
		percent := 100 * (cpu(b) - used).Seconds() / time.Since(began).Seconds()
		b.ReportMetric(percent, "%core")
		if percent > limit {
			b.Errorf("the screen takes %.1f %% of a core, the limit is %d %%", percent, limit)
		}
	}
}

func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
