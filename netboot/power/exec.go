package power

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"carte/lab"
)

// execLimit is how long the operator's command may take.
const execLimit = 30 * time.Second

// Exec is the driver of machines that a command of the operator's switches: a smart
// plug, ipmitool, a relay. The command is m.Power.Exec with the verb (on, off,
// cycle, state) as its last argument; the environment holds CARTE_VERB,
// CARTE_MACHINE (the name) and CARTE_MAC (the first card). No shell is involved.
//
// Exit status 0 is success. For state it prints "on" or "off"; a command that does
// not know the verb may fail or print anything else, then the state is unknown.
type Exec struct {
	Limit time.Duration // 0: 30 s
}

// On runs the command with "on".
func (e Exec) On(ctx context.Context, m lab.Machine) error {
	_, err := e.run(ctx, m, "on")
	return err
}

// Off runs the command with "off".
func (e Exec) Off(ctx context.Context, m lab.Machine) error {
	_, err := e.run(ctx, m, "off")
	return err
}

// Cycle runs the command with "cycle".
func (e Exec) Cycle(ctx context.Context, m lab.Machine) error {
	_, err := e.run(ctx, m, "cycle")
	return err
}

// State runs the command with "state".
func (e Exec) State(ctx context.Context, m lab.Machine) (string, error) {
	out, err := e.run(ctx, m, "state")
	if ctx.Err() != nil {
		return StateUnknown, ctx.Err()
	}
	switch word := strings.ToLower(strings.TrimSpace(out)); {
	case err == nil && (word == StateOn || word == StateOff):
		return word, nil
	}
	return StateUnknown, nil
}

func (e Exec) run(ctx context.Context, m lab.Machine, verb string) (string, error) {
	if len(m.Power.Exec) == 0 {
		return "", fmt.Errorf("%s has the power driver exec and no command: carte machine set %s power=exec:COMMAND: %w", m.Label(), m.Label(), lab.ErrInvalid)
	}
	limit := e.Limit
	if limit == 0 {
		limit = execLimit
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	argv := append(append([]string{}, m.Power.Exec...), verb)
	cmd := exec.CommandContext(limited, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "CARTE_VERB="+verb, "CARTE_MACHINE="+m.Name)
	if len(m.MACs) > 0 {
		cmd.Env = append(cmd.Env, "CARTE_MAC="+string(m.MACs[0]))
	}
	// A group of its own, so that what a script started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case limited.Err() != nil:
		return "", fmt.Errorf("%q did not end in %v and was killed%s", argv, limit, said(&stdout, &stderr))
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("the power command of %s, %s, is not there: carte machine set %s power=exec:COMMAND: %w", m.Label(), argv[0], m.Label(), lab.ErrNotFound)
	case errors.Is(err, os.ErrPermission):
		return "", fmt.Errorf("the power command of %s, %s, may not be run: chmod +x %s: %w", m.Label(), argv[0], argv[0], lab.ErrRefused)
	case err != nil:
		return "", fmt.Errorf("%q: %w%s", argv, err, said(&stdout, &stderr))
	}
	return stdout.String(), nil
}

// said is the end of a command's output, as part of an error.
func said(stdout, stderr *bytes.Buffer) string {
	text := strings.TrimSpace(stderr.String() + "\n" + stdout.String())
	if text == "" {
		return ""
	}
	if n := len(text) - 500; n > 0 {
		text = "…" + strings.ToValidUTF8(text[n:], "")
	}
	return ": " + text
}
