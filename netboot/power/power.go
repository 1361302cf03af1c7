// Package power switches machines: one driver a file, picked for each machine by
// name. It carries out the orders that the lab has written down and tells the lab
// what came of them.
//
// It refuses to know why a machine is switched: no boots, no queue, no rungs. A
// driver that cannot tell whether a machine is on says so, and never guesses.
package power

import (
	"context"
	"fmt"

	"carte/lab"
)

// What a driver's State returns.
const (
	StateOn      = "on"
	StateOff     = "off"
	StateUnknown = "" // nobody can tell
)

// Set is the table of drivers by the name in lab.Power.Driver: "qemu", "wol",
// "exec", "manual". It is a driver itself, which picks by machine.
type Set map[string]lab.PowerDriver

var _ lab.PowerDriver = Set{}

func (s Set) pick(m lab.Machine) (lab.PowerDriver, error) {
	d, ok := s[m.Power.Driver]
	if !ok {
		return nil, fmt.Errorf("%s has the power driver %q, which this carte does not have: carte machine set %s power=manual: %w",
			m.Label(), m.Power.Driver, m.Label(), lab.ErrInvalid)
	}
	return d, nil
}

// On switches m on. It is no error when it is on already.
func (s Set) On(ctx context.Context, m lab.Machine) error {
	d, err := s.pick(m)
	if err != nil {
		return err
	}
	return d.On(ctx, m)
}

// Off switches m off at once, without asking its system. It is no error when it is
// off already.
func (s Set) Off(ctx context.Context, m lab.Machine) error {
	d, err := s.pick(m)
	if err != nil {
		return err
	}
	return d.Off(ctx, m)
}

// Cycle switches m off where it is on, and on.
func (s Set) Cycle(ctx context.Context, m lab.Machine) error {
	d, err := s.pick(m)
	if err != nil {
		return err
	}
	return d.Cycle(ctx, m)
}

// State returns one of the State constants.
func (s Set) State(ctx context.Context, m lab.Machine) (string, error) {
	d, err := s.pick(m)
	if err != nil {
		return StateUnknown, err
	}
	return d.State(ctx, m)
}

// An Instruction is the error of a driver that needs a person: what to do, as a
// sentence for them. It is refused, not failed: carte has done all it can.
type Instruction string

func (i Instruction) Error() string { return string(i) }

// Is makes an instruction count as lab.ErrRefused.
func (i Instruction) Is(target error) bool { return target == lab.ErrRefused }

// Manual is the driver of machines that a person switches.
type Manual struct{}

// On asks for the button.
func (Manual) On(_ context.Context, m lab.Machine) error {
	return Instruction("switch " + m.Label() + " on, with network boot first in its firmware's order")
}

// Off asks for the button.
func (Manual) Off(_ context.Context, m lab.Machine) error {
	return Instruction("switch " + m.Label() + " off: hold its power button")
}

// Cycle asks for the button, twice.
func (Manual) Cycle(_ context.Context, m lab.Machine) error {
	return Instruction("restart " + m.Label() + ", with network boot first in its firmware's order")
}

// State is always unknown.
func (Manual) State(context.Context, lab.Machine) (string, error) { return StateUnknown, nil }
