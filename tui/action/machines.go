package action

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"carte/lab"
)

// nextPower is the order that changes something: a machine that is on is not switched on.
func nextPower(t Target) string {
	if t.Snapshot.Live[t.Machine.ID].Power == "on" {
		return "cycle"
	}
	return "on"
}

// machines are the actions on a machine.
var machines = []Action{
	{
		ID: "machine.add", Words: "machine add", Keys: []string{"a"}, Where: []Place{Machines},
		Help: "add a virtual machine",
		Ask: func(Target) string {
			return "name of the new virtual machine, then what differs from disk=4G memory=1G cpus=1 firmware=bios wire=user"
		},
		Enabled: func(t Target) (bool, string) {
			return t.Machine.Standing != lab.Unknown, "this key gives the unknown machine a name first; :machine add adds a virtual one"
		},
		Command: func(t Target) string {
			name, rest, _ := strings.Cut(strings.TrimSpace(t.Text), " ")
			if _, err := parseAdd(t.Text); err != nil {
				name, rest = "NAME", ""
			}
			words := []string{"carte", "machine", "add", name, "--virtual"}
			for _, kv := range strings.Fields(rest) {
				words = append(words, "--"+kv)
			}
			return command(words...)
		},
		Verb: func(t Target) (lab.Verb, error) { return parseAdd(t.Text) },
	},
	{
		ID: "machine.adopt", Words: "machine adopt", Keys: []string{"a"}, Where: []Place{Machines},
		Help:    "give an unknown or ignored machine a name, so that it may be booted",
		Ask:     func(t Target) string { return "name for " + t.Machine.Label() + " (code " + t.Machine.Code() + ")" },
		Enabled: adoptable,
		Command: func(t Target) string {
			return command("carte", "machine", "adopt", machine(t), "--name", or(t.Text, "NAME"))
		},
		Verb: func(t Target) (lab.Verb, error) { return lab.Adopt{Machine: machine(t), Name: t.Text}, nil },
	},
	{
		ID: "machine.ignore", Words: "machine ignore", Keys: []string{"i"}, Where: []Place{Machines}, Danger: Interrupts,
		Help: "leave a machine to its own disk until it is adopted",
		Enabled: both(selected, func(t Target) (bool, string) {
			if t.Machine.Standing == lab.Ignored {
				return false, t.Machine.Label() + " is ignored already"
			}
			return idle(t)
		}),
		Command: func(t Target) string { return command("carte", "machine", "ignore", machine(t)) },
		Verb:    func(t Target) (lab.Verb, error) { return lab.Ignore{Machine: machine(t)}, nil },
		Loses:   waiting,
	},
	{
		ID: "machine.power", Words: "power", Keys: []string{"p"}, Where: []Place{Machines, Boot}, Danger: Interrupts,
		Help:    "switch a machine on, off, or off and on again",
		Ask:     func(t Target) string { return "power of " + machine(t) },
		Choices: func(Target) []string { return []string{"on", "off", "cycle"} },
		Enabled: adopted,
		Command: func(t Target) string {
			return command("carte", "machine", "power", machine(t), or(t.Text, nextPower(t)))
		},
		Verb: func(t Target) (lab.Verb, error) {
			return lab.PowerMachine{Machine: machine(t), Want: t.Text}, nil
		},
		Loses: func(t Target) string {
			if b, ok := t.Snapshot.Active(t.Machine.ID); ok && t.Text != "on" {
				return fmt.Sprintf("boot %d (%s) on %s ends", b.ID, b.State, t.Machine.Label())
			}
			return ""
		},
	},
	{
		ID: "machine.set", Words: "machine set", Keys: []string{"e"}, Where: []Place{Machines},
		Help: "change a setting of a machine: " + settingNames(),
		Ask:  func(t Target) string { return "setting=value of " + machine(t) + " (" + settingNames() + ")" },
		Enabled: func(t Target) (bool, string) {
			return selected(t)
		},
		Command: func(t Target) string { return command("carte", "machine", "set", machine(t), or(t.Text, "note=")) },
		Verb: func(t Target) (lab.Verb, error) {
			name, value, ok := strings.Cut(t.Text, "=")
			if !ok {
				return nil, fmt.Errorf("%q is not setting=value: %w", t.Text, lab.ErrInvalid)
			}
			return lab.SetMachine{Machine: machine(t), Values: map[string]string{strings.TrimSpace(name): value}}, nil
		},
	},
	{
		ID: "machine.arm", Words: "arm", Keys: []string{"A"}, Where: []Place{Machines}, Danger: Destroys,
		Help:    "allow carte to write one disk of a machine",
		Ask:     func(t Target) string { return "disk of " + machine(t) + " that carte may write" },
		Choices: diskNames,
		Enabled: both(selected, func(t Target) (bool, string) {
			if t.Machine.Inventory == nil {
				return false, "nobody has seen the disks of " + t.Machine.Label() + " yet; turn it on once"
			}
			return true, ""
		}),
		Command: func(t Target) string {
			words := []string{"carte", "machine", "arm", machine(t), "--disk", or(t.Text, "SERIAL")}
			if foreignDisk(t) != "" {
				words = append(words, "--confirm", machine(t))
			}
			return command(words...)
		},
		Verb: func(t Target) (lab.Verb, error) {
			return lab.ArmDisk{Machine: machine(t), Disk: t.Text, Confirm: t.Confirm}, nil
		},
		Loses: foreignDisk,
		Confirm: func(t Target) string {
			if foreignDisk(t) == "" {
				return ""
			}
			return t.Machine.Name
		},
	},
	{
		ID: "machine.disarm", Words: "disarm", Where: []Place{Machines},
		Help:    "take back the leave to write a disk",
		Ask:     func(t Target) string { return "disk of " + machine(t) + " that carte may no longer write" },
		Choices: armNames,
		Enabled: both(selected, func(t Target) (bool, string) {
			return len(t.Machine.Arms) > 0, "no disk of " + t.Machine.Label() + " is armed"
		}),
		Command: func(t Target) string {
			return command("carte", "machine", "arm", machine(t), "--disk", or(t.Text, "SERIAL"), "--disarm")
		},
		Verb: func(t Target) (lab.Verb, error) {
			return lab.ArmDisk{Machine: machine(t), Disk: t.Text, Disarm: true}, nil
		},
	},
	{
		ID: "machine.forget", Words: "machine forget", Keys: []string{"D"}, Where: []Place{Machines}, Danger: Destroys,
		Help:    "remove a machine; its boots stay in the history",
		Enabled: both(selected, idle),
		Command: func(t Target) string {
			return command("carte", "machine", "forget", machine(t), "--confirm", machine(t))
		},
		Verb: func(t Target) (lab.Verb, error) {
			return lab.Forget{Machine: machine(t), Confirm: t.Confirm}, nil
		},
		Loses: func(t Target) string {
			lost := "what the lab knows of " + t.Machine.Label()
			if t.Machine.Virtual != nil {
				lost += ", and its virtual disk of " + lab.Bytes(t.Machine.Virtual.DiskBytes)
			} else if len(t.Machine.Arms) > 0 {
				lost += ", and the leave to write its disk"
			}
			if w := waiting(t); w != "" {
				lost += "; " + w
			}
			return lost
		},
		Confirm: func(t Target) string { return t.Machine.Label() },
	},
}

// parseAdd reads "NAME [disk=4G] [memory=1G] [cpus=1] [firmware=bios] [wire=user]" as a new virtual machine.
func parseAdd(text string) (lab.Verb, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return nil, fmt.Errorf("the new machine has no name: %w", lab.ErrInvalid)
	}
	v := &lab.Virtual{}
	for _, w := range words[1:] {
		name, value, ok := strings.Cut(w, "=")
		var err error
		switch {
		case !ok:
			err = fmt.Errorf("%q is not setting=value: %w", w, lab.ErrInvalid)
		case name == "disk":
			v.DiskBytes, err = lab.ParseBytes(value)
		case name == "memory":
			v.MemoryBytes, err = lab.ParseBytes(value)
		case name == "cpus":
			if v.CPUs, err = strconv.Atoi(value); err != nil {
				err = fmt.Errorf("cpus=%q is not a number: %w", value, lab.ErrInvalid)
			}
		case name == "firmware":
			v.Firmware = lab.Firmware(value)
		case name == "wire":
			v.Wire = value
		default:
			err = fmt.Errorf("%q is none of disk, memory, cpus, firmware, wire: %w", name, lab.ErrInvalid)
		}
		if err != nil {
			return nil, err
		}
	}
	return lab.AddMachine{Name: words[0], Virtual: v}, nil
}

func machine(t Target) string {
	if t.Machine.ID == 0 {
		return "MACHINE"
	}
	return t.Machine.Label()
}

// both is the first reason against, of two that are asked in turn.
func both(first, then func(Target) (bool, string)) func(Target) (bool, string) {
	return func(t Target) (bool, string) {
		if ok, why := first(t); !ok {
			return ok, why
		}
		return then(t)
	}
}

func selected(t Target) (bool, string) {
	return t.Machine.ID != 0, "no machine is selected"
}

func adopted(t Target) (bool, string) {
	if ok, why := selected(t); !ok {
		return ok, why
	}
	return t.Machine.Standing == lab.Adopted, fmt.Sprintf("%s is %s; give it a name first", t.Machine.Label(), t.Machine.Standing)
}

func adoptable(t Target) (bool, string) {
	if ok, why := selected(t); !ok {
		return ok, why
	}
	return t.Machine.Standing != lab.Adopted, t.Machine.Label() + " is adopted already"
}

func idle(t Target) (bool, string) {
	if b, ok := t.Snapshot.Active(t.Machine.ID); ok {
		return false, fmt.Sprintf("%s is busy with boot %d (%s); stop that first", t.Machine.Label(), b.ID, b.State)
	}
	return true, ""
}

// waiting says how many boots wait for the machine, empty for none.
func waiting(t Target) string {
	switch n := len(t.Snapshot.QueueOf(t.Machine.ID)); {
	case n == 0 || t.Machine.ID == 0:
		return ""
	case n == 1:
		return "1 boot that waits for it is called off"
	default:
		return fmt.Sprintf("%d boots that wait for it are called off", n)
	}
}

func settingNames() string {
	var names []string
	for _, s := range lab.Settings {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

// diskNames lists the machine's disks that can be armed, by serial number or WWN.
func diskNames(t Target) (names []string) {
	if t.Machine.Inventory == nil {
		return nil
	}
	for _, d := range t.Machine.Inventory.Disks {
		if d.Named() && !d.Removable && !d.ReadOnly {
			names = append(names, or(d.Serial, d.WWN))
		}
	}
	return names
}

func armNames(t Target) (names []string) {
	for _, a := range t.Machine.Arms {
		names = append(names, or(a.Serial, a.WWN))
	}
	return names
}

// foreignDisk names the chosen disk and what is on it when carte did not put it there, else nothing.
func foreignDisk(t Target) string {
	if t.Machine.Inventory == nil {
		return ""
	}
	for _, d := range t.Machine.Inventory.Disks {
		chosen := t.Text != "" && slices.Contains([]string{d.Serial, d.WWN, d.Path}, t.Text)
		known := slices.ContainsFunc(t.Machine.Holds, func(h lab.Holding) bool { return h.Is(d.DiskID) })
		if chosen && !known && d.Contents != "" {
			return fmt.Sprintf("all of disk %s %s: %s", d.DiskID, strings.TrimSpace(d.Model), d.Contents)
		}
	}
	return ""
}

func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}
