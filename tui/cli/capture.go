package cli

import (
	"context"
	"fmt"
	"os/user"

	"carte/lab"
)

// captureOf queues the capture of a machine's disk and, when asked, waits for it.
func (c *call) captureOf(ctx context.Context, v lab.QueueCapture, base string, wait waiting) error {
	if ref, err := lab.ParseRef(v.Image); err != nil || ref.Version != 0 {
		return fmt.Errorf("%q: a capture makes the next version of an image; its name has no version, --base says what it was made from: %w", v.Image, lab.ErrInvalid)
	}
	if me, err := user.Current(); err == nil {
		v.Author = me.Username
	}
	return c.begin(ctx, wait, func(d desk) (lab.Boot, lab.Snapshot, error) {
		s, err := d.Watch(ctx, 0)
		if err != nil {
			return lab.Boot{}, s, err
		}
		if base != "" {
			from, err := baseOf(s, v.Image, base)
			if err != nil {
				return lab.Boot{}, s, err
			}
			v.Base = from.Number
		}
		cut := cutOff(s, v.Machine)
		b, s, err := queueBoot(ctx, d, v)
		if err == nil && cut != "" {
			c.note("%s", cut)
		}
		return b, s, err
	})
}

// cutOff says that a boot which begins now restarts a machine on which a user's system runs, as far as carte can know;
// empty where nothing runs, or where the boot waits for another one.
func cutOff(s lab.Snapshot, machine string) string {
	m, err := s.Find(machine)
	if err != nil || len(s.QueueOf(m.ID)) > 0 {
		return ""
	}
	last, ok := s.LastBootOf(m.ID)
	if !ok || last.State != lab.Done || last.Plan.Capture != nil {
		return ""
	}
	what := fmt.Sprintf("%s (boot %d)", last.Plan.Stack, last.ID)
	live := s.Live[m.ID]
	switch power := live.Power; {
	case live.Agent: // carte's own agent waits there
	case power == "on":
		return fmt.Sprintf("%s is running %s: it is restarted, and that system cut off as with a power cut; shut it down first to capture it clean", m.Label(), what)
	case power == "" && m.Virtual == nil:
		return fmt.Sprintf("if %s is running %s still, it is restarted, and that system cut off as with a power cut; shut it down first to capture it clean", m.Label(), what)
	}
	return ""
}
