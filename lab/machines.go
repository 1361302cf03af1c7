package lab

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"carte/lab/chunk"
)

// AddMachine adds a virtual machine, or a real one whose card's address is known before it first asks for a boot.
type AddMachine struct {
	Name    string   `json:"name"`
	MACs    []string `json:"macs,omitempty"`
	Virtual *Virtual `json:"virtual,omitempty"`
}

// The smallest and the usual virtual machine.
const (
	MinMemory     = 512 << 20
	DefaultMemory = 1 << 30
	DefaultDisk   = 4 << 30
)

func (v AddMachine) decide(d *draft) error {
	if err := d.freeName(v.Name); err != nil {
		return err
	}
	m := Machine{ID: d.LastMachine + 1, Name: v.Name, Standing: Adopted, Power: Power{Driver: "manual"}, Since: d.at, Arms: []Arm{}, Holds: []Holding{}}
	for _, s := range v.MACs {
		mac, err := ParseMAC(s)
		if err != nil {
			return err
		}
		if o, ok := d.owner(mac); ok && o.Standing == Unknown {
			d.put(Gone{TableMachines, fmt.Sprint(o.ID)})
		} else if ok {
			return fmt.Errorf("%s belongs to %s: %w", mac, o.Label(), ErrBusy)
		}
		if !slices.Contains(m.MACs, mac) {
			m.MACs = append(m.MACs, mac)
		}
	}
	if v.Virtual != nil {
		if err := m.virtual(*v.Virtual, d); err != nil {
			return err
		}
	}
	if len(m.MACs) == 0 {
		return fmt.Errorf("%s needs a network card's address, or --virtual: %w", v.Name, ErrInvalid)
	}
	slices.Sort(m.MACs)
	d.put(m)
	d.fact(m.ID, 0, "machine %s added", m.Name)
	return nil
}

// virtual makes m a virtual machine. Its own disk is armed from birth.
func (m *Machine) virtual(v Virtual, d *draft) error {
	v.DiskBytes, v.MemoryBytes = or(v.DiskBytes, DefaultDisk), or(v.MemoryBytes, DefaultMemory)
	v.CPUs, v.Firmware, v.Wire = or(v.CPUs, 1), or(v.Firmware, BIOS), or(v.Wire, "user")
	switch {
	case v.Firmware != BIOS && v.Firmware != UEFI:
		return fmt.Errorf("firmware %q is neither bios nor uefi: %w", v.Firmware, ErrInvalid)
	case v.CPUs < 1 || v.CPUs > 64:
		return fmt.Errorf("%d CPUs: from 1 to 64: %w", v.CPUs, ErrInvalid)
	case v.MemoryBytes < MinMemory:
		return fmt.Errorf("%s of memory: the agent needs at least %s: %w", Bytes(v.MemoryBytes), Bytes(MinMemory), ErrInvalid)
	case checkName("wire", v.Wire) != nil || len(v.Wire) > 15:
		return fmt.Errorf("wire %q is neither user nor the name of a tap interface, of at most 15 letters: %w", v.Wire, ErrInvalid)
	case v.DiskBytes < 1<<20 || v.DiskBytes%512 != 0:
		return fmt.Errorf("a disk of %s: at least 1 MiB, in whole sectors of 512 bytes: %w", Bytes(v.DiskBytes), ErrInvalid)
	}
	sum := chunk.Sum([]byte(fmt.Sprintf("%s %d %s", m.Name, m.ID, d.at)))
	if len(m.MACs) == 0 {
		for i := byte(0); ; i++ { // 52:54:00 is what QEMU uses; the rest must be free
			mac := MAC(fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2]+i))
			if _, taken := d.owner(mac); !taken {
				m.MACs = []MAC{mac}
				break
			}
		}
	}
	h := hex.EncodeToString(sum[3:19])
	m.UUID = fmt.Sprintf("%s-%s-4%s-8%s-%s", h[0:8], h[8:12], h[13:16], h[17:20], h[20:32])
	v.Serial = "carte-" + hex.EncodeToString(sum[20:24])
	m.Virtual, m.Power = &v, Power{Driver: "qemu"}
	m.Arms = []Arm{{DiskID: DiskID{Serial: v.Serial, Bytes: v.DiskBytes}, At: d.at}}
	return nil
}

func or[T comparable](v, instead T) T {
	var zero T
	if v == zero {
		return instead
	}
	return v
}

func (d *draft) freeName(name string) error {
	if err := checkName("machine", name); err != nil {
		return err
	}
	if strings.Trim(name, "0123456789") == "" {
		return fmt.Errorf("machine name %q is a number, and numbers are boots: %w", name, ErrInvalid)
	}
	if _, err := ParseMAC(name); err == nil {
		return fmt.Errorf("machine name %q looks like an address: %w", name, ErrInvalid)
	}
	for _, m := range d.Machines {
		if m.Name == name {
			return fmt.Errorf("machine %s is there already: %w", name, ErrBusy)
		}
	}
	return nil
}

// Adopt gives an unknown or ignored machine a name; from then on the lab may boot it.
type Adopt struct {
	Machine string `json:"machine"`
	Name    string `json:"name"`
}

func (v Adopt) decide(d *draft) error {
	m, err := d.Find(v.Machine)
	if err != nil {
		return err
	}
	if m.Standing == Adopted {
		return fmt.Errorf("%s is adopted already: %w", m.Label(), ErrBusy)
	}
	if v.Name != m.Name { // an ignored machine still has its name
		if err := d.freeName(v.Name); err != nil {
			return err
		}
	}
	m.Name, m.Standing = v.Name, Adopted
	d.put(m)
	d.fact(m.ID, 0, "machine %s adopted as %s", v.Machine, m.Name)
	return nil
}

// Ignore leaves a machine to its own disk for ever. What waits for it is revoked.
type Ignore struct {
	Machine string `json:"machine"`
}

func (v Ignore) decide(d *draft) error {
	m, err := d.Find(v.Machine)
	if err != nil {
		return err
	}
	if err := d.clear(m, "the machine is ignored"); err != nil {
		return err
	}
	m = d.Machines[m.ID]
	m.Standing = Ignored
	d.put(m)
	d.fact(m.ID, 0, "machine %s ignored", m.Label())
	return nil
}

// clear empties a machine's queue; it refuses while the machine is busy.
func (d *draft) clear(m Machine, why string) error {
	if b, ok := d.Active(m.ID); ok {
		return fmt.Errorf("%s is busy with boot %d (%s); carte boot stop %d comes first: %w", m.Label(), b.ID, b.State, b.ID, ErrBusy)
	}
	for _, b := range d.QueueOf(m.ID) {
		d.revoke(b, why)
	}
	return nil
}

// Forget removes a machine. Its boots stay in the history. Confirm repeats its name or address.
type Forget struct {
	Machine string `json:"machine"`
	Confirm string `json:"confirm"`
}

func (v Forget) decide(d *draft) error {
	m, err := d.Find(v.Machine)
	if err != nil {
		return err
	}
	if v.Confirm != m.Label() {
		return fmt.Errorf("forgetting %s loses what the lab knows of its disks, and the images that live with it; repeat its name: --confirm %s: %w", m.Label(), m.Label(), ErrConfirm)
	}
	if err := d.clear(m, "the machine was forgotten"); err != nil {
		return err
	}
	d.diesWith(m)
	for _, mac := range m.MACs {
		if _, ok := d.Addresses[mac]; ok {
			d.put(Gone{TableAddresses, string(mac)})
		}
	}
	d.put(Gone{TableMachines, fmt.Sprint(m.ID)})
	d.fact(m.ID, 0, "machine %s forgotten", m.Label())
	return nil
}

// PowerMachine asks the machine's power driver for on, off or cycle. It returns at once; Live.Order says until when the
// driver is at work. Off ends the boot that the machine is busy with, and is
// refused while others wait, because they would turn it on again.
type PowerMachine struct {
	Machine string `json:"machine"`
	Want    string `json:"want"`
}

func (v PowerMachine) decide(d *draft) error {
	m, err := d.Find(v.Machine)
	if err != nil {
		return err
	}
	if !slices.Contains([]string{"on", "off", "cycle"}, v.Want) {
		return fmt.Errorf("power %q is not on, off or cycle: %w", v.Want, ErrInvalid)
	}
	if m.Standing != Adopted {
		return fmt.Errorf("%s is %s: %w", m.Label(), m.Standing, ErrRefused)
	}
	if q := d.QueueOf(m.ID); v.Want == "off" && len(q) > 0 && m.Parked == "" {
		return fmt.Errorf("boot %d waits for %s and would turn it on again; carte queue rm %d comes first: %w", q[0].ID, m.Label(), q[0].ID, ErrBusy)
	}
	d.fact(m.ID, 0, "power %s for %s", v.Want, m.Label())
	if b, busy := d.Active(m.ID); busy && v.Want == "off" { // else the lab would turn it on again for the same boot
		d.revoke(b, "the operator switched the machine off")
	}
	live := d.live(m.ID)
	live.Order, live.Note = v.Want, ""
	d.put(live)
	return nil
}

// SetMachine changes settings of a machine, by name; Settings lists them.
type SetMachine struct {
	Machine string            `json:"machine"`
	Values  map[string]string `json:"values"`
}

// A Setting is something of a machine that a person can set.
type Setting struct {
	Name string
	What string
	set  func(*draft, *Machine, string) error
}

// Settings is the table of settings.
var Settings = []Setting{
	{"name", "the machine's name", func(d *draft, m *Machine, v string) error {
		if v == m.Name {
			return nil
		}
		if m.Standing == Unknown {
			return fmt.Errorf("%s is %s; carte machine adopt %s --name %s names it: %w", m.Label(), m.Standing, m.Label(), v, ErrRefused)
		}
		if err := d.freeName(v); err != nil {
			return err
		}
		for _, im := range d.ownedBy(*m) {
			im.Owner = v
			d.put(im)
		}
		m.Name = v
		return nil
	}},
	{"power", "qemu, wol, manual, or exec:COMMAND with the verb as last argument", func(_ *draft, m *Machine, v string) error {
		driver, command, _ := strings.Cut(v, ":")
		if !slices.Contains([]string{"qemu", "wol", "manual", "exec"}, driver) {
			return fmt.Errorf("power driver %q is not qemu, wol, manual or exec:COMMAND: %w", driver, ErrInvalid)
		}
		if (driver == "qemu") != (m.Virtual != nil) {
			return fmt.Errorf("driver %s: qemu is for virtual machines and for them alone: %w", driver, ErrInvalid)
		}
		if (driver == "exec") != (strings.TrimSpace(command) != "") {
			return fmt.Errorf("driver exec needs its command, as in exec:/usr/local/bin/plug 3: %w", ErrInvalid)
		}
		m.Power = Power{Driver: driver}
		if command != "" {
			m.Power.Exec = strings.Fields(command)
		}
		return nil
	}},
	{"warm", "yes: keep the agent running when nothing is queued; no: boot the local disk", func(_ *draft, m *Machine, v string) error {
		if v != "yes" && v != "no" {
			return fmt.Errorf("warm=%q is neither yes nor no: %w", v, ErrInvalid)
		}
		m.Warm = v == "yes"
		return nil
	}},
	{"tail", "what carte keeps of the end of its disk, for its cache: a size such as 8G, none, or auto (a tenth, at most 16G, and none where an image needs the room)", func(_ *draft, m *Machine, v string) error {
		switch v {
		case "auto":
			m.Tail = 0
		case "none":
			m.Tail = -1
		default:
			n, err := ParseBytes(v)
			if err == nil && n < TailLeast {
				err = fmt.Errorf("tail=%q: at least %d MiB, or none: %w", v, TailLeast>>20, ErrInvalid)
			}
			if err != nil {
				return err
			}
			m.Tail = n
		}
		return m.roomForTail()
	}},
	{"note", "free text", func(_ *draft, m *Machine, v string) error {
		if len(v) > 200 {
			return fmt.Errorf("a note is one line of at most 200 letters: %w", ErrInvalid)
		}
		m.Note = v
		return nil
	}},
	{"parked", "no: let the lab boot it again", func(_ *draft, m *Machine, v string) error {
		if v != "no" {
			return fmt.Errorf("parked=%q: it can only be set to no: %w", v, ErrInvalid)
		}
		m.Parked = ""
		return nil
	}},
}

func (v SetMachine) decide(d *draft) error {
	m, err := d.Find(v.Machine)
	if err != nil {
		return err
	}
	if len(v.Values) == 0 {
		return fmt.Errorf("nothing to set; as in carte machine set %s note=rack-2: %w", m.Label(), ErrInvalid)
	}
	var names []string
	for _, s := range Settings {
		names = append(names, s.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(v.Values)) {
		i := slices.Index(names, name)
		if i < 0 {
			return fmt.Errorf("setting %q: %w%s", name, ErrInvalid, among("; there are ", names))
		}
		if firstControl(v.Values[name]) >= 0 {
			return fmt.Errorf("setting %s=%q: control characters and broken UTF-8 are not allowed: %w", name, v.Values[name], ErrInvalid)
		}
		if err := Settings[i].set(d, &m, v.Values[name]); err != nil {
			return err
		}
		d.fact(m.ID, 0, "machine %s: %s=%s", m.Label(), name, v.Values[name])
	}
	d.put(m)
	return nil
}

// An Address is what the DHCP server gave a card, and until when.
type Address struct {
	MAC   MAC       `json:"mac"`
	IP    string    `json:"ip"`
	Until time.Time `json:"until"`
}
