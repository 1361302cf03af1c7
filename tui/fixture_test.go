package tui

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"carte/lab"
	"carte/lab/chunk"
	"carte/tui/action"
)

// noon is the fixed clock of the frames.
var noon = time.Date(2026, 11, 21, 14, 3, 22, 0, time.UTC)

func before(d time.Duration) time.Time { return noon.Add(-d) }

// climbsFor makes the climbs of an attempt that began at start: the rungs with the seconds since the one before.
func climbsFor(start time.Time, attempt int, steps ...any) (c []lab.Climb) {
	at := start
	for i := 0; i < len(steps); i += 2 {
		d := steps[i+1].(float64)
		at = at.Add(time.Duration(max(d, 0) * float64(time.Second)))
		c = append(c, lab.Climb{Rung: steps[i].(lab.Rung), At: at, Attempt: attempt, Inferred: d < 0})
	}
	return c
}

// usualClimb is a whole boot, from power to the running system in about 15 s.
func usualClimb(start time.Time, slower float64) []lab.Climb {
	return climbsFor(start, 1, lab.RungPower, 0.0, lab.RungDHCP, 4.0+slower, lab.RungTFTP, 0.3, lab.RungScript, 1.1, lab.RungKernel, 0.4, lab.RungInitrd, 0.2,
		lab.RungHello, 2.0, lab.RungProbe, 0.1, lab.RungHash, 0.2, lab.RungFetch, 0.4, lab.RungWrite, 0.1, lab.RungVerify, 0.6, lab.RungHandover, 0.1, lab.RungRun, 5.9)
}

func planOf(stack string, start lab.Start, until lab.Rung, layers ...lab.PlanLayer) lab.Plan {
	return lab.Plan{Stack: stack, Form: lab.FormDisk, Layers: layers, Start: start, Until: until}
}

func layer(name string, version int, bytes int64) lab.PlanLayer {
	return lab.PlanLayer{Ref: lab.Ref{Name: name, Version: version}, Kind: "system", Root: chunk.Sum([]byte(name)), Bytes: bytes}
}

// bench is a lab in the middle of an afternoon: something in every state.
func bench() lab.Snapshot {
	const GB = 1_000_000_000
	disk := func(serial string, n int64) []lab.Arm {
		return []lab.Arm{{DiskID: lab.DiskID{Serial: serial, Bytes: n}, At: before(72 * time.Hour)}}
	}
	debian := layer("debian", 3, 20*GB)
	s := lab.Snapshot{Rev: 7, LastBoot: 153,
		Machines: map[int64]lab.Machine{
			1: {ID: 1, Name: "nuc-1", Standing: lab.Adopted, MACs: []lab.MAC{"1c:69:7a:0b:22:10"}, Power: lab.Power{Driver: "wol"}, Arms: disk("S3Z9NX0", 256*GB)},
			2: {ID: 2, Name: "nuc-2", Standing: lab.Adopted, MACs: []lab.MAC{"1c:69:7a:0b:22:11"}, Power: lab.Power{Driver: "wol"}, Arms: disk("S3Z9NX1", 512*GB),
				Holds: []lab.Holding{{DiskID: lab.DiskID{Serial: "S3Z9NX1", Bytes: 512 * GB}, Root: debian.Root, Ref: debian.Ref, At: before(time.Hour)}}},
			3: {ID: 3, Name: "nuc-3", Standing: lab.Adopted, MACs: []lab.MAC{"1c:69:7a:0b:22:12"}, Power: lab.Power{Driver: "wol"}, Arms: disk("S3Z9NX2", 256*GB)},
			4: {ID: 4, Name: "xeon-a", Standing: lab.Adopted, MACs: []lab.MAC{"3c:ec:ef:00:00:01"}, Power: lab.Power{Driver: "exec"}, Arms: disk("WD-77", 8*GB), Note: "rack 2, loud"},
			5: {ID: 5, Name: "opti-7", Standing: lab.Adopted, MACs: []lab.MAC{"d8:9e:f3:00:00:07"}, Power: lab.Power{Driver: "manual"}, Arms: disk("ST500", 500*GB)},
			6: {ID: 6, Name: "vm-1", Standing: lab.Adopted, MACs: []lab.MAC{"52:54:00:00:00:01"}, Virtual: &lab.Virtual{}, Power: lab.Power{Driver: "qemu"}, Arms: disk("carte-1", 4*GB)},
			7: {ID: 7, Name: "vm-2", Standing: lab.Adopted, MACs: []lab.MAC{"52:54:00:00:00:02"}, Virtual: &lab.Virtual{}, Power: lab.Power{Driver: "qemu"}, Arms: disk("carte-2", 4*GB)},
			8: {ID: 8, Standing: lab.Unknown, MACs: []lab.MAC{"00:1b:21:5e:2f:a1"}, Since: before(90 * time.Second)},
			9: {ID: 9, Name: "opti-9", Standing: lab.Adopted, MACs: []lab.MAC{"d8:9e:f3:00:00:09"}, Power: lab.Power{Driver: "manual"}, Arms: disk("ST501", 500*GB)},
		},
		Live: map[int64]lab.Live{
			1: {Machine: 1, Seen: before(time.Second), Power: "on"},
			2: {Machine: 2, Seen: before(0), Power: "on", Agent: true, IP: "10.77.0.31", Progress: lab.Progress{Rung: lab.RungWrite, Done: 384e6, Of: 1240e6, Rate: 137.6e6}},
			3: {Machine: 3, Seen: before(3 * time.Second), Power: "on"},
			4: {Machine: 4, Seen: before(2 * time.Second), Power: "on"},
			5: {Machine: 5, Seen: before(42 * time.Second), Power: "", Agent: true, Progress: lab.Progress{Rung: lab.RungHash, Done: 480e6, Of: 1000e6}},
			6: {Machine: 6, Seen: before(time.Second), Power: "off"},
			7: {Machine: 7, Seen: before(time.Second), Power: "on"},
			8: {Machine: 8, Seen: before(8 * time.Second), Asked: 3},
			9: {Machine: 9, Seen: before(2 * time.Minute), Power: ""},
		},
		Boots: map[int64]lab.Boot{}, Images: map[string]lab.Image{}, Versions: map[string]lab.Version{}, Stacks: map[string]lab.Stack{},
		Services: map[string]lab.Service{
			"dhcp": {Name: "dhcp", State: "serving", OK: true, Note: "eth1 10.77.0.1/24"},
			"tftp": {Name: "tftp", State: "serving", OK: true},
			"http": {Name: "http", State: "serving", OK: true},
		},
	}
	past(&s, debian)
	active(&s, debian)
	catalogue(&s)
	return s
}

// past are the boots by which the usual times are known.
func past(s *lab.Snapshot, l lab.PlanLayer) {
	id := int64(1)
	for machine := int64(1); machine <= 3; machine++ {
		for i := range 5 {
			start := before(time.Duration(10-i) * time.Hour)
			b := lab.Boot{ID: id, Machine: machine, Plan: planOf("hpt-3", lab.StartDisk, lab.RungRun, l), State: lab.Done, Attempt: 1,
				Climbs: usualClimb(start, float64(i)*0.1), Begun: start, Moved: lab.Moved{Total: l.Bytes, Written: int64(i+10) * 1e6, Read: l.Bytes}}
			b.Ended = b.Climbs[len(b.Climbs)-1].At
			s.Boots[id] = b
			id++
		}
	}
}

// active are the boots that run, wait, or failed.
func active(s *lab.Snapshot, l lab.PlanLayer) {
	add := func(id, machine int64, stack string, state lab.State, climbs []lab.Climb, more func(*lab.Boot)) {
		b := lab.Boot{ID: id, Machine: machine, Plan: planOf(stack, lab.StartDisk, lab.RungRun, l), State: state, Order: id, Attempt: 1, Climbs: climbs, Begun: begunBy(climbs), Queued: before(time.Hour), Since: before(20 * time.Second)}
		b.Moved.Total = l.Bytes
		if more != nil {
			more(&b)
		}
		s.Boots[id] = b
	}
	start := before(9500 * time.Millisecond)
	add(75, 5, "hpt-1", lab.Working, climbsFor(before(50*time.Second), 1, lab.RungPower, 0.0, lab.RungDHCP, 3.0, lab.RungScript, 1.0, lab.RungHello, 3.5, lab.RungHash, 0.2), nil)
	add(76, 1, "hpt-2", lab.Running, usualClimb(before(2*time.Minute), 0), func(b *lab.Boot) {
		b.Plan.Until = lab.RungCollect
		b.Metrics = map[string]lab.Metric{"ops": {Name: "ops", Value: 41310, Unit: "1/s", At: before(3 * time.Second)}, "tlb_miss": {Name: "tlb_miss", Value: 18199871, At: before(4 * time.Second)}}
	})
	add(77, 2, "hpt-3", lab.Working, climbsFor(start, 1, lab.RungPower, 0.0, lab.RungDHCP, 4.1, lab.RungTFTP, 0.3, lab.RungScript, 1.2, lab.RungKernel, 0.4, lab.RungInitrd, 0.2, lab.RungHello, 1.9, lab.RungProbe, 0.1, lab.RungHash, 0.2, lab.RungFetch, 0.4, lab.RungWrite, 0.1), func(b *lab.Boot) {
		b.Moved = lab.Moved{Total: 20e9, Read: 20e9, Fetched: 131e6, Written: 384e6}
		b.Disk = lab.DiskID{Serial: "S3Z9NX1", Bytes: 512e9}
		b.Metrics = map[string]lab.Metric{"map_bytes": {Name: "map_bytes", Value: 4e6, Unit: "B", At: before(time.Second)}}
	})
	add(78, 3, "hpt-3", lab.Starting, climbsFor(before(7*time.Second), 1, lab.RungPower, 0.0, lab.RungDHCP, -1.0, lab.RungTFTP, 4.4, lab.RungScript, 1.0), nil)
	add(70, 9, "hpt-1", lab.Starting, climbsFor(before(130*time.Second), 1, lab.RungPower, 0.0), nil)
	add(74, 4, "hpt-0", lab.Failed, usualClimb(before(11*time.Minute), 0)[:9], func(b *lab.Boot) {
		b.Reason = "disk WD-77 (8.0 GB) is smaller than the image (20.0 GB)"
		b.Ended, b.Since = before(11*time.Minute), before(11*time.Minute)
	})
	add(73, 7, "demo", lab.Done, usualClimb(before(30*time.Minute), 0), func(b *lab.Boot) { b.Ended = before(29 * time.Minute) })
	add(79, 2, "hpt-0", lab.Queued, nil, nil)
	add(80, 3, "hpt-1", lab.Queued, nil, nil)
	add(82, 2, "hpt-3", lab.Queued, nil, nil)
}

// catalogue are images and stacks.
func catalogue(s *lab.Snapshot) {
	image := func(name, kind string, form lab.Form, bytes int64, stored ...int64) {
		s.Images[name] = lab.Image{Name: name, Kind: kind, Form: form, Latest: len(stored)}
		for i, n := range stored {
			v := lab.Version{Image: name, Number: i + 1, Root: chunk.Sum([]byte(name)), Bytes: bytes, Content: bytes / 4, Stored: n, Author: "you", At: before(time.Duration(len(stored)-i) * 20 * time.Hour), Found: "GPT, ext4, Linux 6.17.0"}
			s.Versions[v.Ref().String()] = v
		}
	}
	image("debian", "system", lab.FormDisk, 20e9, 600e6, 12.4e6, 0.9e6)
	image("demo", "system", lab.FormTree, 20e6, 6e6)
	image("x11-tools", "user", lab.FormTree, 1.2e9, 400e6)
	for i := range 4 {
		n := fmt.Sprintf("hpt-%d", i)
		s.Stacks[n] = lab.Stack{Name: n, Layers: []lab.Ref{{Name: "debian", Version: i % 3}}}
	}
	s.Stacks["demo"] = lab.Stack{Name: "demo", Layers: []lab.Ref{{Name: "demo"}}, Cmdline: "quiet hugepages=512"}
}

// talk are the newest lines of the log.
func talk() (lines []lab.Line) {
	for i, l := range []struct {
		ms           int
		machine      int64
		source, text string
	}{
		{-9500, 2, "carte", "power on (WoL) sent to 1c:69:7a:0b:22:11"},
		{-5400, 2, "dhcp", "DISCOVER -> OFFER 10.77.0.31 arch 7 (EFI x64)"},
		{-5100, 2, "tftp", "ipxe.efi 1 043 456 B in 0.3 s"},
		{-2300, 2, "agent", "up in 0.8 s, nvme0n1 512 GB KINGSTON, this disk holds debian@2"},
		{-1900, 2, "agent", "plan: 20.0 GB image, 18.8 GB already on disk, 1.2 GB to write"},
		{-1800, 1, "serial", "iter 2/10 tlb_miss=18231004 ops=41022"},
		{-1700, 3, "serial", "[    1.203112] hugetlb: registered 2.00 MiB page size, pre-allocated 0 pages, of which none is surplus"},
		{-1500, 5, "serial", "BUG: unable to handle page fault for address: ffffc90003a7b000"},
		{-1200, 0, "carte", "WARN agent of opti-7 silent for 38 s (usual gap 1 s); serial still alive"},
		{-900, 1, "serial", "iter 3/10 tlb_miss=18199871 ops=41310"},
		{-600, 7, "serial", "demo login:"},
		{-200, 2, "agent", "write lba 4096000 +1.2 GB (3 extents)"},
	} {
		lines = append(lines, lab.Line{Seq: int64(i + 1), At: noon.Add(time.Duration(l.ms) * time.Millisecond), Machine: l.machine, Source: l.source, Text: l.text})
	}
	return lines
}

// still is a desk on which nothing ever happens.
type still struct{ said []lab.Verb }

func (d *still) Say(_ context.Context, v lab.Verb) (lab.Changed, error) {
	d.said = append(d.said, v)
	return lab.Changed{}, nil
}
func (d *still) Watch(ctx context.Context, _ uint64) (lab.Snapshot, error) {
	<-ctx.Done()
	return lab.Snapshot{}, ctx.Err()
}
func (d *still) Tail(ctx context.Context, t lab.Tail) ([]lab.Line, int64, int64, error) {
	if !t.Wait {
		return nil, t.After, 0, nil
	}
	<-ctx.Done()
	return nil, 0, 0, ctx.Err()
}
func (d *still) Import(context.Context, io.Reader, lab.Import, func(int64)) (lab.Imported, error) {
	return lab.Imported{}, lab.ErrRefused
}
func (d *still) Export(context.Context, lab.Ref, io.Writer, func(int64, int64)) error {
	return lab.ErrRefused
}
func (d *still) Verify(context.Context, lab.Ref, func(int64, int64)) error { return nil }
func (d *still) Doctor(context.Context) ([]lab.Finding, error)             { return nil, nil }
func (d *still) Collect(context.Context, bool) (lab.Collected, error)      { return lab.Collected{}, nil }
func (d *still) Fsck(context.Context, func(int64, int64)) (lab.Fscked, error) {
	return lab.Fscked{}, nil
}

func (d *still) Judge(_ context.Context, st lab.Stack) (lab.Judged, error) {
	return judged(st), nil
}
func (d *still) Results(context.Context, int64, io.Writer) error { return lab.ErrRefused }
func (d *still) ExportStack(context.Context, string, string, io.Writer, func(int64, int64)) ([]string, error) {
	return nil, lab.ErrRefused
}
func (d *still) ImportStack(context.Context, io.Reader, lab.TakeAs, func(int64)) (lab.Taken, error) {
	return lab.Taken{}, lab.ErrRefused
}

// newTest is a screen without a program: messages in, pictures out. Work is done at once.
func newTest(t testing.TB, s lab.Snapshot, w, h int, o Options) (*model, *still) {
	t.Helper()
	if o.Now == nil {
		o.Now = func() time.Time { return noon }
	}
	if o.Env == nil {
		o.Env = func(string) string { return "" }
	}
	if o.Name == "" {
		o.Name = "bench0"
	}
	o.defaults()
	desk := &still{}
	m := newModel(context.Background(), desk, newFeed(desk, o.Now), io.Discard, o)
	m.spawn, m.ready = func(f func()) { f() }, func() {}
	m.Update(tea.WindowSizeMsg{Width: w, Height: h})
	m.Update(wakeMsg{at: noon, snap: &s})
	m.tell(talk())
	return m, desk
}

// tell gives the screen the lines of whose log it asked for.
func (m *model) tell(lines []lab.Line) {
	var mine []lab.Line
	for _, l := range lines {
		_, known := m.snap().Machines[l.Machine]
		if (known || l.Machine == 0) && (m.log.whose == 0 || l.Machine == m.log.whose) {
			mine = append(mine, l)
		}
	}
	m.Update(wakeMsg{at: noon, turn: m.log.turn, lines: mine})
}

// tap presses keys, named as Bubble Tea names them and parted by blanks.
func (m *model) tap(keys string) (quit bool) {
	for _, k := range strings.Fields(keys) {
		turn := m.log.turn
		if cmd := m.press(press{name: strings.ReplaceAll(k, "space", " ")}); cmd != nil {
			if _, ok := cmd().(tea.QuitMsg); ok {
				quit = true
			}
		}
		m.feed.mu.Lock()
		done := m.feed.done
		m.feed.done = nil
		m.feed.mu.Unlock()
		m.Update(wakeMsg{at: noon, done: done})
		if m.log.turn != turn {
			m.tell(talk())
		}
	}
	m.dirty = true
	return quit
}

func (m *model) typeText(s string) {
	for _, r := range s {
		m.press(press{name: string(r)})
	}
	m.dirty = true
}

func TestMain(m *testing.M) { os.Exit(m.Run()) }

var _ = action.Machines

// begunBy is when an attempt with these climbs began.
func begunBy(climbs []lab.Climb) time.Time {
	if len(climbs) == 0 {
		return time.Time{}
	}
	return climbs[0].At
}
