package netboot

import (
	"context"
	"sync"
	"time"
)

// together runs all of it at once and returns when all of it has ended: at the first error, or when the context ends.
// The first error is returned; a context that ended is one.
func together(ctx context.Context, all ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, run := range all {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// sayings keeps what a machine says every second from filling the log. The zero value is ready.
type sayings struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// fresh says whether the text was not said within that time, and notes that it is now.
func (s *sayings) fresh(text string, within time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.last[text]) < within {
		return false
	}
	if s.last == nil || len(s.last) > 512 {
		s.last = map[string]time.Time{}
	}
	s.last[text] = time.Now()
	return true
}
