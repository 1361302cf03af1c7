package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"carte/lab"
)

// checkGoal refuses what a boot never reaches.
func checkGoal(goal string) error {
	if _, ok := lab.StepOf(lab.Rung(goal)); ok || slices.Contains(bootStates, lab.State(goal)) {
		return nil
	}
	return fmt.Errorf("a boot never is %q; wait for one of %s: %w", goal, strings.Join(bootGoals(), ", "), lab.ErrInvalid)
}

var bootStates = []lab.State{lab.Queued, lab.Starting, lab.Working, lab.Handover, lab.Running, lab.Done, lab.Failed, lab.Revoked}

// reached says whether a boot is, or was in this attempt, where somebody waits for it to be. A boot that is done has
// reached all.
func reached(b lab.Boot, goal string) bool {
	if string(b.State) == goal || b.State == lab.Done && goal != string(lab.Failed) && goal != string(lab.Revoked) {
		return true
	}
	if _, ok := lab.StepOf(lab.Rung(goal)); ok {
		return b.Rung() != "" && b.Rung().Reached(lab.Rung(goal))
	}
	// States that a boot has left behind.
	life := []lab.State{lab.Queued, lab.Starting, lab.Working, lab.Handover, lab.Running}
	at, want := slices.Index(life, b.State), slices.Index(life, lab.State(goal))
	return want >= 0 && at > want
}

// ended is a boot that is over and did not come where it should.
type ended struct {
	b     lab.Boot
	goal  string // that somebody waited for
	cause string
	fix   string
}

func (e *ended) Error() string {
	text := fmt.Sprintf("boot %d %s", e.b.ID, e.b.State)
	if e.b.Reason != "" {
		text += ": " + e.b.Reason
	}
	if e.b.State == lab.Done && e.goal != "" {
		text = fmt.Sprintf("boot %d is done; it does not become %s any more", e.b.ID, e.goal)
	}
	if e.cause != "" && !strings.Contains(text, e.cause) {
		text += "\nlikely cause: " + e.cause
	}
	if e.fix != "" {
		text += "\nwhat to do: " + e.fix
	}
	return text
}

// Fix names the command that tries it again; what went well needs none.
func (e *ended) Fix() []string {
	if e.b.State == lab.Done {
		return nil
	}
	return []string{fmt.Sprintf("carte boot retry %d", e.b.ID)}
}

// comeBack is how long a command that waits bears a lab that does not answer: it may be started anew.
const comeBack = 30 * time.Second

// again calls do once more, until the lab answers it or comeBack is over.
func (c *call) again(ctx context.Context, do func() error) error {
	err := do()
	if !errors.Is(err, lab.ErrUnreachable) {
		return err
	}
	c.note("the lab does not answer; waiting %s for it to come back", comeBack)
	giveUp := time.After(comeBack)
	for errors.Is(err, lab.ErrUnreachable) {
		select {
		case <-time.After(comeBack / 100):
			err = do()
		case <-giveUp:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// watch is the desk's, through a lab that is started anew: that one counts its revisions from the start.
func (c *call) watch(ctx context.Context, d lab.Desk, after uint64) (s lab.Snapshot, err error) {
	err = c.again(ctx, func() error {
		s, err = d.Watch(ctx, after)
		after = 0
		return err
	})
	return s, err
}

// waiting is what flags say of a wait: for what, if at all, and how long at most, 0 for ever.
type waiting struct {
	goal string
	most time.Duration
}

func (w *waiting) flags(f *pflag.FlagSet, goal, most string) {
	f.StringVar(&w.goal, "wait", "", goal)
	w.limit(f, most)
}

func (w *waiting) limit(f *pflag.FlagSet, most string) {
	f.DurationVar(&w.most, "timeout", 0, "wait at most so long, such as "+most+" (default: for ever)")
}

// check refuses a limit of nothing.
func (w waiting) check() error {
	switch {
	case w.most != 0 && w.goal == "":
		return fmt.Errorf("--timeout is for --wait: %w", lab.ErrInvalid)
	case w.most < 0:
		return fmt.Errorf("--timeout %s: a time cannot be negative: %w", w.most, lab.ErrInvalid)
	}
	return nil
}

// within is ctx with an end, unless most is 0.
func within(ctx context.Context, most time.Duration) (context.Context, context.CancelFunc) {
	if most > 0 {
		return context.WithTimeout(ctx, most)
	}
	return context.WithCancel(ctx)
}

// waitBoot waits until a boot has reached its goal, and tells of each rung on the way; timeout 0 is for ever.
func (c *call) waitBoot(ctx context.Context, d lab.Desk, id int64, goal string, timeout time.Duration) (b lab.Boot, s lab.Snapshot, err error) {
	ctx, cancel := within(ctx, timeout)
	defer cancel()
	for told := 0; ; {
		next, err := c.watch(ctx, d, s.Rev)
		if errors.Is(err, context.DeadlineExceeded) {
			return b, s, fmt.Errorf("boot %d did not come to %s within %s; it is %s: %w", id, goal, timeout, whereIs(b), err)
		}
		if err != nil {
			return b, s, err
		}
		s = next
		var ok bool
		if b, ok = s.Boots[id]; !ok {
			return b, s, fmt.Errorf("boot %d: %w", id, lab.ErrNotFound)
		}
		told = c.tellRungs(b, told)
		switch {
		case reached(b, goal):
			return b, s, nil
		case b.State.Final():
			e := &ended{b: b, goal: goal}
			e.cause, e.fix = b.Cause(s.Machines[b.Machine])
			return b, s, e
		}
	}
}

// tellRungs tells a person of the rungs that are new, and returns how many were told.
func (c *call) tellRungs(b lab.Boot, told int) int {
	if !c.term.Progress {
		return len(b.Climbs)
	}
	rungs := rungsOf(b, c.term.Now())
	for ; told < len(rungs); told++ {
		switch r := rungs[told]; {
		case r.SoFar: // how long it takes is not known yet
			c.note("boot %d  %s", b.ID, r.Name)
		case !r.Inferred:
			c.note("boot %d  %-9s %s", b.ID, r.Name, took(r.Seconds))
		}
	}
	return told
}

func whereIs(b lab.Boot) string {
	if r := b.Rung(); r != "" {
		return fmt.Sprintf("%s on the rung %s", b.State, r)
	}
	return string(b.State)
}

// follow waits for a boot and shows it.
func (c *call) follow(ctx context.Context, d desk, id int64, w waiting) error {
	if err := checkGoal(w.goal); err != nil {
		return err
	}
	if !d.running {
		return fmt.Errorf("no lab runs, and nothing comes to pass without one; carte serve starts one: %w", lab.ErrUnreachable)
	}
	b, s, err := c.waitBoot(ctx, d, id, w.goal, w.most)
	if err != nil {
		var e *ended
		if errors.Is(err, context.Canceled) && !b.State.Final() {
			return &kept{err, fmt.Sprintf("boot %d goes on; carte boot stop %d stops it", id, id)}
		}
		if errors.As(err, &e) && c.json { // the document too: it has the rungs
			return errors.Join(c.showBoot(s, b), err)
		}
		return err
	}
	return c.showBoot(s, b)
}

// machineGoals are the words of stateOf and of the power driver.
var machineGoals = []string{"unknown", "adopted", "ignored", "queued", "starting", "working", "handover", "running", "parked", "idle", "on", "off", "agent"}

// waitMachine waits until a machine is in a state; one that does not exist yet may come.
func (c *call) waitMachine(ctx context.Context, d lab.Desk, name, goal string, timeout time.Duration) error {
	if !slices.Contains(machineGoals, goal) {
		return fmt.Errorf("a machine never is %q; wait for one of %s: %w", goal, strings.Join(machineGoals, ", "), lab.ErrInvalid)
	}
	look := ctx // the first is not hurried: what is said of the machine in the end must have been seen
	ctx, cancel := within(ctx, timeout)
	defer cancel()
	var rev uint64
	state := "not there"
	for {
		s, err := c.watch(look, d, rev)
		look = ctx
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("%s was not %s within %s; it is %s: %w", name, goal, timeout, state, err)
		}
		if err != nil {
			return err
		}
		rev = s.Rev
		m, err := s.Find(name)
		if err != nil {
			if goal != "unknown" && goal != "adopted" {
				return err
			}
			continue
		}
		state = stateOf(s, m)
		live := s.Live[m.ID]
		_, busy := s.Active(m.ID)
		if state == goal || string(m.Standing) == goal || live.Power == goal || goal == "agent" && live.Agent || goal == "idle" && !busy && state != "queued" && state != "parked" {
			return c.show(list{doc: machineOf(s, m), names: []string{m.Label()}, rows: [][]string{{m.Label(), state}}})
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
