package agent

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	diskfs "github.com/diskfs/go-diskfs/partition/gpt"

	"carte/lab"
	"carte/lab/chunk"
)

// An independent reader must find what was meant, at both block sizes, and the copy must stand in for the table.
func TestTreeTables(t *testing.T) {
	for _, block := range []int{512, 4096} {
		t.Run(fmt.Sprint(block), func(t *testing.T) {
			id := lab.DiskID{Serial: "s1", Bytes: 64<<20 + 4096}
			tree := lab.Write{Ref: lab.Ref{Name: "demo", Version: 1}, Offset: lab.TreeOffset, Bytes: 20 << 20}
			tables, err := treeTables(id, block, lab.Region{}, tree)
			if err != nil {
				t.Fatal(err)
			}
			disk := make([]byte, id.Bytes)
			for _, x := range tables {
				if x.off+int64(len(x.data)) > id.Bytes || x.off < tree.Offset+tree.Bytes && x.off+int64(len(x.data)) > tree.Offset {
					t.Fatalf("%s lies at %d to %d", x.what, x.off, x.off+int64(len(x.data)))
				}
				copy(disk[x.off:], x.data)
			}
			path := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(path, disk, 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := file.OpenFromPath(path, true)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			table, err := diskfs.Read(b, block, block)
			if err != nil {
				t.Fatal(err)
			}
			if err := table.Verify(b, uint64(id.Bytes)); err != nil {
				t.Errorf("the copy at the end: %v", err)
			}
			parts := table.Partitions
			if len(parts) == 0 || parts[0].Name != basePartition || parts[0].Type != diskfs.LinuxFilesystem ||
				parts[0].Start*uint64(block) != uint64(tree.Offset) || (parts[0].End-parts[0].Start+1)*uint64(block) != uint64(tree.Bytes) {
				t.Errorf("partition %+v", parts)
			}
			if got := contents(bytes.NewReader(disk), id.Bytes); got != "GPT with 1 partition: blank" {
				t.Errorf("contents = %q", got)
			}
			clear(disk[:lab.TreeOffset])
			if got := contents(bytes.NewReader(disk), id.Bytes); got != "GPT (only its copy) with 1 partition: blank" {
				t.Errorf("contents without the first table = %q", got)
			}
			if block == 512 {
				sfdisk(t, path)
			}
		})
	}
}

// sfdisk, where there is one, says every fault that it sees.
func sfdisk(t *testing.T, path string) {
	program, err := exec.LookPath("sfdisk")
	if err != nil {
		t.Log("no sfdisk here; go-diskfs alone has read the table")
		return
	}
	out, err := exec.Command(program, "--verify", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No errors detected") {
		t.Errorf("sfdisk --verify: %v\n%s", err, out)
	}
}

func TestTreeTablesDoNotFit(t *testing.T) {
	id := lab.DiskID{Serial: "s1", Bytes: 8 << 20}
	for _, w := range []lab.Write{
		{Offset: lab.TreeOffset, Bytes: 7 << 20}, {Offset: 512, Bytes: 1 << 20}, {Offset: lab.TreeOffset + 1, Bytes: 1 << 20}, {Offset: 0, Bytes: 1 << 20},
	} {
		if _, err := treeTables(id, 512, lab.Region{}, w); err == nil {
			t.Errorf("%d bytes at %d fit", w.Bytes, w.Offset)
		}
	}
}

// A tree is flashed with its table; what is around it stays, and the second time nothing is written.
func TestFlashTree(t *testing.T) {
	tree := joined(noise(1, 5*c), make([]byte, 2*c), noise(2, c/2))
	size := lab.TreeOffset + len(tree) + lab.TreeTail + 3*c
	disk := noise(3, size)
	s := newServer(t, nil)
	m := newMachine(t, s, disk, s.add(tree), len(tree))
	s.orders.Form, s.orders.Start, s.orders.Writes[0].Offset = lab.FormTree, lab.StartPivot, lab.TreeOffset
	if err := m.run(); err != nil {
		t.Fatal(err)
	}
	tables, err := treeTables(m.id, 512, lab.Region{}, s.orders.Writes[0])
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(disk)
	copy(want[lab.TreeOffset:], tree)
	for _, x := range tables {
		copy(want[x.off:], x.data)
	}
	if !bytes.Equal(m.disk(), want) {
		t.Fatal("the disk is not tables and tree")
	}
	if err := m.run(); err != nil {
		t.Fatal(err)
	}
	r, _ := s.last(func(lab.Report) bool { return true })
	if s.writing || r.Moved.Written+r.Moved.Zeroed+r.Moved.Fetched != 0 {
		t.Errorf("the second time moved %+v", r.Moved)
	}
	spoiled := m.disk()
	spoiled[len(spoiled)-1] ^= 1
	if err := os.WriteFile(m.path, spoiled, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.run(); err != nil || !bytes.Equal(m.disk(), want) {
		t.Errorf("error %v; the copy of the table was not restored", err)
	}
	r, _ = s.last(func(r lab.Report) bool { return r.Rung == lab.RungHandover })
	if _, fetched := s.last(func(r lab.Report) bool { return r.Rung == lab.RungFetch }); fetched || r.Moved.Written != int64(len(tables[1].data)) || r.Moved.Fetched != 0 {
		t.Errorf("restoring the copy moved %+v, fetched %v", r.Moved, fetched)
	}
}

// The table never changes by itself: it is part of what a second boot compares.
func TestTreeTablesGolden(t *testing.T) {
	tables, err := treeTables(lab.DiskID{Serial: "golden", WWN: "naa.1", Bytes: 1 << 30}, 512, lab.Region{}, lab.Write{Offset: lab.TreeOffset, Bytes: 1 << 28})
	if err != nil {
		t.Fatal(err)
	}
	const want = "f91a058d0e406558e7e370836b1885f01211bf8189610970ebcfe0d9dc918477"
	if got := chunk.Sum(joined(tables[0].data, tables[1].data)).String(); got != want {
		t.Errorf("tables hash to %s, want %s", got, want)
	}
}
