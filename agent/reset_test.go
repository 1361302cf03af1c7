package agent

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"carte/lab"
)

// stacked has a machine with a tree, a kernel and files, each in a place of its own, and room for changes.
func stacked(t *testing.T) (s *server, m *machine, want []byte) {
	images := [][]byte{joined(noise(1, 40*c), make([]byte, 2*c)), noise(2, 3*c), noise(4, 5*c/2)}
	disk := make([]byte, 20<<20)
	s = newServer(t, nil)
	m = newMachine(t, s, disk, s.add(images[0]), len(images[0]))
	s.orders.Form, s.orders.Start, s.orders.Boot = lab.FormTree, lab.StartPivot, 7
	want = bytes.Clone(disk)
	s.orders.Writes = nil
	at := int64(lab.TreeOffset)
	for i, b := range images {
		form := []lab.Form{lab.FormTree, lab.FormKernel, lab.FormFiles}[i]
		s.orders.Writes = append(s.orders.Writes, lab.Write{Ref: lab.Ref{Name: string(form), Version: 1}, Root: s.add(b), Offset: at, Bytes: int64(len(b)), Form: form})
		copy(want[at:], b)
		at += (int64(len(b)) + lab.LayerUnit - 1) / lab.LayerUnit * lab.LayerUnit
	}
	s.orders.Compose.Scratch = lab.Region{Offset: at, Bytes: lab.LayerUnit}
	tables, err := treeTables(m.id, 512, s.orders.Compose.Scratch, s.orders.Writes...)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range tables {
		copy(want[x.off:], x.data)
	}
	return s, m, want
}

// said returns what the agent has said since it was last called.
func said(s *server) string {
	all := strings.Join(s.lines(), "\n")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = nil
	return all
}

// Several layers are laid, each where its orders say, and where the server has seen them proven, little or nothing of them is read
// again. What differs is found where it is looked for, and mended.
func TestReset(t *testing.T) {
	s, m, want := stacked(t)
	if err := m.run(); err != nil || !bytes.Equal(m.disk(), want) {
		t.Fatalf("laid: %v; the disk is right: %v", err, bytes.Equal(m.disk(), want))
	}
	said(s)
	total := int64(0)
	for _, x := range s.orders.Writes {
		total += x.Bytes
	}
	run := func(how lab.Reset, boot int64) (lab.Report, string) {
		t.Helper()
		s.orders.Reset, s.orders.Boot = how, boot
		if err := m.run(); err != nil {
			t.Fatal(err)
		}
		r, _ := s.last(func(lab.Report) bool { return true })
		return r, said(s)
	}
	for how, most := range map[lab.Reset]int64{lab.ResetTrust: total / 8, lab.ResetSampled: total / 5} {
		r, words := run(how, 8)
		if r.Moved.Read > most || r.Moved.Written != 0 || !strings.Contains(words, "reset "+string(how)) {
			t.Errorf("reset %s moved %+v and said %s", how, r.Moved, words)
		}
	}
	spoil := func(at int64) {
		b := m.disk()
		b[at] ^= 1
		if err := os.WriteFile(m.path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spoil(s.orders.Writes[1].Offset)
	if _, words := run(lab.ResetTrust, 9); !bytes.Equal(m.disk(), want) || !strings.Contains(words, "all is compared") {
		t.Errorf("another kernel's beginning was not mended: %s", words)
	}
	spoil(s.orders.Writes[0].Offset + 20*c) // no boot looks at all, and of sixteen some does
	boots := int64(10)
	for ; !bytes.Equal(m.disk(), want) && boots < 1000; boots++ {
		run(lab.ResetSampled, boots)
	}
	if boots == 1000 {
		t.Error("no sample of a thousand had the chunk that differs")
	}
	t.Logf("found by boot %d", boots)
}

// A disk that is only laid ends nothing: the agent goes on and waits.
func TestLay(t *testing.T) {
	s, m, want := stacked(t)
	s.orders.Start = lab.StartLay
	n := 0
	s.reply = func(r lab.Report) lab.Reply {
		if r.Boot == 0 {
			if n++; n == 3 {
				return lab.Reply{Orders: &lab.Orders{Do: lab.DoLocal, Machine: "m"}}
			}
		}
		return lab.Reply{}
	}
	if err := m.run(); err != nil || !bytes.Equal(m.disk(), want) || len(m.started) != 1 || m.started[0].Do != lab.DoLocal {
		t.Errorf("error %v, started %+v", err, m.started)
	}
}

// Orders that no disk can be made equal to are refused before anything is written.
func TestLayersDoNotFit(t *testing.T) {
	for what, change := range map[string]func(*lab.Orders){
		"a tree over a tree":   func(o *lab.Orders) { o.Writes[1].Form = lab.FormTree },
		"layers that overlap":  func(o *lab.Orders) { o.Writes[1].Offset = o.Writes[0].Offset + c },
		"a place that is none": func(o *lab.Orders) { o.Writes[2].Place = "home" },
		"scratch over a layer": func(o *lab.Orders) { o.Compose.Scratch.Offset = o.Writes[2].Offset },
		"scratch off the disk": func(o *lab.Orders) { o.Compose.Scratch.Bytes = 1 << 40 },
		"no images":            func(o *lab.Orders) { o.Writes = nil },
	} {
		s, m, _ := stacked(t)
		change(&s.orders)
		was := m.disk()
		if err := m.run(); err == nil || !bytes.Equal(m.disk(), was) {
			t.Errorf("%s: error %v", what, err)
		}
	}
}
