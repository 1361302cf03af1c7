package cli

import (
	"context"
	"fmt"
	"os/user"
	"time"

	"carte/lab"
)

// captureOf queues the capture of a machine's disk and, when asked, waits for it.
func (c *call) captureOf(ctx context.Context, v lab.QueueCapture, base, wait string, timeout time.Duration) error {
	if ref, err := lab.ParseRef(v.Image); err != nil || ref.Version != 0 {
		return fmt.Errorf("%q: a capture makes the next version of an image; its name has no version, --base says what it was made from: %w", v.Image, lab.ErrInvalid)
	}
	if me, err := user.Current(); err == nil {
		v.Author = me.Username
	}
	return c.begin(ctx, wait, timeout, func(d desk) (lab.Boot, lab.Snapshot, error) {
		if base != "" {
			s, err := d.Watch(ctx, 0)
			if err != nil {
				return lab.Boot{}, s, err
			}
			from, err := baseOf(s, v.Image, base)
			if err != nil {
				return lab.Boot{}, s, err
			}
			v.Base = from.Number
		}
		return queueBoot(ctx, d, v)
	})
}
