package agent

import (
	"bytes"
	"os"
	"testing"

	"carte/lab"
)

// A flash leaves a lazy layer's chunks for later, but for those that this machine has somewhere; what is to be zero is zero,
// and what is not lazy is there and proven.
func TestFlashPostponesLazyLayers(t *testing.T) {
	root := noise(1, 8*c)
	data := joined(noise(2, 3*c), make([]byte, 2*c), root[:c], noise(3, 2*c))
	const rootAt, dataAt = lab.TreeOffset, lab.TreeOffset + 8*c
	disk := noise(9, 16*mib)
	copy(disk[rootAt:], root[:c])
	copy(disk[dataAt+7*c:], data[7*c:])
	s := newServer(t, nil)
	m := newMachine(t, s, disk, s.add(root), len(root))
	s.orders.Form, s.orders.Start = lab.FormTree, lab.StartPivot
	s.orders.Writes = []lab.Write{
		{Ref: lab.Ref{Name: "root", Version: 1}, Root: s.add(root), Bytes: int64(len(root)), Offset: rootAt, Form: lab.FormTree},
		{Ref: lab.Ref{Name: "data", Version: 1}, Root: s.add(data), Bytes: int64(len(data)), Offset: dataAt, Form: lab.FormFiles, Lazy: true},
	}
	if err := m.run(); err != nil {
		t.Fatal(err)
	}
	got := m.disk()
	if !bytes.Equal(got[rootAt:][:len(root)], root) {
		t.Error("the layer that is not lazy is not there")
	}
	for i, there := range []bool{false, false, false, true, true, true, false, true} {
		if is := bytes.Equal(got[dataAt+i*c:][:c], data[i*c:][:c]); is != there {
			t.Errorf("chunk %d is there: %v", i, is)
		}
	}
	if r, _ := s.last(func(r lab.Report) bool { return r.Proven }); r.Absent != 4*c {
		t.Errorf("%d bytes are told to be absent, want %d", r.Absent, 4*c)
	}
	if w := m.started[0].Writes; w[0].Lazy || !w[1].Lazy {
		t.Errorf("started with %+v", w)
	}

	copy(got[dataAt:], data)
	if err := os.WriteFile(m.path, got, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.run(); err != nil {
		t.Fatal(err)
	}
	if r, ok := s.last(func(r lab.Report) bool { return r.Proven }); !ok || r.Absent != 0 || m.started[1].Writes[1].Lazy {
		t.Errorf("with all there, %d bytes are absent", r.Absent)
	}
}
