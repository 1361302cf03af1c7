package agent

import (
	"context"
	"fmt"

	"carte/lab"
)

// unserved is why a kernel does not let a layer be read before all of it is there: it has no FUSE, or no loop devices. The server
// knows it of most kernels, and does not give the clause; under the others it shows here.
type unserved struct{ error }

func (u *unserved) Unwrap() error { return u.error }

// bring lays all of a layer that the kernel cannot serve, before anybody mounts it: the system waits, as without the clause. Where
// there is no boot without it, it refuses.
func (l *lazyLife) bring(ctx context.Context, d *lazyDevice, why error, ready func(node string)) error {
	if l.task.Orders.Compose.Requires(lab.Lazy) {
		return fmt.Errorf("clause lazy is required and cannot be given: under Linux %s, %w: %w", release(), why, lab.ErrRefused)
	}
	text := fmt.Sprintf("clause lazy is not given: under Linux %s, %v; the system starts when all of %s is there", release(), why, d.part.Ref)
	l.say("%s", text)
	l.tell(lazyWord{Said: text})
	if err := d.load(ctx); err != nil {
		return err
	}
	ready(d.plain.Name())
	return l.whole(ctx)
}
