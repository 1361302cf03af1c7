package netboot

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"carte/lab"
)

// memory is a book that lasts as long as the test: a lab can be opened on it again.
type memory struct {
	mu sync.Mutex
	s  lab.Snapshot
}

func newMemory() *memory {
	return &memory{s: lab.Snapshot{Machines: map[int64]lab.Machine{}, Images: map[string]lab.Image{}, Versions: map[string]lab.Version{},
		Stacks: map[string]lab.Stack{}, Boots: map[int64]lab.Boot{}, Addresses: map[lab.MAC]lab.Address{}}}
}

func (b *memory) Load(context.Context) (lab.Snapshot, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.s
	s.Machines, s.Images, s.Versions = maps.Clone(s.Machines), maps.Clone(s.Images), maps.Clone(s.Versions)
	s.Stacks, s.Boots, s.Addresses = maps.Clone(s.Stacks), maps.Clone(s.Boots), maps.Clone(s.Addresses)
	return s, nil
}

func (b *memory) Save(_ context.Context, changes []lab.Change) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range changes {
		switch c := c.(type) {
		case lab.Machine:
			b.s.Machines[c.ID] = c
			b.s.LastMachine = max(b.s.LastMachine, c.ID)
		case lab.Image:
			b.s.Images[c.Name] = c
		case lab.Version:
			b.s.Versions[c.Ref().String()] = c
		case lab.Stack:
			b.s.Stacks[c.Name] = c
		case lab.Boot:
			b.s.Boots[c.ID] = c
			b.s.LastBoot = max(b.s.LastBoot, c.ID)
		case lab.Address:
			b.s.Addresses[c.MAC] = c
		case lab.Fact:
			b.s.LastFact = max(b.s.LastFact, c.Seq)
		case lab.Metric:
			b.s.LastMetric = max(b.s.LastMetric, c.Seq)
		case lab.Gone:
			b.remove(c)
		default:
			return fmt.Errorf("a change of type %T", c)
		}
	}
	return nil
}

func (b *memory) remove(g lab.Gone) {
	switch g.Table {
	case lab.TableMachines:
		maps.DeleteFunc(b.s.Machines, func(k int64, _ lab.Machine) bool { return fmt.Sprint(k) == g.Key })
	case lab.TableAddresses:
		delete(b.s.Addresses, lab.MAC(g.Key))
	default:
		panic("BUG: this test removes a row of " + g.Table)
	}
}
