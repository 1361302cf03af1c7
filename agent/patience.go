package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// How often something is tried while the server answers and still gives nothing. A server that does not answer is
// waited for without end.
const (
	forever = 0
	tries   = 20
)

// patiently repeats once until it succeeds, fails for good, or ctx ends. limit is how often a server may answer and
// fail; forever knows no limit. What goes wrong is said when it begins and every half minute.
func (c *client) patiently(ctx context.Context, what string, limit int, once func(context.Context) error) error {
	began, told, pause := time.Now(), time.Time{}, c.pause
	for answered := 0; ; {
		err := once(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !errors.Is(err, errAway) {
			if !told.IsZero() && err == nil {
				c.voice.say("%s: the server is back after %v", what, time.Since(began).Round(time.Second))
			}
			return err
		}
		if errors.Is(err, errAnswered) {
			if answered++; answered == limit {
				return err
			}
		}
		if time.Since(told) > 30*time.Second {
			told = time.Now()
			c.voice.say("%s: %v; it is tried again until it works", what, err)
		}
		if err := sleep(ctx, pause/2+rand.N(pause)); err != nil {
			return err
		}
		pause = min(2*pause, 40*c.pause)
	}
}

// sleep waits, or returns the cause of ctx's end.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
