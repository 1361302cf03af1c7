package labtest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carte/agent"
	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/labtest"
	"carte/netboot"
)

// A narrow wire leads to the server. All connections share its width, as machines share the server's cable.
type narrow struct {
	net.Listener
	to    string
	ticks *time.Ticker
	sent  atomic.Int64 // bytes, from the server
}

// perTick is what passes at a tick of the wire.
const perTick = 64 << 10

// newNarrow makes a wire to the bench's server with that many bytes a second.
func newNarrow(t testing.TB, b *labtest.Bench, width int64) *narrow {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, api := b.Net.Addrs()
	n := &narrow{Listener: l, to: api[0].String(), ticks: time.NewTicker(time.Second * perTick / time.Duration(width))}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { n.run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); n.ticks.Stop() })
	return n
}

func (n *narrow) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	stop := context.AfterFunc(ctx, func() { n.Close() })
	defer stop()
	for {
		conn, err := n.Accept()
		if err != nil {
			return
		}
		all.Go(func() { n.forward(ctx, conn) })
	}
}

func (n *narrow) forward(ctx context.Context, a net.Conn) {
	defer a.Close()
	b, err := (&net.Dialer{}).DialContext(ctx, "tcp", n.to)
	if err != nil {
		return
	}
	defer b.Close()
	stop := context.AfterFunc(ctx, func() { a.Close(); b.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(b, a) // either end may go at any time
		b.Close()
	}()
	for left := 0; ; {
		if left <= 0 {
			select {
			case <-n.ticks.C:
				left = perTick
			case <-ctx.Done():
			}
		}
		k, err := io.CopyN(a, b, int64(min(max(left, 1), 16<<10)))
		n.sent.Add(k)
		left -= int(k)
		if err != nil {
			break
		}
	}
	a.Close()
	b.Close()
	<-done
}

// through lets machines ask the server over the wire, and one another.
func (n *narrow) through(sims ...*labtest.Sim) {
	for _, sim := range sims {
		sim.Agent = func(o *agent.Options) { o.Server, o.Peers = "https://"+n.Addr().String(), true }
	}
}

// storedSize is what an image takes on the wire.
func storedSize(t testing.TB, data []byte) (n int64) {
	t.Helper()
	seen := map[chunk.ID]bool{}
	_, err := chunk.Scan(t.Context(), bytes.NewReader(data), func(_ int, b []byte) error {
		if id := chunk.Sum(b); !id.IsZero() && !seen[id] {
			seen[id] = true
			n += int64(len(chunk.Pack(nil, b)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// movedBy adds up what the last boots of machines moved.
func movedBy(t testing.TB, b lab.Desk) (m lab.Moved) {
	t.Helper()
	for _, x := range labtest.Now(t, b).Boots {
		m.Fetched += x.Moved.Fetched
		m.Peers += x.Moved.Peers
		t.Logf("boot %d: %d bytes from the server, %d from other machines", x.ID, x.Moved.Fetched, x.Moved.Peers)
	}
	return m
}

// Machines that boot the same image at the same time cost the server less than one and a half images.
func TestPeersShareAnImage(t *testing.T) {
	for n, most := range map[int]float64{4: 1.5, 8: 2} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			b := labtest.New(t, netboot.Config{})
			data := labtest.Image(192<<20, 1) // each machine's probe asks for 8 MB
			v := labtest.Import(t, b, "deb", lab.FormDisk, data)
			sims := muster(t, b, n, int64(len(data)))
			wire := newNarrow(t, b, 50<<20)
			wire.through(sims...)
			fleet(t, b, sims, v)
			m, one := movedBy(t, b), storedSize(t, data)
			t.Logf("%d machines: the server sent %.2f images, the wire carried %.2f", n, float64(m.Fetched)/float64(one), float64(wire.sent.Load())/float64(one))
			if float64(wire.sent.Load()) > most*float64(one) || m.Fetched > wire.sent.Load() {
				t.Errorf("%d machines had %d bytes sent by the server, %d over the wire; an image has %d", n, m.Fetched, wire.sent.Load(), one)
			}
			if m.Peers+m.Fetched < int64(n)*one {
				t.Errorf("%d bytes arrived, %d machines needed %d each", m.Peers+m.Fetched, n, one)
			}
		})
	}
}

// party boots one image on machines, each of which is turned on by the test.
type party struct {
	t    *testing.T
	b    *labtest.Bench
	v    lab.Version
	one  int64
	data []byte
	sims []*labtest.Sim
	ids  []int64
	wire *narrow
}

func newParty(t *testing.T, n int) *party {
	p := &party{t: t, b: labtest.New(t, netboot.Config{}), data: labtest.Image(64<<20, 1)}
	p.v = labtest.Import(t, p.b, "deb", lab.FormDisk, p.data)
	p.sims, p.one = muster(t, p.b, n, 64<<20), storedSize(t, p.data)
	p.wire = newNarrow(t, p.b, 15<<20)
	p.wire.through(p.sims...)
	for i := range p.sims {
		p.ids = append(p.ids, labtest.Boot(t, p.b, "deb", labtest.MetalName(i)))
	}
	return p
}

// reach waits until a machine's disk holds that many bytes of the image, or has all.
func (p *party) reach(i int, bytes int64) {
	p.t.Helper()
	labtest.Until(p.t, p.b, "the middle of a flash", func(s lab.Snapshot) bool {
		x := s.Boots[p.ids[i]]
		m := s.MovedBy(x)
		return m.Written >= bytes || x.State.Final()
	})
}

// right waits for the end of boots and looks at the disks.
func (p *party) right(which ...int) {
	p.t.Helper()
	for _, i := range which {
		if x := labtest.Over(p.t, p.b, p.ids[i]); x.State != lab.Done {
			p.t.Errorf("%s: %s: %s", labtest.MetalName(i), x.State, x.Reason)
		}
		if got := labtest.FileRoot(p.t, p.sims[i].Disk.File, p.v.Bytes); got != p.v.Root {
			p.t.Errorf("%s holds %s, want %s", labtest.MetalName(i), got, p.v.Root)
		}
	}
}

// A machine that comes late takes what the others have, and the rest with them.
func TestPeersOneComesLate(t *testing.T) {
	p := newParty(t, 3)
	for _, sim := range p.sims[:2] {
		labtest.On(t, sim)
	}
	p.reach(0, p.v.Bytes/4)
	labtest.On(t, p.sims[2])
	p.right(0, 1, 2)
	m := movedBy(t, p.b)
	// The others may be done before it has probed its disk: on a slow computer they often are.
	if late := labtest.Now(t, p.b).Boots[p.ids[2]].Moved; late.Peers < p.one/8 {
		t.Errorf("the late one had %+v, an image has %d", late, p.one)
	}
	if m.Fetched > p.one*9/4 {
		t.Errorf("the server sent %d bytes to three, an image has %d", m.Fetched, p.one)
	}
}

// A machine that dies takes nothing with it that the others need, and goes on when it is back.
func TestPeersOneIsKilled(t *testing.T) {
	p := newParty(t, 4)
	var off []func()
	for _, sim := range p.sims {
		f, _ := labtest.On(t, sim)
		off = append(off, f)
	}
	p.reach(3, p.v.Bytes/8)
	off[3]()
	p.right(0, 1, 2)
	movedBy(t, p.b)
	labtest.On(t, p.sims[3])
	p.right(3)
}

// Machines whose disks hold different parts of the image give them to one another.
func TestPeersHandOutWhatTheyHad(t *testing.T) {
	p := newParty(t, 4)
	for i, sim := range p.sims {
		f, err := os.OpenFile(sim.Disk.File, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		quarter := len(p.data) / 4
		if _, err := f.WriteAt(p.data[i*quarter:(i+1)*quarter], int64(i*quarter)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, sim := range p.sims {
		labtest.On(t, sim)
	}
	p.right(0, 1, 2, 3)
	if m := movedBy(t, p.b); m.Fetched > p.one || m.Peers < 2*p.one {
		t.Errorf("the server sent %d bytes, the machines one another %d; an image has %d", m.Fetched, m.Peers, p.one)
	}
}

// BenchmarkPeerFleet prints how many images the server sends when 1, 2, 4 and 8 machines boot one at the same time, over a
// wire of 100 MiB/s (aim: less than 1.5 for four). The probe of each machine's strategy is in it: 8 MB.
func BenchmarkPeerFleet(bm *testing.B) {
	for _, n := range []int{1, 2, 4, 8} {
		bm.Run(fmt.Sprint(n), func(bm *testing.B) {
			for range bm.N {
				b := labtest.New(bm, netboot.Config{})
				data := labtest.Image(256<<20, 1)
				v := labtest.Import(bm, b, "deb", lab.FormDisk, data)
				sims := muster(bm, b, n, int64(len(data)))
				wire := newNarrow(bm, b, 100<<20)
				wire.through(sims...)
				took := fleet(bm, b, sims, v)
				m, one := movedBy(bm, b), float64(storedSize(bm, data))
				bm.ReportMetric(float64(wire.sent.Load())/one, "images-sent")
				bm.ReportMetric(float64(m.Peers)/one, "images-between-machines")
				bm.ReportMetric(took.Seconds(), "s/fleet")
			}
		})
	}
}
