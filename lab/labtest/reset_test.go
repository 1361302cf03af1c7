package labtest_test

import (
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot"
)

// agentSteps are those at which an agent is at work, and the rung that its boot is on then.
var agentSteps = []struct {
	at   string
	rung lab.Rung
}{
	{"hello", lab.RungHello},
	{"probe", lab.RungProbe},
	{"hash", lab.RungHash},
	{"fetch", lab.RungFetch},
	{"chunks", lab.RungWrite},
	{"write", lab.RungWrite},
	{"verify", lab.RungVerify},
	{"proven", lab.RungVerify},
}

// A machine that is reset once, wherever its agent is, has lost one attempt and nothing else.
func TestAgentKilledAtEveryPhase(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	v := labtest.Import(t, b, "deb", lab.FormDisk, labtest.Image(3<<20+12345, 1))
	for i, c := range agentSteps {
		t.Run(c.at, func(t *testing.T) {
			sim, name := labtest.Metal(t, b, i, crashDisk), labtest.MetalName(i)
			first, second := labtest.Boot(t, b, "deb", name), labtest.Boot(t, b, "deb", name)
			resetAt(t, b, sim, c.at, c.rung, first)
			sim.Again = true
			off, _ := labtest.On(t, sim)
			one, two := labtest.Over(t, b, first), labtest.Over(t, b, second)
			off()
			if one.State != lab.Done || one.Strikes != 1 || one.Attempt != 2 {
				t.Errorf("the boot is %s at attempt %d with %d strikes: %s", one.State, one.Attempt, one.Strikes, one.Reason)
			}
			if two.State != lab.Done || two.Strikes != 0 || two.Moved.Written+two.Moved.Fetched != 0 {
				t.Errorf("the next boot is %s with %d strikes, moved %+v: %s", two.State, two.Strikes, two.Moved, two.Reason)
			}
			if got := labtest.FileRoot(t, sim.Disk.File, v.Bytes); got != v.Root {
				t.Errorf("the disk's root is %s, the version's %s", got, v.Root)
			}
		})
	}
}

// A machine that is reset when its disk is proven, and before it has asked where to start from, has lost nothing.
func TestMachineResetAfterHandover(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	labtest.Import(t, b, "deb", lab.FormDisk, labtest.Image(3<<20, 1))
	sim := labtest.Metal(t, b, 0, crashDisk)
	id := labtest.Boot(t, b, "deb", labtest.MetalName(0))
	resetAt(t, b, sim, "handover", lab.RungVerify, id)
	_, ended := labtest.On(t, sim)
	if end := <-ended; end != labtest.EndLocal {
		t.Errorf("it was sent to %q", end)
	}
	if x := labtest.Over(t, b, id); x.State != lab.Done || x.Strikes != 0 || x.Attempt != 1 {
		t.Errorf("the boot is %s at attempt %d with %d strikes: %s", x.State, x.Attempt, x.Strikes, x.Reason)
	}
}

// resetAt turns a machine on and, when it is at the step, off.
func resetAt(t *testing.T, d lab.Desk, sim *labtest.Sim, at string, rung lab.Rung, boot int64) {
	t.Helper()
	h := newHalt(at, false)
	h.plug(sim)
	off, _ := labtest.On(t, sim)
	h.wait(t)
	labtest.Until(t, d, at, func(s lab.Snapshot) bool { return s.Boots[boot].Rung() == rung })
	off()
	sim.HTTP = nil
}

// A machine whose agent dies at the same place every time is parked after three attempts, with the reason. It does not
// loop, the next boot waits and says what for, and a retry lifts all of it.
func TestAgentKilledEveryTime(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	v := labtest.Import(t, b, "deb", lab.FormDisk, labtest.Image(3<<20+12345, 1))
	for i, c := range agentSteps {
		t.Run(c.at, func(t *testing.T) {
			sim, name := labtest.Metal(t, b, i, crashDisk), labtest.MetalName(i)
			first, second := labtest.Boot(t, b, "deb", name), labtest.Boot(t, b, "deb", name)
			for range lab.MaxStrikes {
				resetAt(t, b, sim, c.at, c.rung, first)
				// What reached the disk is lost, so that the next attempt gets as far.
				disk, err := labtest.NewDisk(sim.Disk.File, sim.Disk.Serial, crashDisk)
				if err != nil {
					t.Fatal(err)
				}
				sim.Disk = disk
			}
			asked := sim.Asked.Load()
			off, ended := labtest.On(t, sim)
			if end := <-ended; end != labtest.EndLocal || sim.Asked.Load() != asked+1 {
				t.Errorf("the parked machine was sent to %q after asking %d times", end, sim.Asked.Load()-asked)
			}
			off()
			s := labtest.Now(t, b)
			x, m := s.Boots[first], s.Machines[s.Boots[first].Machine]
			if x.State != lab.Failed || x.Strikes != lab.MaxStrikes || !strings.Contains(x.Reason, "the rung "+string(c.rung)) || !strings.Contains(x.Reason, "3 attempts") {
				t.Errorf("the boot is %s with %d strikes: %s", x.State, x.Strikes, x.Reason)
			}
			if m.Parked == "" || !strings.Contains(m.Parked, string(c.rung)) {
				t.Errorf("the machine is parked: %q", m.Parked)
			}
			if why := s.Why(s.Boots[second]); s.Boots[second].State != lab.Queued || !strings.Contains(why, "is parked") || !strings.Contains(why, "carte boot retry") {
				t.Errorf("the next boot is %s and waits: %s", s.Boots[second].State, why)
			}

			again := labtest.Say(t, b, lab.Retry{Boot: first}).Boots
			sim.Again = true
			off, _ = labtest.On(t, sim)
			for _, id := range []int64{again[len(again)-1].ID, second} {
				if x := labtest.Over(t, b, id); x.State != lab.Done || x.Strikes != 0 || id == first {
					t.Errorf("after the retry, boot %d is %s with %d strikes: %s", x.ID, x.State, x.Strikes, x.Reason)
				}
			}
			off()
			if got := labtest.FileRoot(t, sim.Disk.File, v.Bytes); got != v.Root {
				t.Errorf("the disk's root is %s, the version's %s", got, v.Root)
			}
		})
	}
}

// An agent that has laid a disk is there for the boot that comes next: nobody restarts the machine for that.
func TestBootAfterLay(t *testing.T) {
	b := labtest.New(t, netboot.Config{})
	labtest.Import(t, b, "deb", lab.FormDisk, labtest.Image(3<<20, 1))
	sim, name := labtest.Metal(t, b, 0, crashDisk), labtest.MetalName(0)
	laid := labtest.Say(t, b, lab.Queue{Machine: name, Stack: "deb", Lay: true}).Boots[0].ID
	asked := sim.Asked.Load()
	labtest.On(t, sim)
	if x := labtest.Over(t, b, laid); x.State != lab.Done {
		t.Fatalf("the disk is not laid: %s: %s", x.State, x.Reason)
	}
	x := labtest.Over(t, b, labtest.Boot(t, b, "deb", name))
	if x.State != lab.Done || x.Attempt != 1 || x.Strikes != 0 || sim.Asked.Load() > asked+2 { // for the agent, and for the disk
		t.Errorf("the next boot is %s at attempt %d with %d strikes after %d scripts: %s", x.State, x.Attempt, x.Strikes, sim.Asked.Load()-asked, x.Reason)
	}
}
