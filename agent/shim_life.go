package agent

import (
	"context"
	"encoding/json"
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
		err := shim.Run(ctx, task, shim.Options{
			Enter: b.Enter, Up: b.Up, Down: b.down, Leave: b.Leave,
			Changes: uppers.changes,
			Reboot:  func() error { return restartNow(ctx) },
			Console: console,
		})
		if err == nil {
			err = errDone
		}
		return err
	}}.Run(context.Background())
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
