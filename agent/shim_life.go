package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"carte/agent/shim"
	"carte/lab"
)

// shimMemory is how much a shim may use before it collects its garbage harder: what it takes, an experiment lacks.
const shimMemory = 48 << 20

// Shim is the life of the process that spawnShim starts. It returns when there is nothing more to do beside the user's
// system, with the code to exit with.
func Shim() int {
	debug.SetMemoryLimit(shimMemory)
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	console := newBesideConsole()
	err := besideSystem(console)
	if err != nil {
		fmt.Fprintf(console, "carte: the shim ends: %v\n", err)
		return 1
	}
	return 0
}

// besideSystem waits for the user's init and lives beside it.
func besideSystem(console io.Writer) error {
	task, err := inheritTask()
	if err != nil {
		return fmt.Errorf("its task: %w", err)
	}
	uppers := inheritUppers(task)
	b, err := newBeside()
	if err != nil {
		return err
	}
	if err := waitForExec(); err != nil {
		return err
	}
	if err := b.Enter(); err != nil {
		return err
	}
	return group{b.Run, func(ctx context.Context) error {
		if !serves(task.Orders) {
			return keepAlone(ctx, b, task, console)
		}
		o := shim.Options{
			Enter: b.Enter, Up: b.Up, Down: b.down, Leave: b.Leave,
			Changes: uppers.changes,
			Reboot:  func() error { return restartNow(ctx) },
			Console: console,
		}
		o.Beside = func(ctx context.Context, say func(string, ...any)) error {
			if task.Note != "" {
				if err := noteBeside(task.Orders, task.Note, say); err != nil {
					say("%v", err)
				}
			}
			if task.Lease == nil {
				return nil
			}
			return keepLease(ctx, task.Lease, say)
		}
		err := shim.Run(ctx, task, o)
		if errors.Is(err, lab.ErrDenied) && task.Lease != nil { // the server has no more to do with this system, which still has its address
			fmt.Fprintf(console, "carte: the shim ends, and keeps the address: %v\n", err)
			return keepAlone(ctx, b, task, console)
		}
		if err == nil {
			err = errDone
		}
		return err
	}}.Run(context.Background())
}

// keepLease keeps the address that carte got for the user's system, for as long as that leaves it to carte.
func keepLease(ctx context.Context, text json.RawMessage, say func(string, ...any)) error {
	n, err := takeOver(text, say)
	if err == nil {
		err = n.keep(ctx)
	}
	if errors.Is(err, errTaken) { // it has said so
		err = nil
	}
	return err
}

// keepAlone does nothing else beside a system.
func keepAlone(ctx context.Context, b *beside, task shimTask, console io.Writer) error {
	return group{
		func(ctx context.Context) error {
			select {
			case <-b.down:
				b.Leave()
			case <-ctx.Done():
			}
			return errDone
		},
		func(ctx context.Context) error {
			err := keepLease(ctx, task.Lease, func(format string, args ...any) { fmt.Fprintf(console, "carte: "+format+"\n", args...) })
			return cmp.Or(err, errDone)
		},
	}.Run(ctx)
}

// inheritTask reads what spawnShim has left.
func inheritTask() (task shimTask, err error) {
	f := os.NewFile(shimTaskFD, "task")
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 16*lab.MaxMessage))
	if err != nil {
		return task, err
	}
	return task, json.Unmarshal(b, &task)
}

// waitForExec returns when process 1 has become the user's init, or has ended.
func waitForExec() error {
	f := os.NewFile(shimGateFD, "gate")
	defer f.Close()
	if _, err := io.Copy(io.Discard, f); err != nil {
		return fmt.Errorf("wait for the user's init: %w", err)
	}
	return nil
}
