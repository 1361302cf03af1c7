package store

import (
	"context"
	"fmt"

	"carte/lab"
)

var _ lab.Typist = (*Desk)(nil)

// Type writes keys to a machine's serial console.
func (d *Desk) Type(ctx context.Context, machine string, keys []byte) error {
	s, err := d.Lab.Watch(ctx, 0)
	if err != nil {
		return err
	}
	m, err := s.Find(machine)
	switch {
	case err != nil:
		return err
	case m.Virtual == nil:
		return fmt.Errorf("%s is a real machine, and carte reaches only the serial lines of virtual ones; sit down at it, or at its own serial line: %w", m.Label(), lab.ErrUnreachable)
	case d.Keys == nil:
		return fmt.Errorf("no lab runs, so no virtual machine does: %w", lab.ErrUnreachable)
	}
	return d.Keys(m, keys)
}
