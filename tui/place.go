package tui

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"carte/lab"
	"carte/tui/action"
)

// needs is the list of what needs a person. The actions there are those on a machine.
const needs action.Place = "needs"

// A place is what the screen shows; every place has an address.
type place struct {
	at      action.Place
	machine int64  // boot, log
	boot    int64  // boot; 0: the machine's newest
	image   string // images: whose versions are listed
	stack   string // compose: which is put together
}

// A tab is a screen of the first row.
type tab struct {
	at   action.Place
	word string
}

// tabs are in the order of their keys.
var tabs = []tab{
	{action.Machines, "Machines"},
	{action.Queue, "Queue"},
	{action.Images, "Images"},
	{action.Stacks, "Stacks"},
}

// tab is the screen that a place belongs to.
func (p place) tab() action.Place {
	if p.at == action.Boot || p.at == action.Log {
		return action.Machines
	}
	if p.at == action.Compose {
		return action.Stacks
	}
	return p.at
}

// top says whether the place is a tab itself. Only there does leaving leave carte.
func (p place) top() bool {
	return p == (place{at: p.at}) && slices.ContainsFunc(tabs, func(t tab) bool { return t.at == p.at })
}

// address writes the place so that parsePlace reads it.
func (p place) address(s lab.Snapshot) string {
	name := ""
	if m, ok := s.Machines[p.machine]; ok {
		name = m.Label()
	}
	switch {
	case p.at == action.Boot && p.boot != 0:
		return fmt.Sprintf("machines/%s/boot/%d", name, p.boot)
	case p.at == action.Boot:
		return "machines/" + name
	case p.at == action.Log && name != "":
		return "machines/" + name + "/log"
	case p.image != "":
		return "images/" + p.image
	case p.stack != "":
		return "stacks/" + p.stack
	}
	return string(p.at)
}

// crumbs is the address for the right end of the tabs; empty at the top of a screen.
func (p place) crumbs(s lab.Snapshot) string {
	name := s.Machines[p.machine].Label()
	switch {
	case p.at == needs:
		return "! needs you"
	case p.at == action.Boot && p.boot != 0:
		return fmt.Sprintf("Machines > %s > boot %d", name, p.boot)
	case p.at == action.Boot:
		return "Machines > " + name
	case p.at == action.Log && p.machine != 0:
		return "Machines > " + name + " > log"
	case p.at == action.Log:
		return "Log"
	case p.image != "":
		return "Images > " + p.image
	case p.stack != "":
		return "Stacks > " + p.stack
	}
	return ""
}

// parsePlace reads an address.
func parsePlace(s lab.Snapshot, address string) (place, error) {
	parts := strings.Split(strings.Trim(address, "/"), "/")
	at := action.Place(parts[0])
	if len(parts) == 1 {
		switch at {
		case "", action.Machines:
			return place{at: action.Machines}, nil
		case action.Queue, action.Images, action.Stacks, action.Log, needs:
			return place{at: at}, nil
		}
	}
	if at == action.Images && len(parts) == 2 {
		if _, ok := s.Images[parts[1]]; !ok {
			return place{}, fmt.Errorf("image %q: %w", parts[1], lab.ErrNotFound)
		}
		return place{at: at, image: parts[1]}, nil
	}
	if at == action.Stacks && len(parts) == 2 {
		if _, ok := s.Stacks[parts[1]]; !ok {
			return place{}, fmt.Errorf("stack %q: %w", parts[1], lab.ErrNotFound)
		}
		return place{at: action.Compose, stack: parts[1]}, nil
	}
	if at == action.Machines {
		return machinePlace(s, parts[1:])
	}
	return place{}, fmt.Errorf("address %q: it begins with machines, queue, images, stacks or log: %w", address, lab.ErrInvalid)
}

// machinePlace reads what follows machines/.
func machinePlace(s lab.Snapshot, parts []string) (place, error) {
	m, err := s.Find(parts[0])
	if err != nil {
		return place{}, err
	}
	switch {
	case len(parts) == 1:
		return place{at: action.Boot, machine: m.ID}, nil
	case len(parts) == 2 && parts[1] == "log":
		return place{at: action.Log, machine: m.ID}, nil
	case len(parts) == 3 && parts[1] == "boot":
		id, err := strconv.ParseInt(parts[2], 10, 64)
		if b, ok := s.Boots[id]; err == nil && ok && b.Machine == m.ID {
			return place{at: action.Boot, machine: m.ID, boot: id}, nil
		}
		return place{}, fmt.Errorf("boot %s of %s: %w", parts[2], m.Label(), lab.ErrNotFound)
	}
	return place{}, fmt.Errorf("address machines/%s: after the machine comes log or boot/NUMBER: %w", strings.Join(parts, "/"), lab.ErrInvalid)
}
