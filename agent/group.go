package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

// A group is functions that run at the same time and end together. It is the only place of the agent that starts
// goroutines.
type group []func(context.Context) error

// errDone ends a group without an error: what the others do is no longer needed.
var errDone = errors.New("done")

// Run starts all functions and returns when all have returned. The first error, also a panic, ends the context of the
// others and is what Run returns; errDone counts as no error. When ctx ends first, its cause is returned.
func (g group) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for _, f := range g {
		all.Go(func() {
			if err := caught(ctx, f); err != nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	if err := context.Cause(ctx); err != errDone {
		return err
	}
	return nil
}

// A crash is a panic that was caught. Its Stack is for the log.
type crash struct {
	value any
	stack string
}

func (c *crash) Error() string { return fmt.Sprintf("the agent has a bug: %v", c.value) }

// caught runs f and turns a panic into an error, so that it can be told to the server.
func caught(ctx context.Context, f func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &crash{v, string(debug.Stack())}
		}
	}()
	return f(ctx)
}
