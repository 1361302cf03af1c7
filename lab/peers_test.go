package lab

import (
	"fmt"
	"slices"
	"testing"
)

// An agent hears of the others that work on an image of its own boot, and of nobody else; who does not say where he may be
// asked, or works no more, is not named.
func TestPeers(t *testing.T) {
	b := newBench(t)
	b.must(AddMachine{Name: "vm2", Virtual: &Virtual{}})
	b.must(AddMachine{Name: "vm3", Virtual: &Virtual{}})
	boots := map[string]int64{"vm": b.queue("vm", "deb"), "metal": b.queue("metal", "deb"), "vm2": b.queue("vm2", "deb"), "vm3": b.queue("vm3", "tree")}
	keys := map[string]int{"vm": 1, "metal": 2, "vm2": 3, "vm3": 4}
	for name, id := range boots {
		b.take(id, Working, keys[name])
	}
	at := func(name string) Peer {
		return Peer{Addr: fmt.Sprintf("10.0.0.%d:4000", keys[name]), Pin: name + "'s pin", Token: name + "'s token"}
	}
	report := func(name string, p Peer) []Peer {
		return b.report(keys[name], Report{Boot: boots[name], Rung: RungHash, Peer: p}).Peers
	}
	named := func(who string, p Peer, want ...string) {
		t.Helper()
		var all []Peer
		for _, name := range want {
			x := at(name)
			x.Machine = b.machine(name).ID
			all = append(all, x)
		}
		got := report(who, p)
		for _, list := range [][]Peer{got, all} { // which comes first does not matter
			slices.SortFunc(list, func(a, b Peer) int { return int(a.Machine - b.Machine) })
		}
		if !slices.Equal(got, all) {
			t.Errorf("%s is told of %+v, want %+v", who, got, all)
		}
	}
	named("vm", at("vm"))
	named("metal", Peer{}, "vm") // it takes and does not give
	named("vm3", at("vm3"))      // another image
	named("vm2", at("vm2"), "vm")
	named("vm", at("vm"), "vm2")
	lie := at("metal")
	lie.Machine = b.machine("vm").ID // whose it is, the lab knows
	named("metal", lie, "vm", "vm2")
	named("vm", at("vm"), "metal", "vm2")

	named("metal", Peer{}, "vm", "vm2") // it gives no more
	named("vm", at("vm"), "vm2")
	b.must(Stop{Boot: boots["vm2"]})
	b.report(keys["vm2"], Report{Boot: boots["vm2"], Revoked: true})
	named("vm", at("vm"))
}

// Two virtual machines on QEMU's own network have the same address, which leads each to itself: they are not told of one
// another, whatever the port. Who gives nothing has no address to compare.
func TestPeersWithOneAddress(t *testing.T) {
	for _, c := range []struct {
		asker, other string
		want         int
	}{
		{"10.0.2.15:4000", "10.0.2.15:4000", 0},
		{"10.0.2.15:4000", "10.0.2.15:4001", 0},
		{"[fe80::1]:4000", "[fe80::1]:4001", 0},
		{"10.0.2.15:4000", "10.0.2.16:4000", 1},
		{"", "10.0.2.15:4000", 1},
		{"127.0.0.1:4000", "127.0.0.1:4001", 1}, // processes of one computer
	} {
		b := newBench(t)
		vm, metal := b.queue("vm", "deb"), b.queue("metal", "deb")
		b.take(vm, Working, 1)
		b.take(metal, Working, 2)
		b.report(2, Report{Boot: metal, Rung: RungHash, Peer: Peer{Addr: c.other, Pin: "p", Token: "t"}})
		if got := b.report(1, Report{Boot: vm, Rung: RungHash, Peer: Peer{Addr: c.asker}}).Peers; len(got) != c.want {
			t.Errorf("%q is told of %+v, want %d others", c.asker, got, c.want)
		}
	}
}

// However many work on an image, the list has an end.
func TestPeersAreNotTooMany(t *testing.T) {
	b := newBench(t)
	var last Reply
	for i := range MaxPeers + 3 {
		name := fmt.Sprintf("v%02d", i)
		b.must(AddMachine{Name: name, Virtual: &Virtual{}})
		id := b.queue(name, "deb")
		b.take(id, Working, i+1)
		last = b.report(i+1, Report{Boot: id, Rung: RungHash, Peer: Peer{Addr: fmt.Sprintf("10.0.0.%d:1", i+1), Pin: "p", Token: name}})
	}
	if len(last.Peers) != MaxPeers {
		t.Errorf("the last one is told of %d others, want %d", len(last.Peers), MaxPeers)
	}
	first := b.report(1, Report{Boot: b.now().SortedBoots()[0].ID, Rung: RungHash})
	if slices.Equal(first.Peers, last.Peers) {
		t.Error("the first one and the last one are told of the same others")
	}
}
