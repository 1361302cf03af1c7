package agent

import (
	"context"
	"errors"
	"time"

	"carte/agent/wire"
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
	began, told, answered := time.Now(), time.Time{}, 0
	err := wire.Patiently(ctx, c.pause, 40*c.pause, func() error { return once(ctx) }, func(err error) (enough bool) {
		if errors.Is(err, errAnswered) {
			if answered++; answered == limit {
				return true
			}
		}
		if time.Since(told) > 30*time.Second {
			told = time.Now()
			c.voice.say("%s: %v; it is tried again until it works", what, err)
		}
		return false
	})
	if err == nil && !told.IsZero() {
		c.voice.say("%s: the server is back after %v", what, time.Since(began).Round(time.Second))
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error { return wire.Sleep(ctx, d) }
