package power

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"carte/lab"
)

// orderLimit is how long a driver may work on one order.
const orderLimit = 60 * time.Second

// Desk is what Runner needs of the lab.
type Desk interface {
	Watch(ctx context.Context, after uint64) (lab.Snapshot, error)
	Powered(ctx context.Context, p lab.Powered) error
}

// Runner carries out the power orders in the lab's snapshot, each machine's one
// after the other, different machines' side by side.
type Runner struct {
	Lab    Desk
	Driver lab.PowerDriver
	Log    *slog.Logger
}

// Run works until ctx ends or the lab cannot be written. It tells the lab once
// about every machine it meets whether that is on, where the driver can tell.
func (r *Runner) Run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var wg sync.WaitGroup
	defer wg.Wait()

	met := map[int64]bool{}
	busy := map[int64]bool{}
	over := make(chan done)
	snapshots := make(chan lab.Snapshot)
	wg.Go(func() { fail(r.watch(ctx, snapshots)) })

	var s lab.Snapshot
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case next := <-snapshots:
			s = later(s, next)
		case d := <-over:
			// With the snapshot that has the outcome; an older one still holds the order
			// and would have it carried out twice.
			s = later(s, d.after)
			delete(busy, d.machine)
		}
		for id, m := range s.Machines {
			order := s.Live[id].Order
			if busy[id] || m.Standing != lab.Adopted || order == "" && met[id] {
				continue
			}
			met[id], busy[id] = true, true
			wg.Go(func() {
				after, err := r.carry(ctx, m, order)
				if err != nil {
					fail(err)
				}
				select {
				case over <- done{id, after}:
				case <-ctx.Done():
				}
			})
		}
	}
}

// done says that a machine's order was carried out, and a snapshot that knows it.
type done struct {
	machine int64
	after   lab.Snapshot
}

func later(a, b lab.Snapshot) lab.Snapshot {
	if b.Rev > a.Rev {
		return b
	}
	return a
}

func (r *Runner) watch(ctx context.Context, snapshots chan<- lab.Snapshot) error {
	var rev uint64
	for {
		s, err := r.Lab.Watch(ctx, rev)
		if err != nil {
			return err
		}
		rev = s.Rev
		select {
		case snapshots <- s:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// carry carries out one order, or only looks when it is empty, tells the lab, and
// returns a snapshot from after that. A driver's error is told, not returned.
func (r *Runner) carry(ctx context.Context, m lab.Machine, order string) (lab.Snapshot, error) {
	limited, cancel := context.WithTimeout(ctx, orderLimit)
	defer cancel()
	err := r.obey(limited, m, order)
	state, stateErr := r.Driver.State(limited, m)
	if ctx.Err() != nil {
		return lab.Snapshot{}, ctx.Err()
	}
	if order != "" || state != StateUnknown || stateErr != nil {
		if err == nil { // else it would often be the same sentence again
			err = stateErr
		}
		p := lab.Powered{Machine: m.ID, Order: order, State: state, Err: err}
		if err := r.Lab.Powered(ctx, p); err != nil {
			return lab.Snapshot{}, err
		}
	}
	if order != "" {
		r.Log.Info(outcome(m, order, state, err))
	}
	return r.Lab.Watch(ctx, 0)
}

// outcome says in words what came of an order.
func outcome(m lab.Machine, order, state string, err error) string {
	came := "sent"
	switch {
	case err != nil:
		came = lab.Words(err)
	case state != StateUnknown:
		came = state
	}
	return fmt.Sprintf("power: %s %s: %s", m.Label(), order, came)
}

func (r *Runner) obey(ctx context.Context, m lab.Machine, order string) error {
	switch order {
	case "":
		return nil
	case "on":
		return r.Driver.On(ctx, m)
	case "off":
		return r.Driver.Off(ctx, m)
	case "cycle":
		return r.Driver.Cycle(ctx, m)
	}
	return fmt.Errorf("power order %q is not on, off or cycle: %w", order, lab.ErrInvalid)
}
