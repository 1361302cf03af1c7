package cli

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// memory is a book that is kept in memory.
type memory struct{}

func (memory) Load(context.Context) (lab.Snapshot, error) { return lab.Snapshot{}, nil }
func (memory) Save(context.Context, []lab.Change) error   { return nil }

// unused stands for what a desk can do and these tests do not ask of it.
type unused struct{ lab.Desk }

// testDesk is a real lab, with images that have no bytes.
type testDesk struct {
	*lab.Lab
	unused
	findings []lab.Finding
	asked    int // what Fsck says it asked of machines
	mended   int // what Import says it mended
}

func (d *testDesk) Import(ctx context.Context, r io.Reader, i lab.Import, progress func(int64)) (got lab.Imported, err error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return got, err
	}
	if progress != nil {
		progress(int64(len(b)))
	}
	v := lab.Version{Image: i.Name, Root: chunk.Sum(b), Bytes: 1 << 20, Content: int64(len(b)), Stored: int64(len(b)), Message: i.Message, Author: "me", Found: "GPT, 1 partition", Offers: i.Offers, Place: i.Place}
	ch, err := d.Say(ctx, lab.AddVersion{Version: v, Kind: i.Kind, Form: i.Form, Dies: i.Dies, Owner: i.Owner})
	if err != nil {
		return got, err
	}
	got = lab.Imported{Format: "raw", New: int64(len(b)), Seconds: 0.25, Same: len(ch.Versions) == 0, Mended: d.mended}
	if !got.Same {
		got.Version = ch.Versions[0]
		return got, nil
	}
	s, err := d.Watch(ctx, 0)
	if err == nil {
		got.Version, err = s.Version(lab.Ref{Name: i.Name})
	}
	return got, err
}

func (d *testDesk) Export(_ context.Context, ref lab.Ref, w io.Writer, progress func(done, of int64)) error {
	if ref.Name == "broken" {
		_, err := w.Write(make([]byte, 100))
		return errors.Join(err, fmt.Errorf("chunk 1 of %s: %w", ref, lab.ErrDamaged))
	}
	b := make([]byte, 1<<20)
	copy(b[70000:], "content")
	_, err := w.Write(b)
	return err
}

func (d *testDesk) Verify(_ context.Context, ref lab.Ref, _ func(done, of int64)) error {
	if ref.Name == "broken" {
		return fmt.Errorf("chunk 1 of %s: %w", ref, lab.ErrDamaged)
	}
	return nil
}

func (d *testDesk) Doctor(context.Context) ([]lab.Finding, error) { return d.findings, nil }

// bench is a command line with a lab in memory.
type bench struct {
	t     *testing.T
	desk  *testDesk
	dir   string
	term  Terminal // what the next command gets, but for Out and Err
	in    string
	keys  *os.File // instead of in, if it is set
	pass  func(time.Duration)
	there func(string) bool // Host.Has
}

func newBench(t *testing.T) *bench {
	t.Helper()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := func() time.Time { at = at.Add(250 * time.Millisecond); return at }
	l, err := lab.Open(t.Context(), lab.Config{Book: memory{}, Now: now, Secret: make([]byte, 16)})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, dir: t.TempDir(), desk: &testDesk{Lab: l, findings: []lab.Finding{{What: "qemu", OK: true, Must: true, Why: "QEMU 7.2"}}}}
	b.pass = func(d time.Duration) { at = at.Add(d) }
	b.term = Terminal{Env: func(string) string { return "" }, Now: func() time.Time { return at }}
	return b
}

// run carries out a command line and returns what it wrote and its exit code.
func (b *bench) run(args ...string) (out, errs string, code int) {
	b.t.Helper()
	return b.carry(append(args, "--state", b.dir))
}

func (b *bench) carry(args []string) (out, errs string, code int) {
	var o, e bytes.Buffer
	t := b.term
	t.In, t.Out, t.Err = strings.NewReader(b.in), &o, &e
	if b.keys != nil {
		t.In = b.keys
	}
	h := Host{Version: "v1", Has: b.there, Open: func(context.Context, string) (lab.Desk, func() error, error) {
		return b.desk, func() error { return nil }, nil
	}}
	code = Run(b.t.Context(), h, t, args)
	return o.String(), e.String(), code
}

// runBefore is run for command lines whose last word is not to be anything else.
func (b *bench) runBefore(args ...string) (out, errs string, code int) {
	b.t.Helper()
	was := b.term.Env
	defer func() { b.term.Env = was }()
	b.term.Env = func(name string) string {
		if name == "CARTE_STATE" {
			return b.dir
		}
		return was(name)
	}
	return b.carry(args)
}

// ok is run for a command that must succeed.
func (b *bench) ok(line string) string {
	b.t.Helper()
	args, err := splitLine(line)
	b.must(err)
	out, errs, code := b.run(args...)
	if code != 0 {
		b.t.Fatalf("carte %s: exit %d\n%s%s", line, code, out, errs)
	}
	return out
}

// furnish fills the lab: machines of every sort, images, stacks, a boot that is done and one that waits.
func (b *bench) furnish() {
	b.t.Helper()
	b.in = "some bytes"
	b.ok("machine add vm-1 --virtual --disk 256M")
	b.ok("image import - --name debian --message 'the first'")
	b.in = "other bytes"
	b.ok("image import - --name debian")
	b.ok("image import - --name demo --form tree")
	b.ok("stack new hpt --system debian@1")
	b.ok("stack new demo --system demo --cmdline quiet")
	b.ok("boot demo --on vm-1")
	b.finish("vm-1")
	b.ok("boot hpt --on vm-1")
	b.ok("boot demo --on vm-1")
	_, _, err := b.desk.SeenMachine(b.t.Context(), "52:54:00:00:00:99", lab.RungDHCP, "10.0.0.9", true)
	b.must(err)
	b.must(b.desk.Tell(b.t.Context(), lab.Service{Name: "dhcp", State: "yielded", Note: "another server answers on eth1"}))
}

// must ends the test at an error.
func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// finish lets a machine climb its whole ladder, as firmware and agent would.
func (b *bench) finish(machine string) {
	b.t.Helper()
	m := b.climb(machine, lab.Moved{Read: 10, Fetched: 20, Written: 30, Zeroed: 40})
	b.must(b.desk.Console(b.t.Context(), m.ID, []string{"::carte ready", "::carte metric speed=1.5 GB/s", "::carte done"}))
}

// lay lets a machine's agent make the disk equal, and no more.
func (b *bench) lay(machine string) {
	b.t.Helper()
	b.climb(machine, lab.Moved{})
}

// climb lets a machine's agent come to the handover.
func (b *bench) climb(machine string, moved lab.Moved) lab.Machine {
	b.t.Helper()
	m, o, key := b.claim(machine)
	for _, r := range []lab.Report{{Rung: lab.RungHash}, {Rung: lab.RungWrite, Writing: true}, {Rung: lab.RungVerify, Proven: true}, {Rung: lab.RungHandover}} {
		r.Boot, r.Moved = o.Boot, moved
		_, err := b.desk.Report(b.t.Context(), key, r)
		b.must(err)
	}
	return m
}

// claim lets a machine's agent come for its orders.
func (b *bench) claim(machine string) (lab.Machine, lab.Orders, string) {
	b.t.Helper()
	ctx, l := b.t.Context(), b.desk.Lab
	s, err := l.Watch(ctx, 0)
	b.must(err)
	m, err := s.Find(machine)
	b.must(err)
	b.must(l.Powered(ctx, lab.Powered{Machine: m.ID, Order: s.Live[m.ID].Order, State: "on"}))
	script, err := l.Script(ctx, m.MACs[0], "10.0.2.15")
	b.must(err)
	key := hex.EncodeToString(make([]byte, 32))
	disk := lab.Disk{DiskID: m.Arms[0].DiskID, Path: "/dev/vda", Model: "QEMU", BlockBytes: 512}
	inv := lab.Inventory{Vendor: "QEMU", Product: "pc", Firmware: lab.BIOS, CPU: "a CPU", Cores: 1, Threads: 1, NUMA: 1, MemoryBytes: 1 << 30, Disks: []lab.Disk{disk}, NICs: []lab.NIC{{MAC: m.MACs[0], Name: "eth0", Mbps: -1, Link: true}}}
	o, err := l.Claim(ctx, lab.Claim{Token: script.Token, Key: key, Inventory: inv})
	b.must(err)
	return m, o, key
}
