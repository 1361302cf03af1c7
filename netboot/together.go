package netboot

import (
	"context"
	"sync"
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
