package lab

import (
	"fmt"
	"slices"
	"strings"
)

// The disk guard. A disk is written only when the operator has armed it, when exactly one disk of the machine is the
// armed one by serial number or WWN and size, and when it is not removable, writable, large enough, and holds nothing
// that carte did not put there, unless that was confirmed. Every refusal is a sentence; there is no default disk.

// armedFor refuses early what the guard would refuse later anyway.
func armedFor(m Machine, p Plan) error {
	if p.Start == StartMemory {
		return nil
	}
	if len(m.Arms) == 0 {
		return fmt.Errorf("no disk of %s may be written; carte machine arm %s --disk SERIAL allows one%s: %w", m.Label(), m.Label(), diskHint(m.Inventory), ErrRefused)
	}
	var first error
	for _, a := range m.Arms {
		err := m.roomFor(p, a.DiskID)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return fmt.Errorf("%s: %w", m.Label(), first)
}

func diskHint(inv *Inventory) string {
	if inv == nil {
		return ""
	}
	var have []string
	for _, d := range inv.Disks {
		have = append(have, d.DiskID.String())
	}
	return among("; it has ", have)
}

// guard chooses the one disk that a plan may write.
func guard(m Machine, disks []Disk, p Plan) (Disk, error) {
	refuse := func(format string, args ...any) (Disk, error) {
		return Disk{}, fmt.Errorf("%s: %s; nothing was written: %w", m.Label(), fmt.Sprintf(format, args...), ErrRefused)
	}
	if len(m.Arms) == 0 {
		return refuse("no disk is armed; carte machine arm %s --disk SERIAL allows one", m.Label())
	}
	var found []Disk
	var arm Arm
	for _, a := range m.Arms {
		for _, d := range disks {
			if a.Is(d.DiskID) {
				found, arm = append(found, d), a
			}
		}
	}
	switch {
	case len(found) == 0:
		return refuse("the armed disk %s is not there%s", m.Arms[0].DiskID, diskHint(&Inventory{Disks: disks}))
	case len(found) > 1:
		return refuse("%d disks answer to what is armed (%s and %s), and exactly one must", len(found), found[0].Path, found[1].Path)
	}
	d := found[0]
	switch {
	case d.Removable:
		return refuse("disk %s is removable", d.DiskID)
	case d.ReadOnly:
		return refuse("disk %s is write-protected", d.DiskID)
	case m.roomFor(p, d.DiskID) != nil:
		return refuse("%s", reason(m.roomFor(p, d.DiskID)))
	case d.Contents != "" && !m.holds(d.DiskID) && !arm.Confirmed:
		return refuse("disk %s holds something that carte did not write (%s); carte machine arm %s --disk %s --confirm %s gives it up", d.DiskID, d.Contents, m.Label(), d.name(), m.Label())
	}
	return d, nil
}

func (d DiskID) name() string {
	if d.Serial != "" {
		return d.Serial
	}
	return d.WWN
}

// holds says whether carte has written this disk before.
func (m Machine) holds(id DiskID) bool {
	return slices.ContainsFunc(m.Holds, func(h Holding) bool { return h.Is(id) })
}

// maxWas is how many versions may be looked for on a disk besides the one that is being written.
const maxWas = 3

// hold notes what a disk holds now. While it is dirty, what it held before is remembered too.
func (m *Machine) hold(h Holding) {
	if i := slices.IndexFunc(m.Holds, func(x Holding) bool { return x.Is(h.DiskID) }); i >= 0 && h.Dirty {
		was := append([]Ref{m.Holds[i].Ref}, m.Holds[i].Was...)
		was = slices.DeleteFunc(was, func(r Ref) bool { return r == h.Ref })
		h.Was = was[:min(len(was), maxWas)]
	}
	m.Holds = slices.DeleteFunc(slices.Clone(m.Holds), func(x Holding) bool { return x.Is(h.DiskID) })
	m.Holds = append(m.Holds, h)
}

// Arm allows the lab to write one disk of a machine, named by serial number, WWN or the path that the inventory shows.
// A disk that holds what carte did not write needs Confirm, which repeats the machine's name. Disarm takes it back.
type ArmDisk struct {
	Machine string `json:"machine"`
	Disk    string `json:"disk"`
	Confirm string `json:"confirm,omitempty"`
	Disarm  bool   `json:"disarm,omitempty"`
}

func (v ArmDisk) decide(d *draft) error {
	m, err := d.Find(v.Machine)
	if err != nil {
		return err
	}
	if v.Disarm {
		left := slices.DeleteFunc(slices.Clone(m.Arms), func(a Arm) bool { return a.Serial == v.Disk || a.WWN == v.Disk })
		if len(left) == len(m.Arms) {
			return fmt.Errorf("disk %q of %s is not armed: %w", v.Disk, m.Label(), ErrNotFound)
		}
		m.Arms = left
		d.put(m)
		d.fact(m.ID, 0, "disk %s of %s is no longer armed", v.Disk, m.Label())
		return nil
	}
	if m.Virtual != nil && v.Disk == m.Virtual.Serial { // its own disk, which nothing but carte made
		m.Arms = []Arm{{DiskID: DiskID{Serial: m.Virtual.Serial, Bytes: m.Virtual.DiskBytes}, At: d.at}}
		d.put(m)
		d.fact(m.ID, 0, "disk %s of %s is armed", v.Disk, m.Label())
		return nil
	}
	if m.Inventory == nil {
		return fmt.Errorf("nobody has seen the disks of %s yet; turn it on once, the agent looks and writes nothing: %w", m.Label(), ErrRefused)
	}
	var found []Disk
	for _, x := range m.Inventory.Disks {
		if v.Disk != "" && slices.Contains([]string{x.Serial, x.WWN, x.Path}, v.Disk) {
			found = append(found, x)
		}
	}
	switch {
	case len(found) == 0:
		return fmt.Errorf("disk %q of %s: %w%s", v.Disk, m.Label(), ErrNotFound, diskHint(m.Inventory))
	case len(found) > 1:
		return fmt.Errorf("%d disks of %s are called %s (%s and %s); none can be told from the other: %w", len(found), m.Label(), v.Disk, found[0].Path, found[1].Path, ErrRefused)
	}
	x := found[0]
	foreign := x.Contents != "" && !m.holds(x.DiskID)
	switch {
	case !x.Named():
		return fmt.Errorf("%s of %s has neither serial number nor WWN, it could not be told from another disk: %w", x.Path, m.Label(), ErrRefused)
	case x.Removable:
		return fmt.Errorf("%s of %s is removable: %w", x.DiskID, m.Label(), ErrRefused)
	case foreign && v.Confirm != m.Name:
		return fmt.Errorf("disk %s %s of %s holds %s; all of it would be lost; to give it up: --confirm %s: %w", x.DiskID, strings.TrimSpace(x.Model), m.Label(), x.Contents, m.Name, ErrConfirm)
	}
	m.Arms = slices.DeleteFunc(slices.Clone(m.Arms), func(a Arm) bool { return a.Is(x.DiskID) })
	m.Arms = append(m.Arms, Arm{x.DiskID, foreign, d.at})
	d.put(m)
	d.fact(m.ID, 0, "disk %s of %s is armed", x.DiskID, m.Label())
	return nil
}
