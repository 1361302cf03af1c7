package shim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"carte/lab"
)

// runName is the program of a project.
const runName = "run"

// errSaid ends a program that has said that it is over.
var errSaid = errors.New("it said that it is over")

// program starts the project's program when that is given, and waits until it is over. last is the line that ends the boot,
// which the server is to hear when all has come home.
func (s *life) program() (last string, ran bool) {
	if !s.Orders.Compose.Gives(lab.Autostart) {
		return "", false
	}
	if s.Up != nil {
		how, err := s.Up(s.over)
		if err != nil {
			if s.over.Err() == nil {
				s.tell("it is not known whether the system is up: %v", err)
			}
		} else {
			s.tell("the system is up: %s", how)
		}
	}
	if s.over.Err() != nil {
		return "", false
	}
	path := filepath.Join(s.Root, lab.ProjectPlace, runName)
	err := s.Enter()
	if err == nil {
		_, err = os.Stat(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		s.tell("clause autostart is given, and there is no %s/%s: nothing is started", lab.ProjectPlace, runName)
		return "", false
	}
	if err != nil {
		return "::carte fail " + lab.Words(err), true
	}
	return s.run(path), true
}

// run runs the program to its end.
func (s *life) run(path string) (last string) {
	ctx, cancel := context.WithCancelCause(s.over)
	defer cancel(nil)
	h := &hearing{to: s.lines, over: func() { time.AfterFunc(s.Grace, func() { cancel(errSaid) }) }}
	split := &splitter{to: h.line}
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir, cmd.Env = filepath.Dir(path), s.environment()
	cmd.Stdout, cmd.Stderr = split, split
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = s.Grace
	s.tell("%s/%s starts", lab.ProjectPlace, runName)
	if err := cmd.Start(); err != nil {
		if errors.Is(err, syscall.ENOEXEC) {
			err = fmt.Errorf("%w: it is no program of this machine, and has no line #!/bin/sh", err)
		}
		return "::carte fail " + err.Error()
	}
	err := cmd.Wait()
	if len(split.part) > 0 {
		split.flush()
	}
	if ctx.Err() != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it started and left behind
	}
	return s.verdict(h.said(), context.Cause(ctx), cmd.ProcessState, err)
}

// verdict is the last line of a program's boot.
func (s *life) verdict(said string, cause error, state *os.ProcessState, err error) string {
	code := state.ExitCode()
	words := fmt.Sprintf("exit %d", code)
	if w, ok := state.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		words = fmt.Sprintf("ended by signal %d (%v)", w.Signal(), w.Signal())
	}
	if err != nil && state.Success() && !errors.Is(err, exec.ErrWaitDelay) && cause == nil {
		words += ": " + err.Error()
	}
	s.tell("%s/%s: %s", lab.ProjectPlace, runName, words)
	switch {
	case strings.HasPrefix(said, "::carte fail"):
		return said
	case cause == errSaid:
		return said
	case cause == errRecalled:
		return ""
	case cause == errDown:
		return "::carte fail the system went down while " + runName + " was at work: " + words
	case code != 0:
		return "::carte fail " + words
	}
	return cmp.Or(said, "::carte done "+words)
}

// environment is what the program is told.
func (s *life) environment() []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		"TERM=dumb",
		fmt.Sprintf("CARTE_BOOT=%d", s.Orders.Boot),
		"CARTE_MACHINE=" + s.Orders.Machine,
		"CARTE_STACK=" + s.Orders.Stack,
	}
	for _, name := range slices.Sorted(maps.Keys(s.Orders.Compose.Params)) {
		env = append(env, "CARTE_PARAM_"+variable(name)+"="+s.Orders.Compose.Params[name])
	}
	return env
}

// variable is a parameter's name as a shell takes it: huge-pages is HUGE_PAGES.
func variable(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_':
			return r
		}
		return '_'
	}, name)
}

// hearing hands on what a program says, but for its last word, which has to wait until all has come home.
type hearing struct {
	to   *lines
	over func() // called once, at the last word

	mu   sync.Mutex
	last string
}

func (h *hearing) line(text string) {
	text = strings.TrimRight(text, "\r")
	if !isSaying(text) {
		h.to.add(text)
		return
	}
	if s, _, err := lab.ParseSaying(lab.Clean(text)); err == nil && (s.Word == "done" || s.Word == "fail") {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.last == "" {
			h.last = strings.TrimSpace("::carte " + s.Word + " " + s.Text)
			h.over()
		}
		return
	}
	h.to.add(text)
}

func (h *hearing) said() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}
