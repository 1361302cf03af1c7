package labtest_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/labtest"
	"carte/store"
)

const crashDisk = 8 << 20

// The server is killed while a machine stands at each step of its boot, the answer to its last question lost or not, and
// is started again. The machine went on meanwhile, or asks again. Its boot ends done at the first attempt, so does the
// next one in its queue, the disk is written once, and everything that was acknowledged is there.
func TestServerKilledAtEveryRung(t *testing.T) {
	t.Parallel()
	s := labtest.Serve(t, labtest.SmallFiles(t)...)
	v := labtest.Import(t, s, "deb", lab.FormDisk, labtest.Image(3<<20+12345, 1))
	for n, c := range []struct {
		at   string
		rung lab.Rung
		in   lab.State
	}{
		{"script", lab.RungScript, lab.Starting},
		{"kernel", lab.RungKernel, lab.Starting},
		{"initrd", lab.RungInitrd, lab.Starting},
		{"hello", lab.RungHello, lab.Working},
		{"probe", lab.RungProbe, lab.Working},
		{"manifest", lab.RungProbe, lab.Working},
		{"hash", lab.RungHash, lab.Working},
		{"fetch", lab.RungFetch, lab.Working},
		{"head", lab.RungProbe, lab.Working},   // the first chunks that are asked for, to fit the partition table
		{"chunks", lab.RungWrite, lab.Working}, // all others: the head is being written, and nothing else has come
		{"write", lab.RungWrite, lab.Working},
		{"verify", lab.RungVerify, lab.Working},
		{"proven", lab.RungVerify, lab.Working},
		{"handover", lab.RungVerify, lab.Handover},
		{"local", lab.RungHandover, lab.Done},
	} {
		for _, lose := range []bool{false, true} {
			what := map[bool]string{false: c.at, true: c.at + ", answer lost"}[lose]
			t.Run(what, func(t *testing.T) {
				i := 2 * n
				if lose {
					i++
				}
				sim, name := s.Metal(t, i, crashDisk), labtest.MetalName(i)
				first, second := labtest.Boot(t, s, "deb", name), labtest.Boot(t, s, "deb", name)
				h := newHalt(c.at, lose)
				h.plug(sim)
				sim.Again = true
				off, _ := labtest.On(t, sim)
				h.wait(t)
				before := labtest.Until(t, s, what, func(s lab.Snapshot) bool {
					return s.Boots[first].Rung() == c.rung && s.Boots[first].State == c.in
				})
				s.Kill9(t)
				s.Start(t)
				sameAs(t, before, labtest.Now(t, s))
				h.on()
				bothDone(t, s, sim, v, first, second)
				off()
			})
		}
	}
	killedAndWhole(t, s)
}

// bothDone waits for a machine's two boots of the same image. The first found a blank disk, the second had nothing to do.
func bothDone(t *testing.T, d lab.Desk, sim *labtest.Sim, v lab.Version, first, second int64) {
	t.Helper()
	a, b := labtest.Over(t, d, first), labtest.Over(t, d, second)
	for _, x := range []lab.Boot{a, b} {
		if x.State != lab.Done || x.Strikes != 0 || x.Attempt != 1 {
			t.Errorf("boot %d is %s at attempt %d with %d strikes: %s", x.ID, x.State, x.Attempt, x.Strikes, x.Reason)
		}
	}
	if m := a.Moved; m.Written == 0 || m.Written > v.Bytes || m.Fetched > v.Bytes+v.Bytes/2 || m.Zeroed != 0 {
		t.Errorf("the first boot of %d bytes moved %+v", v.Bytes, m)
	}
	if m := b.Moved; m.Written != 0 || m.Fetched != 0 || m.Zeroed != 0 {
		t.Errorf("the second boot moved %+v", m)
	}
	if got := labtest.FileRoot(t, sim.Disk.File, v.Bytes); got != v.Root {
		t.Errorf("the disk's root is %s, the version's %s", got, v.Root)
	}
}

// lasting is what of a lab survives a restart, as JSON.
func lasting(t *testing.T, s lab.Snapshot) map[string]any {
	t.Helper()
	s.Rev, s.Live, s.Services = 0, nil, nil
	boots := map[int64]lab.Boot{}
	for id, b := range s.Boots {
		b.Since = time.Time{} // a restart gives a boot on its way its time anew
		boots[id] = b
	}
	s.Boots = boots
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var rows map[string]any
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&rows); err != nil {
		t.Fatal(err)
	}
	return rows
}

// sameAs compares a lab with itself after a restart, while no machine moved.
func sameAs(t *testing.T, before, after lab.Snapshot) {
	t.Helper()
	a, b := lasting(t, before), lasting(t, after)
	for table := range a {
		if !reflect.DeepEqual(a[table], b[table]) {
			t.Errorf("after the restart %s are\n%v\nand were\n%v", table, b[table], a[table])
		}
	}
}

// killedAndWhole kills a server for the last time and looks at what it left.
func killedAndWhole(t *testing.T, s *labtest.Served) {
	t.Helper()
	last := labtest.Now(t, s)
	s.Kill9(t)
	whole(t, s.Dir, last)
}

// whole looks into the folder of a lab that is no longer served: no fact is missing, and every version can be read.
func whole(t *testing.T, dir string, last lab.Snapshot) {
	t.Helper()
	state, err := store.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	if err := state.DB.Check(t.Context()); err != nil {
		t.Error(err)
	}
	facts, err := state.DB.Facts(t.Context(), 0, 1<<20)
	if err != nil || int64(len(facts)) < last.LastFact {
		t.Errorf("the journal has %d facts and should have %d (%v)", len(facts), last.LastFact, err)
	}
	queued := map[int64]bool{}
	for i, f := range facts {
		if f.Seq != int64(i+1) {
			t.Fatalf("fact %d has the number %d", i+1, f.Seq)
		}
		queued[f.Boot] = true
	}
	for id := range last.Boots {
		if !queued[id] {
			t.Errorf("the journal knows nothing of boot %d", id)
		}
	}
	for _, v := range last.Versions {
		if err := state.Chunks.Verify(t.Context(), v.Root, nil); err != nil {
			t.Error(err)
		}
	}
}

// The server is killed between the order and the power driver's word, and between that and the machine's first question.
func TestServerKilledBeforeTheMachineAsks(t *testing.T) {
	s := labtest.Serve(t, labtest.SmallFiles(t)...)
	v := labtest.Import(t, s, "deb", lab.FormDisk, labtest.Image(3<<20, 1))
	for i, rung := range []lab.Rung{"", lab.RungPower} {
		t.Run("at "+string(rung), func(t *testing.T) {
			name := labtest.MetalName(i)
			sim := s.Metal(t, i, crashDisk)
			s.Kill9(t) // it forgets the agent that has just looked at the machine
			s.Start(t)
			labtest.Say(t, s, lab.SetMachine{Machine: name, Values: map[string]string{"power": "exec:true"}})
			first, second := labtest.Boot(t, s, "deb", name), labtest.Boot(t, s, "deb", name)
			if rung != "" {
				labtest.Until(t, s, "power", func(s lab.Snapshot) bool { return s.Boots[first].Rung() == rung })
			}
			s.Kill9(t)
			s.Start(t)
			labtest.Until(t, s, "power", func(s lab.Snapshot) bool { return s.Boots[first].Rung() == lab.RungPower })
			sim.Again = true
			off, _ := labtest.On(t, sim)
			bothDone(t, s, sim, v, first, second)
			off()
		})
	}
	killedAndWhole(t, s)
}

// counter is a wire that tells when a number of requests have gone over it.
type counter struct {
	http.RoundTripper
	left atomic.Int64
	now  chan struct{}
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.left.Add(-1) == 0 {
		c.now <- struct{}{}
	}
	return c.RoundTripper.RoundTrip(r)
}

// The server is killed ten times at any moment while five machines boot twice each.
func TestServerKilledAtRandom(t *testing.T) {
	const machines, kills = 5, 10
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	s := labtest.Serve(t, labtest.SmallFiles(t)...)
	v := labtest.Import(t, s, "deb", lab.FormDisk, labtest.Image(6<<20+777, 1))
	wire := &counter{RoundTripper: insecure(), now: make(chan struct{}, 1)}
	var sims []*labtest.Sim
	var first, second []int64
	for i := range machines {
		sim := s.Metal(t, i, crashDisk)
		sim.HTTP, sim.Again = &http.Client{Transport: wire}, true
		sims = append(sims, sim)
		first = append(first, labtest.Boot(t, s, "deb", labtest.MetalName(i)))
		second = append(second, labtest.Boot(t, s, "deb", labtest.MetalName(i)))
	}
	wire.left.Store(int64(1 + r.IntN(20)))
	for _, sim := range sims {
		labtest.On(t, sim)
	}
	for kill := range kills {
		select {
		case <-wire.now:
		case <-time.After(labtest.Patience):
			t.Fatalf("nothing was asked after kill %d", kill)
		}
		s.Kill9(t)
		wire.left.Store(int64(1 + r.IntN(25)))
		s.Start(t)
	}
	for i, sim := range sims {
		bothDone(t, s, sim, v, first[i], second[i])
	}
	if after := labtest.Now(t, s); len(after.Boots) != 2*machines || len(after.Machines) != machines || len(after.Versions) != 1 {
		t.Errorf("%d boots, %d machines, %d versions are left", len(after.Boots), len(after.Machines), len(after.Versions))
	}
	killedAndWhole(t, s)
}

// What happened before the server was killed counts after it: attempts that failed, a boot that was called back, a
// machine that was parked.
func TestServerKilledAfterADecision(t *testing.T) {
	s := labtest.Serve(t, labtest.SmallFiles(t)...)
	v := labtest.Import(t, s, "deb", lab.FormDisk, labtest.Image(3<<20, 1))
	again := func() { t.Helper(); s.Kill9(t); s.Start(t) }

	t.Run("strikes", func(t *testing.T) {
		sim, name := s.Metal(t, 0, crashDisk), labtest.MetalName(0)
		first, second := labtest.Boot(t, s, "deb", name), labtest.Boot(t, s, "deb", name)
		for range lab.MaxStrikes {
			resetAt(t, s, sim, "hash", lab.RungHash, first)
			again()
		}
		off, ended := labtest.On(t, sim)
		if end := <-ended; end != labtest.EndLocal {
			t.Errorf("the machine was sent to %q", end)
		}
		off()
		again()
		now := labtest.Now(t, s)
		if x := now.Boots[first]; x.State != lab.Failed || x.Strikes != lab.MaxStrikes || now.Machines[x.Machine].Parked == "" || now.Boots[second].State != lab.Queued {
			t.Errorf("the boot is %s with %d strikes (%s), the next %s, parked: %q", x.State, x.Strikes, x.Reason, now.Boots[second].State, now.Machines[x.Machine].Parked)
		}
	})

	t.Run("called back", func(t *testing.T) {
		sim, name := s.Metal(t, 1, crashDisk), labtest.MetalName(1)
		first, second := labtest.Boot(t, s, "deb", name), labtest.Boot(t, s, "deb", name)
		h := newHalt("write", true)
		h.plug(sim)
		sim.Again = true
		labtest.On(t, sim)
		h.wait(t)
		labtest.Say(t, s, lab.Stop{Boot: first, Reason: "lunch"})
		again()
		h.on()
		if x := labtest.Over(t, s, first); x.State != lab.Revoked || x.Reason != "lunch" {
			t.Errorf("the boot is %s: %s", x.State, x.Reason)
		}
		// The agent's right is over; this machine restarts then.
		if x := labtest.Over(t, s, second); x.State != lab.Done || x.Strikes != 0 {
			t.Errorf("the next boot is %s with %d strikes: %s", x.State, x.Strikes, x.Reason)
		}
		if got := labtest.FileRoot(t, sim.Disk.File, v.Bytes); got != v.Root {
			t.Errorf("the disk's root is %s, the version's %s", got, v.Root)
		}
	})

	t.Run("agent that waits", func(t *testing.T) {
		sim, name := s.Metal(t, 2, crashDisk), labtest.MetalName(2)
		labtest.Say(t, s, lab.SetMachine{Machine: name, Values: map[string]string{"warm": "yes"}})
		ticket := func(s lab.Snapshot) lab.Ticket { m, _ := s.Find(name); return s.Machines[m.ID].Ticket }
		was := ticket(labtest.Now(t, s)).Number
		_, ended := labtest.On(t, sim)
		labtest.Until(t, s, "the agent", func(s lab.Snapshot) bool { return ticket(s).Number > was && ticket(s).Key != "" })
		again()
		id := labtest.Boot(t, s, "deb", name) // before the server has heard of the agent, or after
		x := labtest.Over(t, s, id)
		<-ended
		if x.State != lab.Done || x.Strikes != 0 || x.Attempt != 1 || sim.Asked.Load() != 3 { // to be looked at, to wait, and at the end
			t.Errorf("the boot is %s at attempt %d with %d strikes after %d scripts: %s", x.State, x.Attempt, x.Strikes, sim.Asked.Load(), x.Reason)
		}
		if note := labtest.Now(t, s).Live[x.Machine].Note; note != "" {
			t.Errorf("the machine's note is still %q", note)
		}
	})
	killedAndWhole(t, s)
}
