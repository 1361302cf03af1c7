package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A Snapshot is the whole lab at one revision. It is immutable: apply makes a new one and shares what did not change.
type Snapshot struct {
	Rev       uint64             `json:"rev"`
	Machines  map[int64]Machine  `json:"machines"`
	Images    map[string]Image   `json:"images"`
	Versions  map[string]Version `json:"versions"` // by Ref.String()
	Stacks    map[string]Stack   `json:"stacks"`
	Boots     map[int64]Boot     `json:"boots"`
	Addresses map[MAC]Address    `json:"addresses"`
	Badges    map[string]Badge   `json:"badges"` // by Ref.String()

	LastMachine int64 `json:"last_machine"`
	LastBoot    int64 `json:"last_boot"`
	LastFact    int64 `json:"last_fact"`
	LastMetric  int64 `json:"last_metric"`

	// In memory only. Still says that nobody serves the lab: it is looked at or spoken to, and nothing goes on.
	Still    bool               `json:"still,omitempty"`
	Live     map[int64]Live     `json:"live"`                // by machine
	Services map[string]Service `json:"services"`            // by name
	OwnKinds []Kind             `json:"own_kinds,omitempty"` // beside Kinds
	KindsAt  KindsAt            `json:"kinds_at,omitzero"`   // where OwnKinds are written
}

// A Change is one row to write. Memory and disk apply the same changes.
type Change interface{ apply(*draft) }

// Gone removes a row.
type Gone struct {
	Table string `json:"table"` // one of the Table constants
	Key   string `json:"key"`   // as printed by fmt.Sprint
}

// The tables that a row can be removed from.
const (
	TableMachines  = "machines"
	TableImages    = "images"
	TableVersions  = "versions"
	TableStacks    = "stacks"
	TableAddresses = "addresses"
)

// A Fact is one line of the journal: what was decided, for good.
type Fact struct {
	Seq     int64     `json:"seq"`
	At      time.Time `json:"at"`
	Machine int64     `json:"machine,omitempty"`
	Boot    int64     `json:"boot,omitempty"`
	Text    string    `json:"text"`
}

// A Service is one of carte's own servers, or something carte saw on the wire.
type Service struct {
	Name  string `json:"name"` // dhcp, proxy, tftp, http, ra, power
	State string `json:"state"`
	OK    bool   `json:"ok"`
	Note  string `json:"note,omitempty"` // where it listens, or why it does not serve
}

// lasting leaves out what lives in memory only.
func lasting(changes []Change) []Change {
	return slices.DeleteFunc(slices.Clone(changes), func(c Change) bool {
		switch c.(type) {
		case Live, Service, OwnKinds, KindsAt:
			return true
		}
		return false
	})
}

// fill replaces the nil maps of a new or loaded snapshot.
func (s *Snapshot) fill() {
	fill(&s.Machines)
	fill(&s.Images)
	fill(&s.Versions)
	fill(&s.Stacks)
	fill(&s.Boots)
	fill(&s.Addresses)
	fill(&s.Badges)
	fill(&s.Live)
	fill(&s.Services)
}

func fill[K comparable, V any](m *map[K]V) {
	if *m == nil {
		*m = map[K]V{}
	}
}

// A draft is a snapshot in the making: what a verb starts from, and what it changed so far. A map is copied before its
// first change, so that the snapshot it came from stays as it was.
type draft struct {
	Snapshot
	at      time.Time
	changes []Change
	owned   map[string]bool
}

func (d *draft) put(changes ...Change) {
	for _, c := range changes {
		c.apply(d)
	}
	d.changes = append(d.changes, changes...)
}

// fact writes a line of the journal.
func (d *draft) fact(machine, boot int64, format string, args ...any) {
	d.put(Fact{Seq: d.LastFact + 1, At: d.at, Machine: machine, Boot: boot, Text: fmt.Sprintf(format, args...)})
}

// own returns the map ready to be written to.
func own[K comparable, V any](d *draft, name string, m *map[K]V) map[K]V {
	if !d.owned[name] {
		if d.owned == nil {
			d.owned = map[string]bool{}
		}
		d.owned[name] = true
		if *m = maps.Clone(*m); *m == nil {
			*m = map[K]V{}
		}
	}
	return *m
}

func (c Machine) apply(d *draft) {
	own(d, "machines", &d.Machines)[c.ID] = c
	d.LastMachine = max(d.LastMachine, c.ID)
}
func (c Image) apply(d *draft)   { own(d, "images", &d.Images)[c.Name] = c }
func (c Version) apply(d *draft) { own(d, "versions", &d.Versions)[c.Ref().String()] = c }
func (c Stack) apply(d *draft)   { own(d, "stacks", &d.Stacks)[c.Name] = c }
func (c Address) apply(d *draft) { own(d, "addresses", &d.Addresses)[c.MAC] = c }
func (c Live) apply(d *draft)    { own(d, "live", &d.Live)[c.Machine] = c }
func (c Service) apply(d *draft) { own(d, "services", &d.Services)[c.Name] = c }
func (c Fact) apply(d *draft)    { d.LastFact = max(d.LastFact, c.Seq) }
func (c Metric) apply(d *draft)  { d.LastMetric = max(d.LastMetric, c.Seq) }
func (c Boot) apply(d *draft) {
	own(d, "boots", &d.Boots)[c.ID] = c
	d.LastBoot = max(d.LastBoot, c.ID)
}
func (c Gone) apply(d *draft) {
	switch c.Table {
	case TableMachines:
		m := own(d, "machines", &d.Machines)
		maps.DeleteFunc(m, func(k int64, _ Machine) bool { return fmt.Sprint(k) == c.Key })
		l := own(d, "live", &d.Live)
		maps.DeleteFunc(l, func(k int64, _ Live) bool { return fmt.Sprint(k) == c.Key })
	case TableImages:
		delete(own(d, "images", &d.Images), c.Key)
	case TableVersions:
		delete(own(d, "versions", &d.Versions), c.Key)
	case TableStacks:
		delete(own(d, "stacks", &d.Stacks), c.Key)
	case TableAddresses:
		delete(own(d, "addresses", &d.Addresses), MAC(c.Key))
	default:
		panic("BUG: nothing is removed from " + c.Table)
	}
}

// Find returns the machine with that name or address.
func (s Snapshot) Find(ref string) (Machine, error) {
	mac, _ := ParseMAC(ref)
	for _, m := range s.Machines {
		if m.Name == ref || (mac != "" && slices.Contains(m.MACs, mac)) {
			return m, nil
		}
	}
	return Machine{}, fmt.Errorf("machine %q: %w%s", ref, ErrNotFound, among("; there are ", s.machineNames()))
}

func (s Snapshot) machineNames() (names []string) {
	for _, m := range s.SortedMachines() {
		names = append(names, m.Label())
	}
	return names
}

// SortedMachines returns the machines by name, the nameless last by address.
func (s Snapshot) SortedMachines() []Machine {
	return slices.SortedFunc(maps.Values(s.Machines), func(a, b Machine) int {
		if (a.Name == "") != (b.Name == "") {
			return strings.Compare(b.Name, a.Name)
		}
		return strings.Compare(a.Label(), b.Label())
	})
}

// among lists what there is, so that a wrong name can be mended at once.
func among(words string, names []string) string {
	switch n := len(names); {
	case n == 0:
		return ""
	case n > 8:
		return fmt.Sprintf("%s%s and %d more", words, strings.Join(names[:8], ", "), n-8)
	}
	return words + strings.Join(names, ", ")
}
