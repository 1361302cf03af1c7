package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"carte/lab"
)

// powerWait is how long a power order may take; the drivers' own limit is shorter.
const powerWait = 90 * time.Second

// size is a flag that reads 4G.
type size struct{ n *int64 }

func (s size) Set(v string) (err error) {
	if *s.n, err = lab.ParseBytes(v); err == nil && *s.n <= 0 {
		err = fmt.Errorf("a size from 1: %w", lab.ErrInvalid)
	}
	return err
}
func (size) Type() string { return "SIZE" }
func (s size) String() string {
	if s.n == nil || *s.n == 0 {
		return ""
	}
	return lab.Bytes(*s.n)
}

func (c *call) machineCommands() []entry {
	var yes bool
	var state, name, disk, confirm string
	var disarm, virtual bool
	var macs []string
	var v lab.Virtual
	return []entry{
		{
			use: "machine ls", help: "list the machines",
			flags: func(f *pflag.FlagSet) {
				f.StringVar(&state, "state-is", "", "only those in this state, such as running")
			},
			run: func(ctx context.Context, _ []string) error {
				return c.look(ctx, func(s lab.Snapshot) error { return c.listMachines(s, state) })
			},
		},
		{
			use: "machine show MACHINE", help: "show all about a machine: its disks, network cards, and what carte wrote",
			run: func(ctx context.Context, args []string) error {
				return c.look(ctx, func(s lab.Snapshot) error {
					m, err := s.Find(args[0])
					if err != nil {
						return err
					}
					return c.show(list{doc: machineOf(s, m), names: []string{m.Label()}, rows: c.machineRows(s, m)})
				})
			},
		},
		{
			use: "machine add NAME", makes: true, help: "add a virtual machine, or a real one by its network card's address",
			example: "  carte machine add vm-1 --virtual --disk 4G --memory 1G --firmware uefi\n  carte machine add nuc-1 --mac 00:11:22:33:44:55",
			flags: func(f *pflag.FlagSet) {
				f.BoolVar(&virtual, "virtual", false, "a virtual machine, run by carte under QEMU")
				f.StringArrayVar(&macs, "mac", nil, "address of a network card; may be said more than once")
				f.Var(size{&v.DiskBytes}, "disk", "size of the virtual disk (default 4G)")
				f.Var(size{&v.MemoryBytes}, "memory", "memory of the virtual machine (default 1G)")
				f.Var(count{&v.CPUs}, "cpus", "CPUs of the virtual machine (default 1)")
				f.StringVar((*string)(&v.Firmware), "firmware", "", "bios or uefi (default bios)")
				f.Var(notEmpty{&v.Wire, "WIRE"}, "wire", "user: QEMU's own network, needs no root; or the name of a tap interface (default user)")
			},
			run: func(ctx context.Context, args []string) error {
				add := lab.AddMachine{Name: args[0], MACs: macs}
				switch {
				case virtual:
					add.Virtual = &v
					if c.host.Fits == nil {
						break
					}
					if err := c.host.Fits(v); err != nil {
						return fmt.Errorf("%s would have %w", args[0], err)
					}
				case v != lab.Virtual{}:
					return fmt.Errorf("--disk, --memory, --cpus, --firmware and --wire belong to a virtual machine; add --virtual: %w", lab.ErrInvalid)
				case len(macs) == 0:
					return fmt.Errorf("%s is either --virtual, or has a network card: --mac ADDRESS: %w", args[0], lab.ErrInvalid)
				}
				return c.sayMachine(ctx, add, "added")
			},
		},
		{
			use: "machine adopt MACHINE --name NAME", action: "machine.adopt",
			flags: func(f *pflag.FlagSet) { f.StringVar(&name, "name", "", "its name (needed)") },
			run: func(ctx context.Context, args []string) error {
				if name == "" {
					return fmt.Errorf("%s needs a name: --name NAME: %w", args[0], lab.ErrInvalid)
				}
				return c.sayMachine(ctx, lab.Adopt{Machine: args[0], Name: name}, "adopted")
			},
		},
		{
			use: "machine ignore MACHINE", action: "machine.ignore",
			run: func(ctx context.Context, args []string) error {
				return c.sayMachine(ctx, lab.Ignore{Machine: args[0]}, "ignored")
			},
		},
		{
			use: "machine set MACHINE SETTING=VALUE...", action: "machine.set", long: settingsHelp(),
			run: func(ctx context.Context, args []string) error {
				values := map[string]string{}
				for _, a := range args[1:] {
					k, v, ok := strings.Cut(a, "=")
					if !ok {
						return fmt.Errorf("%q is not SETTING=VALUE: %w", a, lab.ErrInvalid)
					}
					if _, twice := values[k]; twice {
						return fmt.Errorf("%s is set twice: %w", k, lab.ErrInvalid)
					}
					values[k] = v
				}
				return c.sayMachine(ctx, lab.SetMachine{Machine: args[0], Values: values}, "changed")
			},
		},
		{
			use: "machine arm MACHINE --disk DISK", action: "machine.arm",
			flags: func(f *pflag.FlagSet) {
				f.StringVar(&disk, "disk", "", "serial number, WWN or path of the disk, as machine show lists it (needed)")
				f.StringVar(&confirm, "confirm", "", "the machine's name, to give up what carte did not write")
				f.BoolVar(&disarm, "disarm", false, "take the leave back")
			},
			run: func(ctx context.Context, args []string) error {
				if disk == "" {
					return fmt.Errorf("which disk of %s? carte machine show %s lists them: --disk SERIAL: %w", args[0], args[0], lab.ErrInvalid)
				}
				word := "armed"
				if disarm {
					word = "disarmed"
				}
				return c.confirmed(confirm, func(typed string) error {
					return c.sayMachine(ctx, lab.ArmDisk{Machine: args[0], Disk: disk, Confirm: typed, Disarm: disarm}, word)
				})
			},
		},
		{
			use: "machine forget MACHINE", action: "machine.forget",
			flags: func(f *pflag.FlagSet) { f.StringVar(&confirm, "confirm", "", "the machine's name, once more") },
			run: func(ctx context.Context, args []string) error {
				return c.confirmed(confirm, func(typed string) error {
					return c.say(ctx, lab.Forget{Machine: args[0], Confirm: typed}, func(lab.Changed, lab.Snapshot) error {
						return c.show(list{doc: goneDoc{args[0]}, names: []string{args[0]}, rows: [][]string{{args[0], "forgotten"}}})
					})
				})
			},
		},
		{
			use: "machine power MACHINE WANT", action: "machine.power", long: "Switch a machine: WANT is on, off or cycle. The command ends when the order was carried out. off ends the boot that goes on and cycle interrupts it, after a question; a script says --yes.",
			flags: func(f *pflag.FlagSet) { f.BoolVar(&yes, "yes", false, "end the boot that goes on, without a question") },
			run: func(ctx context.Context, args []string) error {
				return c.live(func(d desk) error {
					ends, err := c.mayEnd(ctx, d, args[0], args[1], yes)
					if err != nil {
						return err
					}
					if err := c.power(ctx, d, args[0], args[1]); err != nil {
						return err
					}
					return c.sayEnded(ctx, d, ends)
				})
			},
		},
	}
}

// goneDoc is the document of what was removed.
type goneDoc struct {
	Removed string `json:"removed"`
}

// confirmed does what needs the name of what is destroyed: as it was given, or else, at a terminal, as it is typed.
func (c *call) confirmed(given string, do func(typed string) error) error {
	err := do(given)
	if given != "" || !c.term.Asks || !errors.Is(err, lab.ErrConfirm) {
		return err
	}
	fmt.Fprintf(c.term.Err, "%s\n", words(err))
	fmt.Fprint(c.term.Err, "Type the name to go on, or Enter to leave everything as it is: ")
	typed, readErr := readLine(c.term.In)
	if readErr != nil || typed == "" {
		return fmt.Errorf("nothing was changed: %w", lab.ErrConfirm)
	}
	return do(typed)
}

// sayMachine says a verb about one machine and shows that machine.
func (c *call) sayMachine(ctx context.Context, v lab.Verb, done string) error {
	return c.say(ctx, v, func(ch lab.Changed, s lab.Snapshot) error {
		if len(ch.Machines) == 0 {
			return nil
		}
		m := ch.Machines[len(ch.Machines)-1]
		return c.show(list{doc: machineOf(s, m), names: []string{m.Label()}, rows: [][]string{{m.Label(), done}}})
	})
}

// mayEnd asks before an order that ends the boot that goes on, as the screen does, and returns that; 0: there is none.
func (c *call) mayEnd(ctx context.Context, d desk, machine, want string, yes bool) (int64, error) {
	s, err := d.Watch(ctx, 0)
	if err != nil {
		return 0, err
	}
	m, err := s.Find(machine)
	if err != nil {
		return 0, err
	}
	b, busy := s.Active(m.ID)
	if !busy || want != "off" && want != "cycle" {
		return 0, nil
	}
	does := "ends"
	if want == "cycle" { // it is tried again
		does = "interrupts"
	}
	loses := fmt.Sprintf("power %s %s boot %d of %s on %s, which is %s", want, does, b.ID, b.Plan.Stack, m.Label(), whereIs(b))
	switch {
	case yes:
		return b.ID, nil
	case !c.term.Asks:
		return 0, fmt.Errorf("%s; repeat it with --yes: %w", loses, lab.ErrConfirm)
	}
	fmt.Fprintf(c.term.Err, "%s.\ny goes on, Enter leaves everything as it is: ", loses)
	if typed, err := readLine(c.term.In); err != nil || strings.ToLower(typed) != "y" && strings.ToLower(typed) != "yes" {
		return 0, fmt.Errorf("nothing was changed: %w", lab.ErrConfirm)
	}
	return b.ID, nil
}

// sayEnded says what became of the boot that an order ended.
func (c *call) sayEnded(ctx context.Context, d desk, boot int64) error {
	s, err := d.Watch(ctx, 0)
	if b, ok := s.Boots[boot]; ok && err == nil {
		c.note("boot %d of %s is %s", b.ID, b.Plan.Stack, string(b.State)+optional(": ", b.Reason))
	}
	return err
}

// power orders, and waits until the order was carried out.
func (c *call) power(ctx context.Context, d desk, machine, want string) error {
	if _, err := d.Say(ctx, lab.PowerMachine{Machine: machine, Want: want}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, powerWait)
	defer cancel()
	var rev uint64
	for {
		s, err := d.Watch(ctx, rev)
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("power %s of %s was not carried out within %s: %w", want, machine, powerWait, err)
		}
		if err != nil {
			return err
		}
		rev = s.Rev
		m, err := s.Find(machine)
		if err != nil {
			return err
		}
		live := s.Live[m.ID]
		switch {
		case live.Order == want:
			continue
		case live.Note != "" && m.Power.Driver == "manual": // an instruction, for a person to carry out
			return c.show(list{doc: machineOf(s, m), names: []string{m.Label()}, rows: [][]string{{m.Label(), live.Note}}})
		case live.Note != "":
			return errors.New(live.Note)
		}
		return c.show(list{doc: machineOf(s, m), names: []string{m.Label()}, rows: [][]string{{m.Label(), or(live.Power, "power "+want+" sent")}}})
	}
}

func (c *call) listMachines(s lab.Snapshot, state string) error {
	docs := []machineDoc{}
	l := list{head: []string{"NAME", "KIND", "STATE", "NOW", "SEEN", "POWER", "NOTE"}, empty: "no machines yet: turn one on with network boot enabled, or: carte machine add vm-1 --virtual"}
	for _, m := range s.SortedMachines() {
		d := machineOf(s, m)
		if state != "" && d.State != state {
			continue
		}
		docs = append(docs, d)
		l.names = append(l.names, m.Label())
		kind := "metal"
		if m.Virtual != nil {
			kind = "qemu"
		}
		l.rows = append(l.rows, []string{m.Label(), kind, d.State, c.now(s, m), c.ago(s.Live[m.ID].Seen), or(d.Power, "?"), or(d.Trouble, m.Note)})
	}
	if state != "" && len(s.Machines) > 0 {
		l.empty = "no machine is " + state
	}
	l.doc = struct {
		Machines []machineDoc `json:"machines"`
	}{docs}
	return c.show(l)
}

// now says in a few words what a machine does.
func (c *call) now(s lab.Snapshot, m lab.Machine) string {
	b, ok := bootOf(s, m.ID)
	switch {
	case m.Standing == lab.Unknown:
		return fmt.Sprintf("asked for a boot %d times, code %s", s.Live[m.ID].Asked, m.Code())
	case m.Parked != "":
		return m.Parked
	case !ok:
		return "never booted"
	case b.State.Final() || b.Rung() == "":
		return fmt.Sprintf("boot %d %s %s", b.ID, b.Plan.Stack, b.State)
	}
	text := fmt.Sprintf("boot %d %s %s", b.ID, b.Plan.Stack, b.Rung())
	if s.Broken(b) {
		return text + "; no lab runs"
	}
	if p := s.Live[m.ID].Progress; p.Of > 0 && b.State == lab.Working {
		text += fmt.Sprintf(" %d%%", p.Done*100/p.Of)
	}
	return text
}

func (c *call) machineRows(s lab.Snapshot, m lab.Machine) [][]string {
	live := s.Live[m.ID]
	rows := [][]string{
		{"name", m.Label()}, {"standing", string(m.Standing)}, {"state", stateOf(s, m)}, {"now", c.now(s, m)},
		{"power", strings.TrimSpace(m.Power.Driver + " " + strings.Join(m.Power.Exec, " ") + " " + live.Power)},
		{"seen", c.ago(live.Seen)}, {"address", live.IP}, {"trouble", s.Trouble(m)}, {"parked", m.Parked}, {"note", m.Note},
	}
	for _, mac := range m.MACs {
		rows = append(rows, []string{"card", string(mac)})
	}
	if v := m.Virtual; v != nil {
		rows = append(rows, []string{"virtual", fmt.Sprintf("disk %s, serial %s, memory %s, %d CPU, %s, wire %s", binary(v.DiskBytes), v.Serial, binary(v.MemoryBytes), v.CPUs, v.Firmware, v.Wire)})
	}
	if i := m.Inventory; i != nil {
		rows = append(rows, []string{"hardware", strings.TrimSpace(i.Vendor + " " + i.Product)},
			[]string{"cpu", fmt.Sprintf("%s, %d cores, %d threads", i.CPU, i.Cores, i.Threads)}, []string{"memory", lab.Bytes(i.MemoryBytes)}, []string{"firmware", string(i.Firmware)})
		for _, d := range i.Disks {
			found := or(d.Contents, "blank")
			if slices.ContainsFunc(m.Holds, func(h lab.Holding) bool { return h.Is(d.DiskID) && h.At.After(i.At) }) {
				found = "" // what was there before carte wrote it
			}
			rows = append(rows, []string{"disk", strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s", d.Path, d.DiskID, d.Model, found)), " ")})
		}
	}
	for _, a := range m.Arms {
		rows = append(rows, []string{"armed", a.DiskID.String()})
	}
	for _, t := range tailsOf(s, m) {
		text := "none"
		if t.Bytes > 0 {
			text = lab.Bytes(t.Bytes)
		}
		rows = append(rows, []string{"tail", fmt.Sprintf("%s: %s at the end of %s", tailSetting(m), text, t.Disk)})
	}
	for _, h := range m.Holds {
		state := ""
		if h.Dirty {
			state = ", not proven"
		}
		over := ""
		for _, o := range h.Over {
			over += ", " + o.Ref.String()
		}
		rows = append(rows, []string{"holds", fmt.Sprintf("%s%s on %s%s", h.Ref, over, h.DiskID, state)})
	}
	switch k := m.Kexec; {
	case k.Failed != "":
		rows = append(rows, []string{"kexec", "does not work: " + k.Failed + "; a stack's own kernel is netbooted"})
	case !k.Proven.IsZero():
		rows = append(rows, []string{"kexec", "proven " + c.ago(k.Proven)})
	}
	return filled(rows)
}

// tailSetting is a machine's setting tail, as it was given.
func tailSetting(m lab.Machine) string {
	switch {
	case m.Tail == 0:
		return "auto"
	case m.Tail < 0:
		return "none"
	}
	return binary(m.Tail)
}

// binary writes a size as it was most likely given: 8 GiB and not 8.6 GB.
func binary(n int64) string {
	switch {
	case n > 0 && n%(1<<30) == 0:
		return fmt.Sprintf("%d GiB", n>>30)
	case n > 0 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return lab.Bytes(n)
}

func settingsHelp() string {
	text := "Change settings of a machine. There are:\n"
	for _, s := range lab.Settings {
		text += fmt.Sprintf("\n  %-8s %s", s.Name, s.What)
	}
	return text
}
