package agent

import (
	"bytes"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// had puts an earlier version onto the machine's disk, as the server knows it, and changes what a guest has changed.
func (m *machine) had(s *server, before []byte) {
	s.orders.Had = []lab.Write{{Ref: lab.Ref{Name: "im", Version: 2}, Root: s.add(before), Bytes: int64(len(before))}}
}

func TestElsewhere(t *testing.T) {
	a, b, d, e := noise(1, c), noise(2, c), noise(3, c), noise(4, c)
	for _, tt := range []struct {
		name          string
		before, disk  []byte // nil disk: what was before
		image         []byte
		reused, fetch int // chunks; -1: some
	}{
		{"shifted by one", joined(a, b, d, e), nil, joined(e, a, b, d), -1, -1},
		{"one moved to the end", joined(a, b, d, make([]byte, c)), nil, joined(a, b, d, a), 1, 0},
		{"nothing of it", joined(a, a, a, a), nil, joined(b, d, e, e), 0, 3},
		{"a guest was there", joined(a, b, d, e), noise(9, 4*c), joined(e, d, b, a), 0, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, nil)
			disk := tt.disk
			if disk == nil {
				disk = bytes.Clone(tt.before)
			}
			m := newMachine(t, s, disk, s.add(tt.image), len(tt.image))
			m.had(s, tt.before)
			if err := m.run(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(m.disk(), tt.image) {
				t.Error("the disk is not the image")
			}
			r, _ := s.last(func(r lab.Report) bool { return r.Rung == lab.RungHandover })
			if tt.reused >= 0 && r.Moved.Reused != int64(tt.reused*c) {
				t.Errorf("%d bytes reused, want %d chunks", r.Moved.Reused, tt.reused)
			}
			if tt.fetch >= 0 && len(s.asked) != tt.fetch {
				t.Errorf("%d chunks asked for, want %d", len(s.asked), tt.fetch)
			}
			if r.Moved.Reused/c+int64(len(s.asked)) > 4 {
				t.Errorf("%d chunks reused and %d asked for, of 4", r.Moved.Reused/c, len(s.asked))
			}
		})
	}
}

// Where nobody needs anything, nothing is read, fetched or written.
func TestFlashLeavesFreeSpaceAlone(t *testing.T) {
	s := newServer(t, nil)
	image := joined(noise(1, c), make([]byte, c), noise(2, c))
	m := chunk.Manifest{Size: 3 * c, IDs: []chunk.ID{chunk.Sum(image[:c]), chunk.Free, chunk.Sum(image[2*c:])}}
	s.add(image)
	s.mu.Lock()
	s.m[m.Root()] = m
	s.mu.Unlock()
	junk := noise(7, 3*c)
	machine := newMachine(t, s, junk, m.Root(), 3*c)
	if err := machine.run(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(machine.disk(), joined(image[:c], junk[c:2*c], image[2*c:])) {
		t.Error("the disk is not the image with what was in its free space")
	}
	r, _ := s.last(func(r lab.Report) bool { return r.Rung == lab.RungHandover })
	if r.Moved.Zeroed != 0 || r.Moved.Written != 2*c {
		t.Errorf("moved %+v", r.Moved)
	}
}
