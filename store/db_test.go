package store

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

func openDB(t *testing.T, file string) *DB {
	t.Helper()
	db, err := OpenDB(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123e6, time.UTC)

// rows is one row of every table, with something in every field.
func rows() []lab.Change {
	disk := lab.DiskID{Serial: "S<1>", WWN: "w", Bytes: 1 << 40}
	metric := lab.Metric{Seq: 1, Boot: 1, Name: "t", Value: 0.1, Unit: "µs", At: noon}
	return []lab.Change{
		lab.Machine{ID: 1, Name: "m", Standing: lab.Adopted, MACs: []lab.MAC{"52:54:00:00:00:01", "52:54:00:00:00:02"}, UUID: "u", Warm: true, Since: noon,
			Virtual: &lab.Virtual{DiskBytes: 1, MemoryBytes: 2, CPUs: 3, Firmware: lab.UEFI, Wire: "user"}, Power: lab.Power{Driver: "exec", Exec: []string{"a", "b"}},
			Inventory: &lab.Inventory{At: noon, Disks: []lab.Disk{{DiskID: disk, Path: "/dev/sda"}}, NICs: []lab.NIC{{MAC: "52:54:00:00:00:01"}}},
			Arms:      []lab.Arm{{DiskID: disk, At: noon}}, Holds: []lab.Holding{{DiskID: disk, Root: chunk.ID{1}, Ref: lab.Ref{Name: "i", Version: 1}, At: noon}},
			Ticket: lab.Ticket{Number: 7, Key: "k", At: noon}, Parked: "why"},
		lab.Image{Name: "i", Kind: "system", Form: lab.FormDisk, Latest: 1, Since: noon},
		lab.Version{Image: "i", Number: 1, Root: chunk.ID{1}, Bytes: 5, Content: 4, FileSystems: 2, Stored: 3, Message: "a & b", Author: "me", Found: "GPT", At: noon},
		lab.Stack{Name: "s", Layers: []lab.Ref{{Name: "i"}, {Name: "i", Version: 1}}, Cmdline: "quiet", Since: noon},
		lab.Boot{ID: 1, Machine: 1, State: lab.Running, Order: -1, Disk: disk, Queued: noon, Since: noon, Metrics: map[string]lab.Metric{"t": metric},
			Climbs: []lab.Climb{{Rung: lab.RungDHCP, At: noon, Attempt: 1, Inferred: true}},
			Plan:   lab.Plan{Stack: "s", Layers: []lab.PlanLayer{{Ref: lab.Ref{Name: "i", Version: 1}, Root: chunk.ID{1}, Bytes: 5}}, Digest: chunk.ID{2}}},
		lab.Address{MAC: "52:54:00:00:00:01", IP: "10.0.0.1", Until: noon},
		metric,
		lab.Fact{Seq: 1, At: noon, Text: "first"},
		lab.Fact{Seq: 2, At: noon, Machine: 1, Boot: 1, Text: "second"},
		lab.Badge{Ref: lab.Ref{Name: "i", Version: 1}, Root: chunk.ID{1}, Machine: "vm", Proofs: []lab.Proof{{Clause: lab.Overlay, Verdict: lab.VerdictKept, Why: "seen"}}, At: noon},
	}
}

func TestSaveAndLoad(t *testing.T) {
	ctx := t.Context()
	file := filepath.Join(t.TempDir(), "a b?c%20#d.db") // what a URI would trip over
	db := openDB(t, file)
	all := rows()
	for range 2 { // the second time as updates
		if err := db.Save(ctx, all[:2]); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Save(ctx, all[2:]); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v, want a file of its owner's alone", st.Mode(), err)
	}
	db = openDB(t, file)
	s, err := db.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := lab.Snapshot{
		Machines: map[int64]lab.Machine{1: all[0].(lab.Machine)}, Images: map[string]lab.Image{"i": all[1].(lab.Image)},
		Versions: map[string]lab.Version{"i@1": all[2].(lab.Version)}, Stacks: map[string]lab.Stack{"s": all[3].(lab.Stack)},
		Boots: map[int64]lab.Boot{1: all[4].(lab.Boot)}, Addresses: map[lab.MAC]lab.Address{"52:54:00:00:00:01": all[5].(lab.Address)},
		Badges:      map[string]lab.Badge{"i@1": all[9].(lab.Badge)},
		LastMachine: 1, LastBoot: 1, LastFact: 2, LastMetric: 1,
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("loaded %+v\nwant   %+v", s, want)
	}
	facts, err := db.Facts(ctx, 0, 0)
	if err != nil || !reflect.DeepEqual(facts, []lab.Fact{all[7].(lab.Fact), all[8].(lab.Fact)}) {
		t.Errorf("facts: %v, %v", facts, err)
	}
	if facts, err := db.Facts(ctx, 1, 5); err != nil || len(facts) != 1 || facts[0].Seq != 2 {
		t.Errorf("facts after 1: %v, %v", facts, err)
	}
	if facts, err := db.Facts(ctx, 0, 1); err != nil || len(facts) != 1 || facts[0].Seq != 1 {
		t.Errorf("at most one fact: %v, %v", facts, err)
	}
	metrics, err := db.Metrics(ctx, 1)
	if err != nil || !reflect.DeepEqual(metrics, []lab.Metric{all[6].(lab.Metric)}) {
		t.Errorf("metrics: %v, %v", metrics, err)
	}
}

func TestNumbersAreNeverGivenAgain(t *testing.T) {
	ctx := t.Context()
	file := filepath.Join(t.TempDir(), "lab.db")
	db := openDB(t, file)
	changes := []lab.Change{lab.Machine{ID: 3}, lab.Machine{ID: 9}, lab.Gone{Table: lab.TableMachines, Key: "9"}}
	if err := db.Save(ctx, changes); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "copy.db")
	if err := db.Backup(ctx, backup); err != nil {
		t.Fatal(err)
	}
	db.Close()
	for _, f := range []string{file, backup} {
		s, err := openDB(t, f).Load(ctx)
		if err != nil || len(s.Machines) != 1 || s.LastMachine != 9 {
			t.Errorf("%s: %d machines, the last was %d, want 1 and 9 (%v)", f, len(s.Machines), s.LastMachine, err)
		}
	}
}

func TestSaveIsAllOrNothing(t *testing.T) {
	ctx := t.Context()
	db := openDB(t, filepath.Join(t.TempDir(), "lab.db"))
	v := lab.Version{Image: "i", Number: 1}
	if err := db.Save(ctx, []lab.Change{lab.Machine{ID: 1}, v}); err == nil {
		t.Error("a version without its image was saved")
	}
	if err := db.Save(ctx, []lab.Change{lab.Image{Name: "i"}, v}); err != nil {
		t.Error(err)
	}
	if err := db.Save(ctx, []lab.Change{lab.Machine{ID: 1}, v}); err == nil {
		t.Error("a version was written over")
	}
	if s, err := db.Load(ctx); err != nil || len(s.Machines) != 0 || len(s.Versions) != 1 {
		t.Errorf("half a Save is there: %+v, %v", s, err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a change without a table was saved")
		}
		if err := db.Save(ctx, []lab.Change{lab.Machine{ID: 1}}); err != nil {
			t.Errorf("after the panic: %v", err)
		}
	}()
	db.Save(ctx, []lab.Change{lab.Live{}})
}

// A bit that flips in a row is found, and named.
func TestFlippedBit(t *testing.T) {
	ctx := t.Context()
	for table, key := range map[string]string{"machines": "id", "images": "name", "versions": "ref", "stacks": "name", "boots": "id", "addresses": "mac"} {
		for what, statement := range map[string]string{
			"doc": "UPDATE %s SET doc = replace(doc, '1', '3')",
			"sum": "UPDATE %s SET sum = 'x' || substr(sum, 2)",
			"key": "PRAGMA foreign_keys = OFF; UPDATE %s SET " + key + " = 77",
		} {
			file := filepath.Join(t.TempDir(), "lab.db")
			db := openDB(t, file)
			if err := db.Save(ctx, rows()); err != nil {
				t.Fatal(err)
			}
			if _, err := db.sql.Exec(fmt.Sprintf(statement, table)); err != nil {
				t.Fatal(err)
			}
			_, err := db.Load(ctx)
			if !errors.Is(err, lab.ErrDamaged) || !strings.Contains(err.Error(), "table "+table) || !strings.Contains(err.Error(), "backup") {
				t.Errorf("%s of %s: %v", what, table, err)
			}
		}
	}
}

func TestBrokenFiles(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	newer := filepath.Join(dir, "newer.db")
	db := openDB(t, newer)
	if _, err := db.sql.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := OpenDB(ctx, newer); !errors.Is(err, lab.ErrRefused) || !strings.Contains(err.Error(), "newer carte") {
		t.Errorf("a newer catalogue: %v", err)
	}
	scrap := filepath.Join(dir, "scrap.db")
	text := strings.Repeat("this is a letter to my aunt. ", 1000)
	if err := os.WriteFile(scrap, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDB(ctx, scrap); !errors.Is(err, lab.ErrDamaged) {
		t.Errorf("not a catalogue: %v", err)
	}
	if b, err := os.ReadFile(scrap); err != nil || string(b) != text {
		t.Errorf("the file that is no catalogue was changed (%v)", err)
	}
	if _, err := OpenDB(ctx, filepath.Join(dir, "no", "folder", "lab.db")); err == nil {
		t.Error("a catalogue in a folder that does not exist was opened")
	}
}

// The settings hold for the connection that is used, also for the next one of the pool.
func TestPragmas(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "lab.db"))
	for name, want := range map[string]string{"foreign_keys": "1", "journal_mode": "wal", "synchronous": "2", "busy_timeout": "5000", "user_version": "2"} {
		var got string
		if err := db.sql.QueryRow("PRAGMA " + name).Scan(&got); err != nil || got != want {
			t.Errorf("%s = %s, want %s (%v)", name, got, want, err)
		}
	}
	if err := db.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := db.tx(t.Context(), func(*sql.Tx) error { return lab.ErrBusy }); !errors.Is(err, lab.ErrBusy) {
		t.Errorf("tx: %v", err)
	}
}

func TestBackup(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	db := openDB(t, filepath.Join(dir, "lab.db"))
	if err := db.Save(ctx, rows()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "copy.db")
	if err := db.Backup(ctx, file); err != nil {
		t.Fatal(err)
	}
	if err := db.Backup(ctx, file); !errors.Is(err, lab.ErrBusy) {
		t.Errorf("a backup over a file: %v", err)
	}
	if _, err := os.Stat(file + temporary); err == nil {
		t.Error("a temporary file is left")
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the backup: %v, %v", st, err)
	}
	want, _ := db.Load(ctx)
	if got, err := openDB(t, file).Load(ctx); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the backup holds %+v, %v", got, err)
	}
}

func BenchmarkSave(b *testing.B) {
	db, err := OpenDB(b.Context(), filepath.Join(b.TempDir(), "lab.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	changes := rows()[:2]
	for b.Loop() {
		if err := db.Save(b.Context(), changes); err != nil {
			b.Fatal(err)
		}
	}
}
