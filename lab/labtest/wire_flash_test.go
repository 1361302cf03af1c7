package labtest_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"carte/agent"
	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
)

// The whole way with nothing but the hardware left out: script, claim, flash, handover, and again.
func TestFlashOverLoopback(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	data := labtest.Image(9<<20+12345, 1)
	v := labtest.Import(t, b, "deb", lab.FormDisk, data)
	sim := labtest.Metal(t, b, 0, 16<<20)
	junk := scribble(t, sim.Disk.File, 12<<20, 4096)

	first := bootOnce(t, b, sim, "deb")
	if first.Moved.Fetched == 0 || first.Moved.Written == 0 || first.Moved.Read < first.Moved.Written {
		t.Errorf("first boot moved %+v", first.Moved)
	}
	if got := labtest.FileRoot(t, sim.Disk.File, v.Bytes); got != v.Root {
		t.Errorf("the disk's root is %s, the version's %s", got, v.Root)
	}
	for _, r := range []lab.Rung{lab.RungScript, lab.RungKernel, lab.RungInitrd, lab.RungHello, lab.RungHash, lab.RungFetch, lab.RungWrite, lab.RungVerify, lab.RungHandover} {
		if !climbed(first, r) {
			t.Errorf("the first boot's ladder lacks %s: %+v", r, first.Climbs)
		}
	}

	again := bootOnce(t, b, sim, "deb")
	if again.Moved.Fetched != 0 || again.Moved.Written != 0 || again.Moved.Zeroed != 0 {
		t.Errorf("the same version again moved %+v", again.Moved)
	}

	scribble(t, sim.Disk.File, 5<<20, 100_000)
	restored := bootOnce(t, b, sim, "deb")
	if got := labtest.FileRoot(t, sim.Disk.File, v.Bytes); got != v.Root {
		t.Errorf("after the guest wrote, the disk's root is %s, the version's %s", got, v.Root)
	}
	if m := restored.Moved; m.Written+m.Zeroed > 4*100_000 || m.Fetched > 1<<20 {
		t.Errorf("100 kB were changed and %+v moved", m)
	}
	if now, err := os.ReadFile(sim.Disk.File); err != nil || string(now[12<<20:12<<20+len(junk)]) != string(junk) {
		t.Errorf("what lies behind the image was touched (%v)", err)
	}
}

func climbed(b lab.Boot, r lab.Rung) bool {
	for _, c := range b.Climbs {
		if c.Rung == r {
			return true
		}
	}
	return false
}

// bootOnce queues a stack, turns the machine on until it is sent to its disk, and expects the boot to be done.
func bootOnce(t *testing.T, b *labtest.Bench, sim *labtest.Sim, stack string) lab.Boot {
	t.Helper()
	id := labtest.Boot(t, b, stack, nameOf(t, b, sim))
	off, _ := labtest.On(t, sim)
	defer off()
	boot := labtest.Over(t, b, id)
	if boot.State != lab.Done {
		t.Fatalf("boot %d is %s: %s", boot.ID, boot.State, boot.Reason)
	}
	return boot
}

func nameOf(t *testing.T, b *labtest.Bench, sim *labtest.Sim) string {
	t.Helper()
	s, err := b.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Find(string(sim.MAC))
	if err != nil {
		t.Fatal(err)
	}
	return m.Name
}

// scribble writes noise somewhere on a disk, as a running system would, and returns it.
func scribble(t *testing.T, file string, at int64, n int) []byte {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	noise := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(noise)
	if _, err := f.WriteAt(noise, at); err != nil {
		t.Fatal(err)
	}
	return noise
}

// cutter forwards connections and cuts each after a random number of bytes, until it has cut enough of them.
type cutter struct {
	net.Listener
	to   string
	mu   sync.Mutex
	r    *rand.Rand
	left int
	cuts int
}

func (c *cutter) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	for {
		conn, err := c.Accept()
		if err != nil {
			return
		}
		all.Go(func() { c.forward(ctx, conn) })
	}
}

func (c *cutter) forward(ctx context.Context, a net.Conn) {
	defer a.Close()
	b, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.to)
	if err != nil {
		return
	}
	defer b.Close()
	stop := context.AfterFunc(ctx, func() { a.Close(); b.Close() })
	defer stop()
	c.mu.Lock()
	limit := int64(1 << 40)
	if c.left > 0 {
		limit = c.r.Int64N(900_000)
	}
	c.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(b, a)
		b.Close()
	}()
	if n, _ := io.CopyN(a, b, limit); n == limit {
		c.mu.Lock()
		c.left--
		c.cuts++
		c.mu.Unlock()
	}
	a.Close()
	b.Close()
	<-done
}

// Connections are cut at random bytes and the server is restarted in between; what is on the disk in the end is right.
func TestFlashThroughCuts(t *testing.T) {
	for seed := range uint64(4) {
		b := labtest.New(t, netboot.Config{})
		v := labtest.Import(t, b, "deb", lab.FormDisk, labtest.Image(24<<20+777, byte(seed)))
		sim := labtest.Metal(t, b, 0, 32<<20)
		_, api := b.Net.Addrs()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c := &cutter{Listener: l, to: api[0].String(), r: rand.New(rand.NewPCG(seed, 1)), left: 12}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { c.run(ctx) })
		sim.Agent = func(o *agent.Options) { o.Server = "https://" + l.Addr().String() }

		id := labtest.Boot(t, b, "deb", nameOf(t, b, sim))
		off, _ := labtest.On(t, sim)
		labtest.Until(t, b, "the first write", func(s lab.Snapshot) bool {
			return s.Boots[id].Rung().Reached(lab.RungWrite) || s.Boots[id].State.Final()
		})
		b.Stop()
		b.Start(t)
		boot := labtest.Over(t, b, id)
		off()
		cancel()
		running.Wait()
		if boot.State != lab.Done {
			t.Errorf("seed %d: boot is %s: %s", seed, boot.State, boot.Reason)
		}
		if got := labtest.FileRoot(t, sim.Disk.File, v.Bytes); got != v.Root {
			t.Errorf("seed %d: the disk's root is %s, the version's %s", seed, got, v.Root)
		}
		if c.cuts == 0 {
			t.Errorf("seed %d: no connection was cut", seed)
		}
		t.Logf("seed %d: %d cuts, %d scripts, %+v", seed, c.cuts, sim.Asked.Load(), boot.Moved)
	}
}

// No header, parameter or path gives a right on the machines' listener.
func TestNoHeaderGivesARight(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	labtest.Import(t, b, "deb", lab.FormDisk, labtest.Image(1<<20, 1))
	sim := labtest.Metal(t, b, 0, 16<<20)
	before := labtest.FileRoot(t, sim.Disk.File, 16<<20)
	_, api := b.Net.Addrs()
	for _, base := range []string{b.URL, "https://" + api[0].String()} {
		for _, path := range []string{"/verb/machine.forget", "/v1/chunks", "/v1/report", "/v1/manifest/00", "/image/export?ref=deb", "/../lab.db", "/boot/..%2f..%2flab.db", "/boot/%00.ipxe", "//kernel/../secret"} {
			u, err := url.Parse(base)
			if err != nil {
				t.Fatal(err)
			}
			req := &http.Request{Method: "POST", URL: &url.URL{Scheme: u.Scheme, Host: u.Host, Opaque: "//" + u.Host + path}, Header: http.Header{"Type": {"system"}, "X-Forwarded-For": {"127.0.0.1"}, "Authorization": {"Bearer system"}}, Body: io.NopCloser(strings.NewReader(`{"machine":"sim-aa","confirm":"sim-aa"}`))}
			resp, err := insecure().RoundTrip(req)
			if err != nil {
				continue // cut off: refused as well
			}
			if resp.StatusCode < 400 {
				dump, _ := httputil.DumpResponse(resp, true)
				t.Errorf("POST %s%s with type: system was answered:\n%s", base, path, dump)
			}
			resp.Body.Close()
		}
	}
	s, err := b.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find("sim-aa"); err != nil {
		t.Error(err)
	}
	if got := labtest.FileRoot(t, sim.Disk.File, 16<<20); got != before {
		t.Error("the disk changed")
	}
}
