package tui

import (
	"reflect"
	"testing"

	"carte/lab"
)

// B boots with the values that the machine's last boot was given, and its command says them. What the stack no longer has
// is left out, as is what it has by itself.
func TestBootAgainTakesTheSameParameters(t *testing.T) {
	for _, c := range []struct {
		booted, has, set map[string]string
		command          string
	}{
		{map[string]string{"pages": "5"}, map[string]string{"pages": "0"}, map[string]string{"pages": "5"}, "carte boot demo --on vm-1 --set pages=5"},
		{map[string]string{"pages": "", "cpu": "1 x"}, map[string]string{"pages": "0", "cpu": "2"}, map[string]string{"pages": "", "cpu": "1 x"}, "carte boot demo --on vm-1 --set 'cpu=1 x' --set pages="},
		{map[string]string{"pages": "0"}, map[string]string{"pages": "0"}, nil, "carte boot demo --on vm-1"},
		{map[string]string{"gone": "5"}, map[string]string{"pages": "0"}, nil, "carte boot demo --on vm-1"},
	} {
		s := bench()
		st := s.Stacks["demo"]
		st.Params = c.has
		s.Stacks["demo"] = st
		s.Boots[200] = lab.Boot{ID: 200, Machine: 6, State: lab.Done, Plan: lab.Plan{Stack: "demo", Params: c.booted}}
		m, desk := newTest(t, s, 80, 24, Options{})
		m.sel("vm-1")
		m.tap("B")
		want := []lab.Verb{lab.Queue{Machine: "vm-1", Stack: "demo", Set: c.set}}
		if !reflect.DeepEqual(desk.said, want) || m.command != c.command {
			t.Errorf("said %+v (%s), want %+v (%s)", desk.said, m.command, want, c.command)
		}
	}
}
