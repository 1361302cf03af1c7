package tui

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"carte/lab"
	"carte/tui/action"
)

// rowKeys names the rows of the list shown, in their order.
func (m *model) rowKeys() (keys []string) {
	if m.x == nil {
		return nil
	}
	switch m.at.at {
	case action.Machines:
		return machineKeys(m.keptMachines(m.rows()))
	case action.Queue:
		for _, b := range m.queueRows() {
			keys = append(keys, fmt.Sprint(b.ID))
		}
	case action.Images:
		if m.at.image != "" {
			for _, v := range m.versions() {
				keys = append(keys, v.Ref().String())
			}
			return keys
		}
		for _, i := range m.images() {
			keys = append(keys, i.Name)
		}
	case action.Stacks:
		for _, s := range m.stacks() {
			keys = append(keys, s.Name)
		}
	case action.Compose:
		for _, r := range m.layerRows() {
			keys = append(keys, r.ref.Name)
		}
	case needs:
		for _, a := range m.alerts() {
			keys = append(keys, a.key)
		}
	}
	return keys
}

// target is what is selected.
func (m *model) target() (t action.Target) {
	if m.x == nil {
		return t
	}
	t.Snapshot = m.x.snap
	at := m.list().settle(m.rowKeys())
	switch m.at.at {
	case action.Machines:
		if at >= 0 {
			m.aim(&t, m.keptMachines(m.rows())[at].ID)
		}
	case action.Queue:
		if at >= 0 {
			t.Boot = m.queueRows()[at]
			t.Machine = t.Snapshot.Machines[t.Boot.Machine]
		}
	case action.Images:
		switch {
		case m.at.image != "":
			t.Image = t.Snapshot.Images[m.at.image]
			if at >= 0 {
				t.Version = m.versions()[at]
			}
		case at >= 0:
			t.Image = m.images()[at]
		}
	case action.Stacks:
		if at >= 0 {
			t.Stack = m.stacks()[at]
		}
	case action.Compose:
		if d := m.composed(); d != nil {
			t.Stack, t.Remarks = d.st, d.remarks()
		}
		if at >= 0 {
			r := m.layerRows()[at]
			t.Image = r.im
			if r.ref.Version != 0 {
				t.Version = r.v
			}
		}
	case needs:
		if at >= 0 {
			m.aim(&t, m.alerts()[at].machine)
		}
	case action.Boot:
		m.aim(&t, m.at.machine)
		if b, ok := m.shownBoot(); ok {
			t.Boot = b
		}
	case action.Log:
		m.aim(&t, m.at.machine)
	}
	return t
}

// aim makes a machine, and its active boot or else its newest, the target.
func (m *model) aim(t *action.Target, machine int64) {
	t.Machine = t.Snapshot.Machines[machine]
	if machine != 0 {
		t.Boot = m.x.newestOf(machine)
	}
}

// shownBoot is the boot whose detail is shown, or whose time the log counts from.
func (m *model) shownBoot() (lab.Boot, bool) {
	if m.x == nil || m.at.machine == 0 {
		return lab.Boot{}, false
	}
	if m.at.boot != 0 {
		b, ok := m.x.snap.Boots[m.at.boot]
		return b, ok
	}
	b := m.x.newestOf(m.at.machine)
	return b, b.ID != 0
}

// queueRows are the boots that run and those that wait, the next first.
func (m *model) queueRows() (rows []lab.Boot) {
	f := m.filters[place{at: action.Queue}]
	for _, b := range slices.Concat(m.x.busy, m.x.waits) {
		name := m.x.snap.Machines[b.Machine].Label()
		if f.keeps(fmt.Sprint(b.ID, " ", name, " ", b.Plan.Stack, " ", b.State), map[string]string{"state": string(b.State), "machine": name, "name": name, "stack": b.Plan.Stack}) {
			rows = append(rows, b)
		}
	}
	return rows
}

// images are those that the filter keeps, by name.
func (m *model) images() (list []lab.Image) {
	f := m.filters[place{at: action.Images}]
	for _, name := range slices.Sorted(maps.Keys(m.x.snap.Images)) {
		i := m.x.snap.Images[name]
		if f.keeps(i.Name+" "+i.Kind+" "+string(i.Form), map[string]string{"kind": i.Kind, "name": i.Name, "form": string(i.Form)}) {
			list = append(list, i)
		}
	}
	return list
}

// versions are those of the image that was opened and that the filter keeps, the newest first.
func (m *model) versions() (list []lab.Version) {
	f := m.filters[m.at]
	for _, v := range newestFirst(m.x.snap.VersionsOf(m.at.image)) {
		if f.keeps(fmt.Sprint(v.Ref(), " ", v.Author, " ", v.Message, " ", v.Found), map[string]string{"name": v.Ref().String()}) {
			list = append(list, v)
		}
	}
	return list
}

func newestFirst(list []lab.Version) []lab.Version {
	slices.SortFunc(list, func(a, b lab.Version) int { return cmp.Compare(b.Number, a.Number) })
	return list
}

// stacks are those that the filter keeps, by name.
func (m *model) stacks() (list []lab.Stack) {
	f := m.filters[place{at: action.Stacks}]
	for _, s := range m.x.snap.SortedStacks() {
		if f.keeps(fmt.Sprint(s.Name, " ", s.Layers, " ", s.Cmdline), map[string]string{"name": s.Name, "stack": s.Name}) {
			list = append(list, s)
		}
	}
	return list
}

// found says how many rows or lines the filter keeps.
func (m *model) found() string {
	if m.at.at == action.Log || m.at.at == action.Boot {
		return fmt.Sprintf("%d of %s", m.log.n(), plural(len(m.log.lines), "line"))
	}
	all := 0
	if m.x != nil {
		switch m.at.at {
		case action.Machines:
			all = len(m.x.snap.Machines)
		case action.Queue:
			all = len(m.x.busy) + len(m.x.waits)
		case action.Images:
			all = len(m.x.snap.Images)
			if m.at.image != "" {
				all = len(m.x.snap.VersionsOf(m.at.image))
			}
		case needs:
			all = len(m.alerts())
		case action.Stacks:
			all = len(m.x.snap.Stacks)
		case action.Compose:
			all = len(m.composed().st.Layers)
		}
	}
	return fmt.Sprintf("%d of %d", len(m.rowKeys()), all)
}
