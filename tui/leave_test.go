package tui

import (
	"strings"
	"testing"

	"carte/lab"
)

// A screen that runs the lab asks before it cuts off virtual machines that are on, and boots under way; one that is only
// attached leaves at once.
func TestLeaveNamesWhatIsCutOff(t *testing.T) {
	on := func(power string, ids ...int64) lab.Snapshot {
		s := lab.Snapshot{Rev: 1, Machines: map[int64]lab.Machine{}, Live: map[int64]lab.Live{}, Boots: map[int64]lab.Boot{}}
		for _, id := range ids {
			s.Machines[id] = lab.Machine{ID: id, Name: "vm-" + string('0'+rune(id)), Standing: lab.Adopted, Virtual: &lab.Virtual{}}
			s.Live[id] = lab.Live{Machine: id, Power: power}
			s.Boots[id] = lab.Boot{ID: id, Machine: id, State: lab.Done}
		}
		return s
	}
	real := on("on", 1)
	real.Machines[2] = lab.Machine{ID: 2, Name: "nuc-2", Standing: lab.Adopted}
	real.Boots[7] = lab.Boot{ID: 7, Machine: 2, State: lab.Working}
	starting := on("off", 1)
	starting.Boots[7] = lab.Boot{ID: 7, Machine: 1, State: lab.Starting}
	for _, c := range []struct {
		s    lab.Snapshot
		want string
	}{
		{on("off", 1), ""},
		{on("on", 1), "vm-1 runs and will be cut off"},
		{on("on", 1, 2), "vm-1, vm-2 run and will be cut off"},
		{on("on", 1, 2, 3, 4), "4 virtual machines run and will be cut off"},
		{real, "vm-1 runs and will be cut off; boots going on: 1; the next carte takes them up again"},
		{starting, "boots going on: 1; the next carte takes them up again"},
	} {
		if got := CutOff(c.s); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
		m, _ := newTest(t, c.s, 120, 40, Options{Leave: CutOff})
		if left := m.tap("q"); left != (c.want == "") || !left && !strings.Contains(m.View(), "q again to leave: "+c.want) {
			t.Errorf("%q: q left: %v\n%s", c.want, left, m.View())
		}
		if m, _ := newTest(t, c.s, 80, 24, Options{}); !m.tap("q") {
			t.Errorf("%q: an attached screen asks", c.want)
		}
	}
}

// What would be lost is asked for with what was chosen.
func TestPowerNamesWhatWasChosen(t *testing.T) {
	m, _ := newTest(t, bench(), 120, 40, Options{})
	m.sel("nuc-2")
	m.tap("p")
	m.typeText("off")
	m.tap("enter")
	if want := "enter or p again to power off: boot 77 (working) on nuc-2 ends; any other key: no"; !strings.Contains(m.View(), want) {
		t.Errorf("it does not ask %q:\n%s", want, m.View())
	}
}
