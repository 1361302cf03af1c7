package lab

import "context"

// A PowerDriver switches machines. The operator may be one too.
type PowerDriver interface {
	On(ctx context.Context, m Machine) error
	Off(ctx context.Context, m Machine) error
	Cycle(ctx context.Context, m Machine) error
	State(ctx context.Context, m Machine) (string, error) // on, off, or empty: nobody can tell
}
