package action

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"carte/lab"
)

// boots are the actions that begin and end a boot.
var boots = []Action{
	{
		ID: "boot.queue", Words: "boot", Keys: []string{"b"}, Where: []Place{Machines, Stacks, Compose},
		Help: "boot a machine with a stack",
		Ask: func(t Target) string {
			if onStack(t) {
				return "machine that boots " + t.Stack.Name
			}
			return "stack for " + machine(t)
		},
		Choices: func(t Target) []string {
			if onStack(t) {
				return adoptedNames(t)
			}
			return stackNames(t)
		},
		Enabled: func(t Target) (bool, string) {
			switch {
			case onStack(t) && Unsaved(t):
				return false, "save it first: s"
			case onStack(t):
				return len(adoptedNames(t)) > 0, "there is no machine yet; add one on Machines"
			case len(t.Snapshot.Stacks) == 0:
				return false, "there is no stack yet; make one on Stacks"
			}
			return bootable(t)
		},
		Command: func(t Target) string {
			s, m := stackAndMachine(t)
			return command("carte", "boot", or(s, "STACK"), "--on", or(m, "MACHINE"))
		},
		Verb: func(t Target) (lab.Verb, error) {
			s, m := stackAndMachine(t)
			return lab.Queue{Machine: m, Stack: s}, nil
		},
	},
	{
		ID: "boot.capture", Words: "capture", Keys: []string{"c"}, Where: []Place{Machines, Boot},
		Help: "restart a machine, and make its disk the next version of an image; the disk is only read",
		Ask: func(t Target) string {
			return "image that the disk of " + machine(t) + " becomes, then what is new in it"
		},
		Enabled: adopted,
		Command: func(t Target) string {
			v := captureOf(t)
			words := []string{"carte", "capture", or(v.Image, "IMAGE"), "--machine", machine(t)}
			if v.Message != "" {
				words = append(words, "--message", v.Message)
			}
			return command(words...)
		},
		Verb: func(t Target) (lab.Verb, error) { return captureOf(t), nil },
	},
	{
		ID: "boot.repair", Words: "repair", Where: []Place{Machines},
		Help:    "restart a machine with a shell on its console, to look and to mend; nothing is written unasked",
		Enabled: adopted,
		Command: func(t Target) string { return command("carte", "machine", "repair", machine(t)) },
		Verb:    func(t Target) (lab.Verb, error) { return lab.QueueRepair{Machine: t.Machine.Label()}, nil },
	},
	{
		ID: "machine.console", Words: "console", Keys: []string{"o"}, Where: []Place{Machines, Boot},
		Help: "type on the serial console of a virtual machine; ctrl+] comes back",
		Enabled: func(t Target) (bool, string) {
			switch live := t.Snapshot.Live[t.Machine.ID]; {
			case t.Machine.ID == 0:
				return false, "no machine is selected"
			case t.Machine.Virtual == nil:
				return false, t.Machine.Label() + " is a real machine, whose console carte does not reach"
			case live.Power == "off":
				return false, t.Machine.Label() + " is off"
			}
			return true, ""
		},
		Command: func(t Target) string { return command("carte", "console", machine(t)) },
	},
	{
		ID: "boot.again", Words: "boot again", Keys: []string{"B"}, Where: []Place{Machines, Boot},
		Help: "boot the machine's last stack once more, with the same parameters",
		Enabled: both(bootable, func(t Target) (bool, string) {
			b, ok := lastStack(t)
			if !ok {
				return false, machine(t) + " has not been booted yet"
			}
			_, ok = t.Snapshot.Stacks[b.Plan.Stack]
			return ok, "stack " + b.Plan.Stack + " was removed"
		}),
		Command: func(t Target) string {
			b, _ := lastStack(t)
			words := []string{"carte", "boot", or(b.Plan.Stack, "STACK"), "--on", machine(t)}
			set := sameAgain(t, b)
			for _, k := range KeysOf(set) {
				words = append(words, "--set", k+"="+set[k])
			}
			return command(words...)
		},
		Verb: func(t Target) (lab.Verb, error) {
			b, ok := lastStack(t)
			if !ok {
				return nil, fmt.Errorf("a boot of %s: %w", machine(t), lab.ErrNotFound)
			}
			return lab.Queue{Machine: machine(t), Stack: b.Plan.Stack, Set: sameAgain(t, b)}, nil
		},
	},
	{
		ID: "boot.stop", Words: "boot stop", Keys: []string{"x"}, Where: []Place{Machines, Queue, Boot}, Danger: Interrupts,
		Help: "stop a boot; a machine that does not answer is switched off",
		Enabled: func(t Target) (bool, string) {
			switch {
			case t.Boot.ID == 0:
				return false, "there is no boot to stop"
			case t.Boot.State.Final():
				return false, fmt.Sprintf("boot %d is over (%s)", t.Boot.ID, t.Boot.State)
			case t.Boot.State == lab.Queued:
				return false, fmt.Sprintf("boot %d has not begun; it is taken out of the queue instead", t.Boot.ID)
			}
			return true, ""
		},
		Command: func(t Target) string { return command("carte", "boot", "stop", number(t.Boot)) },
		Verb:    func(t Target) (lab.Verb, error) { return lab.Stop{Boot: t.Boot.ID}, nil },
		Loses: func(t Target) string {
			b, m := t.Boot, t.Snapshot.Machines[t.Boot.Machine]
			if r := b.Rung(); r != "" {
				return fmt.Sprintf("boot %d of %s on %s, which is on the rung %s", b.ID, b.Plan.Stack, m.Label(), r)
			}
			return fmt.Sprintf("boot %d of %s on %s (%s)", b.ID, b.Plan.Stack, m.Label(), b.State)
		},
	},
	{
		ID: "boot.retry", Words: "boot retry", Keys: []string{"r"}, Where: []Place{Machines, Queue, Boot},
		Help: "try a boot that is over again, and let a parked machine boot",
		Enabled: func(t Target) (bool, string) {
			parked := t.Snapshot.Machines[t.Boot.Machine].Parked != ""
			switch {
			case t.Boot.ID == 0:
				return false, "there is no boot to try again"
			case !t.Boot.State.Final() && !parked:
				return false, fmt.Sprintf("boot %d is still %s", t.Boot.ID, t.Boot.State)
			}
			return true, ""
		},
		Command: func(t Target) string { return command("carte", "boot", "retry", number(t.Boot)) },
		Verb:    func(t Target) (lab.Verb, error) { return lab.Retry{Boot: t.Boot.ID}, nil },
	},
	{
		ID: "boot.took", Words: "boot out", Where: []Place{Boot},
		Help: "take home what a boot left in /carte/out",
		Enabled: func(t Target) (bool, string) {
			return false, "in a shell: carte boot out " + number(t.Boot)
		},
		Command: func(t Target) string { return command("carte", "boot", "out", number(t.Boot)) },
		Verb:    func(t Target) (lab.Verb, error) { return lab.TookOut{Boot: t.Boot.ID, Sum: t.Boot.OutSum()}, nil },
	},
	{
		ID: "boot.forget", Words: "boot forget", Where: []Place{Boot}, Danger: Destroys,
		Help: "remove what boots left in /carte/out; their records stay",
		Enabled: func(t Target) (bool, string) {
			switch {
			case t.Boot.ID == 0:
				return false, "no boot is selected"
			case !t.Boot.HasOut():
				return false, lab.Words(t.Boot.NoOut())
			}
			return t.Boot.State.Final(), fmt.Sprintf("boot %d may yet bring results", t.Boot.ID)
		},
		Command: func(t Target) string {
			words := []string{"carte", "boot", "forget", number(t.Boot)}
			if t.Boot.HasOut() && t.Boot.OutTaken.IsZero() {
				words = append(words, "--confirm", number(t.Boot))
			}
			return command(words...)
		},
		Verb: func(t Target) (lab.Verb, error) {
			v := lab.ForgetOut{Boots: []int64{t.Boot.ID}}
			if t.Confirm == number(t.Boot) {
				v.Confirm = v.Boots
			}
			return v, nil
		},
		Loses: func(t Target) string {
			words := fmt.Sprintf("what boot %d left, %d files of %s", t.Boot.ID, len(t.Boot.Results), lab.Bytes(t.Boot.OutBytes()))
			if t.Boot.OutTaken.IsZero() {
				words += ", which nobody has taken home"
			}
			return words
		},
		Confirm: func(t Target) string { return number(t.Boot) },
	},
}

// queue are the actions on a boot that waits.
var queue = []Action{
	{
		ID: "queue.rm", Words: "queue rm", Keys: []string{"x"}, Where: []Place{Queue, Machines, Boot},
		Help:    "take a boot that waits out of the queue",
		Enabled: waits,
		Command: func(t Target) string { return command("carte", "queue", "rm", number(t.Boot)) },
		Verb: func(t Target) (lab.Verb, error) {
			return lab.Stop{Boot: t.Boot.ID, Reason: "taken out of the queue"}, nil
		},
	},
	{
		ID: "queue.up", Words: "queue up", Keys: []string{"K"}, Where: []Place{Queue},
		Help: "let a boot that waits go before the one ahead of it",
		Enabled: both(waits, func(t Target) (bool, string) {
			_, at := place(t)
			return at > 0, fmt.Sprintf("boot %d is the next one already", t.Boot.ID)
		}),
		Command: func(t Target) string { return command(moveWords(t, up(t))...) },
		Verb: func(t Target) (lab.Verb, error) {
			return lab.MoveBoot{Boot: t.Boot.ID, Before: up(t)}, nil
		},
	},
	{
		ID: "queue.down", Words: "queue down", Keys: []string{"J"}, Where: []Place{Queue},
		Help: "let the boot behind a boot that waits go first",
		Enabled: both(waits, func(t Target) (bool, string) {
			q, at := place(t)
			return at < len(q)-1, fmt.Sprintf("boot %d is the last one already", t.Boot.ID)
		}),
		Command: func(t Target) string { return command(moveWords(t, down(t))...) },
		Verb: func(t Target) (lab.Verb, error) {
			return lab.MoveBoot{Boot: t.Boot.ID, Before: down(t)}, nil
		},
	},
	{
		ID: "queue.mv", Words: "queue mv", Keys: []string{"m"}, Where: []Place{Queue},
		Help:    "move a boot that waits to another machine",
		Ask:     func(t Target) string { return "machine for boot " + number(t.Boot) },
		Choices: adoptedNames,
		Enabled: waits,
		Command: func(t Target) string {
			return command("carte", "queue", "mv", number(t.Boot), "--machine", or(t.Text, "MACHINE"))
		},
		Verb: func(t Target) (lab.Verb, error) {
			return lab.MoveBoot{Boot: t.Boot.ID, Machine: t.Text}, nil
		},
	},
}

// number writes a boot as commands name it; BOOT while none is selected.
func number(b lab.Boot) string {
	if b.ID == 0 {
		return "BOOT"
	}
	return strconv.FormatInt(b.ID, 10)
}

// onStack says whether the stack is given and the machine is to be chosen.
func onStack(t Target) bool { return t.Stack.Name != "" && t.Machine.ID == 0 }

func stackAndMachine(t Target) (stack, machine string) {
	if onStack(t) {
		return t.Stack.Name, t.Text
	}
	if t.Machine.ID == 0 {
		return t.Text, ""
	}
	return t.Text, t.Machine.Label()
}

// captureOf reads an image's name and what is new in it.
func captureOf(t Target) lab.QueueCapture {
	image, message, _ := strings.Cut(strings.TrimSpace(t.Text), " ")
	return lab.QueueCapture{Machine: machine(t), Image: image, Message: strings.TrimSpace(message)}
}

// lastStack is the machine's newest boot of a stack.
func lastStack(t Target) (last lab.Boot, ok bool) {
	for _, b := range t.Snapshot.Boots {
		if b.Machine == t.Machine.ID && b.Plan.Capture == nil && b.Plan.Repair == nil && b.ID >= last.ID {
			last, ok = b, true
		}
	}
	return last, ok
}

// sameAgain are the parameters of a boot that its stack still has, where they differ from the stack's own; nil: none.
func sameAgain(t Target, b lab.Boot) map[string]string {
	set := map[string]string{}
	for k, v := range b.Plan.Params {
		if now, has := t.Snapshot.Stacks[b.Plan.Stack].Params[k]; has && now != v {
			set[k] = v
		}
	}
	if len(set) == 0 {
		return nil
	}
	return set
}

func bootable(t Target) (bool, string) {
	if ok, why := adopted(t); !ok {
		return ok, why
	}
	return len(t.Machine.Arms) > 0, "no disk of " + t.Machine.Label() + " may be written; arm one first"
}

func adoptedNames(t Target) (names []string) {
	for _, m := range t.Snapshot.SortedMachines() {
		if m.Standing == lab.Adopted {
			names = append(names, m.Label())
		}
	}
	return names
}

func stackNames(t Target) (names []string) {
	for _, s := range t.Snapshot.SortedStacks() {
		names = append(names, s.Name)
	}
	return names
}

func waits(t Target) (bool, string) {
	switch {
	case t.Boot.ID == 0:
		return false, "no boot is selected"
	case t.Boot.State != lab.Queued:
		return false, fmt.Sprintf("boot %d is %s, it does not wait", t.Boot.ID, t.Boot.State)
	}
	return true, ""
}

// place is the queue that the boot waits in, and its place there, -1 when it does not wait.
func place(t Target) ([]lab.Boot, int) {
	q := t.Snapshot.QueueOf(t.Boot.Machine)
	return q, slices.IndexFunc(q, func(b lab.Boot) bool { return b.ID == t.Boot.ID })
}

// up and down are the boots that the boot would then be before; 0: the end.
func up(t Target) int64 {
	if q, at := place(t); at > 0 {
		return q[at-1].ID
	}
	return t.Boot.ID
}

func down(t Target) int64 {
	if q, at := place(t); at >= 0 && at+2 < len(q) {
		return q[at+2].ID
	}
	return 0
}

func moveWords(t Target, before int64) []string {
	words := []string{"carte", "queue", "mv", number(t.Boot)}
	if before == 0 {
		return append(words, "--last")
	}
	return append(words, "--before", strconv.FormatInt(before, 10))
}
