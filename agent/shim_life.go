package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"carte/lab"
)

// shimMemory is how much a shim may use before it collects its garbage harder: what it takes, an experiment lacks.
const shimMemory = 48 << 20

// Shim is the life of the process that spawnShim starts. It returns when there is nothing more to do beside the user's
// system, with the code to exit with.
func Shim() int {
	debug.SetMemoryLimit(shimMemory)
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	task, err := inheritTask()
	if err == nil {
		err = waitForExec()
	}
	if err != nil {
		fmt.Printf("carte: the shim cannot begin: %v\n", err)
		return 1
	}
	_ = task
	return 0
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
