package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"carte/lab"
)

// sendStage gives the server a second stage, which iPXE loads with the stack's own kernel.
func (c *client) sendStage(ctx context.Context, stage []byte) error {
	if len(stage) > lab.MaxStage {
		return fmt.Errorf("the second stage has %s, and %s is the most: %w", lab.Bytes(int64(len(stage))), lab.Bytes(lab.MaxStage), lab.ErrInvalid)
	}
	return c.patiently(ctx, "second stage", tries, func(ctx context.Context) error {
		return c.once(ctx, http.MethodPost, lab.PathStage, stage, func(io.Reader) error { return nil })
	})
}
