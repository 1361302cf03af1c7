// Command carte-shim is carte's shim for a system that carte's agent did not start: it is part of the image, and a boot
// script of that system starts it with a file that says where the server is, as JSON: {"server": "https://ADDRESS:PORT",
// "pin": "SHA-256 of its certificate", "token": "single-use"}. On Linux all three may be on the kernel's command line instead.
//
// What it cannot do on a system it says by the name of the clause: carte-shim -offers.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"carte/agent/shim"
)

func main() {
	offers := flag.Bool("offers", false, "say which clauses are kept on this system, and end")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "carte-shim [-offers] [FILE]    FILE says where the server is; without one, the kernel's command line does")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *offers {
		for _, o := range shim.Offers {
			fmt.Printf("%-12s %s\n", o.Clause, map[bool]string{true: "offered", false: "not offered"}[shim.Offered(o.Clause, runtime.GOOS)])
		}
		return
	}
	if err := run(flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "carte-shim:", err)
		os.Exit(1)
	}
}

func run(file string) error {
	task, err := read(file)
	if err != nil {
		return err
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	down, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	err = shim.Run(ctx, task, shim.Options{
		Down: down.Done(), Leave: cancel, Console: os.Stdout,
		Reboot: func() error { return exec.Command("/sbin/reboot").Run() },
	})
	if errors.Is(err, context.Canceled) {
		return nil // the system goes down, and all is home
	}
	return err
}

// read returns the task in a file, or on the kernel's command line.
func read(file string) (t shim.Task, err error) {
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return t, err
		}
		d := json.NewDecoder(io.LimitReader(bytes.NewReader(b), 1<<20))
		d.DisallowUnknownFields()
		if err := d.Decode(&t); err != nil {
			return t, fmt.Errorf("%s: %w", file, err)
		}
		return t, nil
	}
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return t, fmt.Errorf("there is no kernel command line to look at (%w); name a file: carte-shim FILE", err)
	}
	return shim.FromCommandLine(strings.TrimSpace(string(b)))
}
