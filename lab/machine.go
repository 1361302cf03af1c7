package lab

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"carte/lab/chunk"
)

// A MAC is a network card's address in the form 52:54:00:00:00:01.
type MAC string

// ParseMAC reads an Ethernet address in any of the usual forms.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return "", fmt.Errorf("%q is not a network card's address such as 52:54:00:00:00:01: %w", s, ErrInvalid)
	}
	if hw[0]&1 != 0 {
		return "", fmt.Errorf("%s is a group address, no card has it: %w", s, ErrInvalid)
	}
	return MAC(hw.String()), nil
}

// Standing is how far the lab trusts a machine.
type Standing string

const (
	Unknown Standing = "unknown" // asked for a boot; waits in a loop
	Adopted Standing = "adopted" // the lab may boot it
	Ignored Standing = "ignored" // gets its own disk and nothing else
)

// A Machine is something that boots.
type Machine struct {
	ID        int64       `json:"id"`
	Name      string      `json:"name"` // empty until adopted
	Standing  Standing    `json:"standing"`
	MACs      []MAC       `json:"macs"` // sorted
	UUID      string      `json:"uuid,omitempty"`
	Virtual   *Virtual    `json:"virtual,omitempty"` // nil: metal
	Power     Power       `json:"power"`
	Warm      bool        `json:"warm"`       // keep the agent running when nothing is queued
	Tail      int64       `json:"tail_bytes"` // asked for at the end of its disk; 0: the disk decides; -1: none
	Note      string      `json:"note,omitempty"`
	Inventory *Inventory  `json:"inventory,omitempty"` // as the agent last saw it
	Arms      []Arm       `json:"arms"`
	Holds     []Holding   `json:"holds"` // what carte has written to its disks
	Ticket    Ticket      `json:"ticket"`
	Parked    string      `json:"parked,omitempty"` // why the lab no longer boots it
	Since     time.Time   `json:"since"`
	Kexec     KexecRecord `json:"kexec,omitzero"`
}

// Label names the machine on screen: its name, or its address while it has none.
func (m Machine) Label() string {
	if m.Name != "" {
		return m.Name
	}
	if len(m.MACs) > 0 {
		return string(m.MACs[0])
	}
	return fmt.Sprintf("machine %d", m.ID)
}

// Code is the four letters by which a person tells an unknown machine's own screen from its neighbours'.
func (m Machine) Code() string {
	sum := chunk.Sum([]byte(strings.Join(macStrings(m.MACs), " ")))
	code := make([]byte, 4)
	for i := range code {
		code[i] = "ABCDEFGHJKLMNPQRSTUVWXYZ"[int(sum[i])%24]
	}
	return string(code)
}

func macStrings(macs []MAC) []string {
	s := make([]string, len(macs))
	for i, m := range macs {
		s[i] = string(m)
	}
	return s
}

// Arch is the architecture of the machine's processor, as Go calls it.
func (m Machine) Arch() string {
	if m.Inventory != nil && m.Inventory.Arch != "" {
		return m.Inventory.Arch
	}
	return "amd64"
}

// Firmware is what the machine starts by, as far as anybody knows.
func (m Machine) Firmware() Firmware {
	switch {
	case m.Inventory != nil && m.Inventory.Firmware != "":
		return m.Inventory.Firmware
	case m.Virtual != nil:
		return m.Virtual.Firmware
	}
	return ""
}

// Virtual describes a machine that carte runs itself, under QEMU.
type Virtual struct {
	DiskBytes   int64    `json:"disk_bytes"`
	Serial      string   `json:"serial"` // of its disk; set when the machine is added
	MemoryBytes int64    `json:"memory_bytes"`
	CPUs        int      `json:"cpus"`
	Firmware    Firmware `json:"firmware"`
	Wire        string   `json:"wire"` // "user": QEMU's own network, no root; else the name of a tap interface
}

// Firmware is what runs before the boot loader.
type Firmware string

const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Power says how a machine is switched.
type Power struct {
	Driver string   `json:"driver"` // qemu, wol, exec, manual
	Exec   []string `json:"exec,omitempty"`
}

// Inventory is what the agent found on the machine.
type Inventory struct {
	At          time.Time `json:"at"`
	Vendor      string    `json:"vendor,omitempty"`
	Product     string    `json:"product,omitempty"`
	Serial      string    `json:"serial,omitempty"`
	UUID        string    `json:"uuid,omitempty"`
	Firmware    Firmware  `json:"firmware"`
	Arch        string    `json:"arch,omitempty"` // as Go calls it; empty: amd64
	CPU         string    `json:"cpu"`
	Cores       int       `json:"cores"`   // physical
	Threads     int       `json:"threads"` // logical
	NUMA        int       `json:"numa_nodes"`
	MemoryBytes int64     `json:"memory_bytes"`
	Disks       []Disk    `json:"disks"`
	NICs        []NIC     `json:"nics"`
}

// A Disk is one that the agent sees. Contents says what is on it, empty when its first and last bytes are blank.
type Disk struct {
	DiskID
	Path       string `json:"path"` // /dev/nvme0n1; changes between boots
	Model      string `json:"model,omitempty"`
	Rotational bool   `json:"rotational"`
	Removable  bool   `json:"removable"`
	ReadOnly   bool   `json:"read_only"`
	BlockBytes int    `json:"block_bytes"`
	Contents   string `json:"contents,omitempty"`
}

// A DiskID names one disk for good: its serial number or WWN, and its size.
type DiskID struct {
	Serial string `json:"serial,omitempty"`
	WWN    string `json:"wwn,omitempty"`
	Bytes  int64  `json:"bytes"`
}

func (d DiskID) String() string {
	name := d.Serial
	if name == "" {
		name = d.WWN
	}
	if name == "" {
		name = "(no serial number)"
	}
	return fmt.Sprintf("%s (%s)", name, Bytes(d.Bytes))
}

// Named says whether the disk has a name that no other should have.
func (d DiskID) Named() bool { return d.Serial != "" || d.WWN != "" }

// Is says whether both name the same disk. A disk without serial number and WWN is nobody's.
func (d DiskID) Is(o DiskID) bool {
	return d.Named() && d == o
}

// A NIC is one network card.
type NIC struct {
	MAC    MAC    `json:"mac"`
	Name   string `json:"name"`
	Driver string `json:"driver,omitempty"`
	Mbps   int    `json:"mbps"` // -1 unknown
	Link   bool   `json:"link"`
}

// An Arm is the operator's leave to write one disk.
type Arm struct {
	DiskID
	Confirmed bool      `json:"confirmed"` // foreign contents may be overwritten
	At        time.Time `json:"at"`
}

// A Holding is what carte has written to a disk. Dirty means a flash began and was not proven.
type Holding struct {
	DiskID
	Root  chunk.ID  `json:"root"`
	Ref   Ref       `json:"ref"`
	Dirty bool      `json:"dirty"`
	Was   []Ref     `json:"was"` // while Dirty: what may be left of before, the latest first
	At    time.Time `json:"at"`
	Over  []Held    `json:"over,omitempty"` // what lies behind it: the other layers of its stack

	// Bytes of lazy layers that were to come when the rest was proven. What they are the shim brings, and says when it has.
	Absent int64 `json:"absent_bytes,omitempty"`
}

// Held is a layer that carte has written behind the first.
type Held struct {
	Ref    Ref      `json:"ref"`
	Root   chunk.ID `json:"root"`
	Offset int64    `json:"offset_bytes"`
}

// KexecRecord is what is known of a machine's way of replacing its kernel. Failed empties Proven, and the other way round.
type KexecRecord struct {
	Proven time.Time `json:"proven,omitzero"`
	Failed string    `json:"failed,omitempty"` // why; a stack that leaves the start open then takes netboot
}

// Live is what is true of a machine just now; it is not written down.
type Live struct {
	Machine  int64     `json:"machine"`
	Seen     time.Time `json:"seen"`
	Asked    int       `json:"asked"` // network boots asked for since the server started
	IP       string    `json:"ip,omitempty"`
	Power    string    `json:"power"`           // on, off or empty: nobody knows
	Peer     Peer      `json:"-"`               // where its agent hands over chunks, while it works; for agents alone
	Order    string    `json:"order,omitempty"` // on, off, cycle: the operator's, not carried out yet
	Note     string    `json:"note,omitempty"`  // what went wrong last, such as a power driver's error
	Silent   int       `json:"silent"`          // agents started to look at the machine that have not said hello
	Agent    bool      `json:"agent"`           // an agent with a valid key reported last
	Shim     bool      `json:"shim,omitempty"`  // a shim did
	Loaded   bool      `json:"-"`               // it was sent all of the kernel that its boot's plan has
	Started  bool      `json:"-"`               // and iPXE said that it starts it
	Progress Progress  `json:"progress"`
	Moved    Moved     `json:"moved"` // so far, by the boot it works on
	Said     Said      `json:"said,omitzero"`
}

// Progress is how far the agent is on the rung it is on.
type Progress struct {
	Rung Rung    `json:"rung"`
	Done int64   `json:"done_bytes"`
	Of   int64   `json:"of_bytes"`
	Rate float64 `json:"rate_bytes_per_second"`
}

// Left is the time that the rung still takes at this rate, 0 when nobody can tell.
func (p Progress) Left() time.Duration {
	if p.Rate <= 0 || p.Of <= p.Done {
		return 0
	}
	return time.Duration(float64(p.Of-p.Done) / p.Rate * float64(time.Second))
}

// owner returns the machine that has the card.
func (s Snapshot) owner(mac MAC) (Machine, bool) {
	for _, m := range s.Machines {
		if slices.Contains(m.MACs, mac) {
			return m, true
		}
	}
	return Machine{}, false
}
