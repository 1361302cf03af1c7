// Package labtest puts a whole lab together for tests: state on disk, real servers, machines that are simulated or run
// under QEMU, wires in namespaces of their own. It is imported by tests only.
package labtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
	"carte/netboot"
	"carte/netboot/payload"
	"carte/store"
)

// A Bench is a lab in this process. What a server is killed for is tested with Served, which is a process of its own.
type Bench struct {
	*store.Desk
	Net *netboot.Server
	URL string // of the boot scripts, on the loopback; without the last slash

	dir    string
	ahead  atomic.Int64 // nanoseconds; see Pass
	config netboot.Config
	stop   func()
}

// New starts a lab in a folder of the test's, served on the loopback, or as config says. It ends with the test.
func New(t testing.TB, config netboot.Config) *Bench {
	t.Helper()
	b := &Bench{dir: t.TempDir(), config: config}
	b.Start(t)
	t.Cleanup(func() { b.Stop() })
	return b
}

// Start starts the lab again after Stop, on the same state and the same ports.
func (b *Bench) Start(t testing.TB) {
	t.Helper()
	ctx := context.Background()
	desk, err := store.Hold(ctx, b.dir, func() time.Time { return time.Now().Add(time.Duration(b.ahead.Load())) })
	if err != nil {
		t.Fatal(err)
	}
	b.Desk = desk
	c := b.config
	pem, err := desk.State.File("agents.pem", func() ([]byte, error) {
		cert, key, err := netboot.NewCertificate()
		return append(cert, key...), err
	})
	if err == nil {
		c.Cert, err = netboot.ReadCertificate(pem, pem)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Lab, c.Log = desk.Lab, slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	c.Mend = desk.Mend
	if c.Chunks == nil {
		c.Chunks = desk.State.Chunks
	}
	if c.Payload.Kernel == nil {
		c.Payload = SmallPayload()
	}
	if c.Sink == nil {
		c.Sink = desk
	}
	if c.Kernels == nil {
		c.Kernels = desk
	}
	if c.Home == nil {
		c.Home = desk
	}
	c.Stages = filepath.Join(b.dir, "stages")
	if b.Net, err = netboot.New(c); err == nil {
		err = b.Net.Listen(ctx)
	}
	if err != nil {
		t.Fatal(err, desk.State.Close())
	}
	http, api := b.Net.Addrs()
	b.URL = "http://" + http[0].String()
	if c.Interface == "" { // the same ports after a restart
		b.config.Listen, b.config.ListenAPI = http[0].String(), api[0].String()
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	for _, run := range []func(context.Context) error{b.Net.Run, desk.Lab.Run} {
		all.Go(func() {
			if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	b.stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
		if err := desk.State.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Stop ends the servers and closes the state.
func (b *Bench) Stop() { b.stop() }

// Pass puts the lab's clock on, for what it would wait for.
func (b *Bench) Pass(d time.Duration) { b.ahead.Add(int64(d)) }

// SmallPayload stands for kernel and agent where no machine executes them.
func SmallPayload() netboot.Payload {
	return netboot.Payload{
		Kernel:    func() ([]byte, error) { return bytes.Repeat([]byte("kernel"), 9999), nil },
		Initramfs: func() ([]byte, error) { return bytes.Repeat([]byte("initrd"), 9999), nil },
		IPXE:      payload.Payload{}.IPXE,
	}
}

// RealPayload is what a built carte embeds. Without `make payload` the test is skipped.
func RealPayload(t testing.TB) netboot.Payload {
	t.Helper()
	p := payload.Payload{}
	agent, err := p.Agent()
	if err != nil {
		Lacking(t, err)
	}
	return netboot.Payload{Kernel: p.Kernel, IPXE: p.IPXE, Initramfs: func() ([]byte, error) { return payload.Initramfs(agent) }}
}

// Lacking skips a test for what this computer lacks. In CI nothing may be lacking.
func Lacking(t testing.TB, why any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("CI lacks this: %v", why)
	}
	t.Skip(why)
}

// quiet is a log that nobody reads.
var quiet = slog.New(slog.DiscardHandler)

// testWriter sends what servers log to the test's log.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// Until waits until the lab is as wanted, and returns it then.
func Until(t testing.TB, d lab.Desk, what string, is func(lab.Snapshot) bool) lab.Snapshot {
	t.Helper()
	return UntilIn(t, d, Patience, what, is)
}

// UntilIn is Until with another patience.
func UntilIn(t testing.TB, d lab.Desk, patience time.Duration, what string, is func(lab.Snapshot) bool) lab.Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var s lab.Snapshot
	for {
		next, err := d.Watch(ctx, s.Rev)
		if err != nil {
			t.Fatalf("waited %v for %s: %v; the boots: %s", patience, what, err, boots(s))
		}
		if s = next; is(s) {
			return s
		}
	}
}

func boots(s lab.Snapshot) (text string) {
	for _, b := range s.SortedBoots() {
		text += "\n\t" + s.Machines[b.Machine].Label() + " " + b.Plan.Stack + ": " + string(b.State) + " on " + string(b.Rung()) + ": " + b.Reason
	}
	return text
}

// Say says verbs and fails the test when one is refused.
func Say(t testing.TB, d lab.Desk, verbs ...lab.Verb) lab.Changed {
	t.Helper()
	var c lab.Changed
	for _, v := range verbs {
		var err error
		if c, err = d.Say(t.Context(), v); err != nil {
			t.Fatalf("%+v: %v", v, err)
		}
	}
	return c
}

// Boot queues a boot and returns its number.
func Boot(t testing.TB, d lab.Desk, stack, machine string) int64 {
	t.Helper()
	for _, b := range Say(t, d, lab.Queue{Machine: machine, Stack: stack}).Boots {
		if b.Strikes == 0 && b.Plan.Stack == stack {
			return b.ID
		}
	}
	t.Fatalf("queueing %s on %s changed no boot", stack, machine)
	return 0
}

// Over waits until a boot is over, and returns it.
func Over(t testing.TB, d lab.Desk, boot int64) lab.Boot {
	t.Helper()
	return Until(t, d, "the end of a boot", func(s lab.Snapshot) bool { return s.Boots[boot].State.Final() }).Boots[boot]
}

// Import makes bytes a version of a disk image, and a floating stack of the same name.
func Import(t testing.TB, d lab.Desk, name string, form lab.Form, data []byte) lab.Version {
	t.Helper()
	im, err := d.Import(t.Context(), bytes.NewReader(data), lab.Import{Name: name, Kind: "system", Form: form}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Stacks[name]; !ok {
		Say(t, d, lab.PutStack{Stack: lab.Stack{Name: name, Layers: []lab.Ref{{Name: name}}}})
	}
	return im.Version
}

// Image makes the bytes of a disk image: noise and zeros by turns, some chunks more than once, an odd end.
func Image(bytes int, seed byte) []byte {
	b := make([]byte, bytes)
	r := rand.NewChaCha8([32]byte{seed})
	for at := 0; at < len(b); at += chunk.Size {
		c := b[at:min(at+chunk.Size, len(b))]
		switch (at / chunk.Size) % 5 {
		case 1: // zeros
		case 3:
			for i := range c {
				c[i] = seed
			}
		default:
			r.Read(c)
		}
	}
	return b
}

// FileRoot is the root of the first bytes of a file.
func FileRoot(t testing.TB, file string, bytes int64) chunk.ID {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := chunk.Scan(t.Context(), io.LimitReader(f, bytes), nil)
	if err != nil || m.Size != bytes {
		t.Fatalf("%s: %d of %d bytes: %v", file, m.Size, bytes, err)
	}
	return m.Root()
}

// Metal adds a simulated machine to the lab as a real one whose address is known: it is turned on once, so that the lab
// sees its disks, and its disk is armed.
func Metal(t testing.TB, b *Bench, n int, diskBytes int64) *Sim {
	t.Helper()
	return metal(t, b, b.URL, n, diskBytes)
}

func metal(t testing.TB, d lab.Desk, url string, n int, diskBytes int64) *Sim {
	t.Helper()
	name, mac := MetalName(n), net.HardwareAddr{2, 0, 0, 0, byte(n >> 8), byte(n)}
	disk, err := NewDisk(filepath.Join(t.TempDir(), name), "SIM-"+name, diskBytes)
	if err != nil {
		t.Fatal(err)
	}
	sim := &Sim{MAC: lab.MAC(mac.String()), Disk: disk, Boot: url, Interval: 50 * time.Millisecond}
	Say(t, d, lab.AddMachine{Name: name, MACs: []string{string(sim.MAC)}})
	Survey(t, d, name, sim)
	Say(t, d, lab.ArmDisk{Machine: name, Disk: disk.Serial})
	return sim
}

// MetalName is the name that Metal gives to its n-th machine.
func MetalName(n int) string { return "sim-" + string(rune('a'+n/26)) + string(rune('a'+n%26)) }

// Survey turns a machine on until the lab has seen its disks.
func Survey(t testing.TB, d lab.Desk, name string, sim *Sim) {
	t.Helper()
	ctx, off := context.WithCancel(t.Context())
	var on sync.WaitGroup
	on.Go(func() { _, _ = sim.PowerOn(ctx) }) // it ends by being switched off
	Until(t, d, "the inventory of "+name, func(s lab.Snapshot) bool {
		m, err := s.Find(name)
		return err == nil && m.Inventory != nil
	})
	off()
	on.Wait()
}

// On turns a machine on and leaves it on until the test ends or it is turned off; ended gets what it was sent to.
func On(t testing.TB, sim *Sim) (off func(), ended <-chan string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan string, 1)
	var on sync.WaitGroup
	on.Go(func() {
		what, _ := sim.PowerOn(ctx)
		end <- what
	})
	off = sync.OnceFunc(func() { cancel(); on.Wait() })
	t.Cleanup(off)
	return off, end
}
