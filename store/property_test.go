package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// Whatever is said to the lab, by people and by machines, in whatever order: the disk and the memory tell the same story, boots keep to their table
// of moves, a record that is final stays as it is, and nothing panics.
func TestDiskEqualsMemory(t *testing.T) {
	var all tally
	for seed := range uint64(seeds(t)) {
		w := newWorld(t, seed)
		for range 100 {
			w.step()
		}
		w.compare()
		all.add(w.tally)
		w.db.Close()
	}
	t.Logf("%d said, %d refused; %d restarts; boots ended: %v; moves: %v", all.done, all.refused, all.restarts, all.ends, all.moves)
	for _, s := range []lab.State{lab.Done, lab.Failed, lab.Revoked} {
		if all.ends[s] == 0 {
			t.Errorf("no boot ended %s: the test reaches too little", s)
		}
	}
	for from, tos := range lab.Moves {
		for _, to := range tos {
			if all.moves[move{from, to}] == 0 && !testing.Short() {
				t.Errorf("no boot went from %s to %s: the test reaches too little, or the table has too much", from, to)
			}
		}
	}
}

func seeds(t *testing.T) int {
	if testing.Short() {
		return 20
	}
	return 200
}

type move struct{ from, to lab.State }

type tally struct {
	done, refused, restarts int
	ends                    map[lab.State]int
	moves                   map[move]int
}

func (a *tally) add(b tally) {
	if a.ends == nil {
		a.ends, a.moves = map[lab.State]int{}, map[move]int{}
	}
	a.done, a.refused, a.restarts = a.done+b.done, a.refused+b.refused, a.restarts+b.restarts
	for k, n := range b.ends {
		a.ends[k] += n
	}
	for k, n := range b.moves {
		a.moves[k] += n
	}
}

// world is a lab, a book that watches what is written, and all that a random person and random machines know.
type world struct {
	t *testing.T
	*rand.Rand
	seed   uint64
	file   string
	db     *DB
	l      *lab.Lab
	now    time.Time
	boots  map[int64]lab.Boot // as last saved
	tokens []string
	keys   []string
	tally
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, Rand: rand.New(rand.NewPCG(seed, 7)), seed: seed, file: filepath.Join(t.TempDir(), "lab.db"), boots: map[int64]lab.Boot{}}
	w.now = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("here", 3600))
	w.ends, w.moves = map[lab.State]int{}, map[move]int{}
	w.open()
	if w.IntN(8) > 0 {
		w.furnish()
	}
	return w
}

// furnish gives the lab something to boot and two machines that may be written.
func (w *world) furnish() {
	for _, v := range []lab.Verb{
		lab.AddMachine{Name: "vm", Virtual: &lab.Virtual{}},
		lab.AddMachine{Name: "metal", MACs: []string{"52:54:00:00:00:01"}},
		lab.AddVersion{Version: lab.Version{Image: "debian", Root: w.root(), Bytes: 1 << 20}, Kind: "system", Form: lab.FormDisk},
		lab.AddVersion{Version: lab.Version{Image: "tree", Root: w.root(), Bytes: 1 << 20}, Kind: "system", Form: lab.FormTree},
		lab.AddVersion{Version: lab.Version{Image: "live", Root: w.root(), Bytes: 1 << 20}, Kind: "system", Form: lab.FormKernel},
		lab.AddVersion{Version: lab.Version{Image: "home", Root: w.root(), Bytes: 1 << 20, Place: "/home/me"}, Kind: "user", Form: lab.FormFiles},
		lab.AddVersion{Version: lab.Version{Image: "work", Root: w.root(), Bytes: 1 << 20, Offers: lab.Terms{lab.Autostart: lab.Optional}}, Kind: "project", Form: lab.FormFiles},
		lab.AddVersion{Version: lab.Version{Image: "tmp", Root: w.root(), Bytes: 1 << 20}, Kind: "temporary", Form: lab.FormFiles, Dies: w.now.Add(20 * time.Minute)},
		lab.AddVersion{Version: lab.Version{Image: "notes", Root: w.root(), Bytes: 1 << 20}, Kind: "machine", Form: lab.FormFiles, Owner: "vm"},
		lab.PutStack{Stack: lab.Stack{Name: "s-live", Layers: []lab.Ref{{Name: "live"}}}},
		lab.PutStack{Stack: lab.Stack{Name: "s-debian", Layers: []lab.Ref{{Name: "debian"}}}},
		lab.PutStack{Stack: lab.Stack{Name: "s-tree", Layers: []lab.Ref{{Name: "tree"}}}},
		lab.PutStack{Stack: lab.Stack{Name: "s-all", Layers: []lab.Ref{{Name: "tree"}, {Name: "live"}, {Name: "home"}, {Name: "work"}}, Params: map[string]string{"n": "1"}, Cmdline: "n={n}"}},
	} {
		w.l.Say(w.t.Context(), v) // the disk may be full
	}
	if m, err := w.snapshot().Find("metal"); err == nil && w.script(m.MACs[0]) == nil && len(w.tokens) > 0 {
		w.l.Claim(w.t.Context(), w.claim(m))
		w.l.Say(w.t.Context(), lab.ArmDisk{Machine: "metal", Disk: "S1"})
	}
	w.reload()
}

// Load and Save are the book's, with a look at what passes.
func (w *world) Load(ctx context.Context) (lab.Snapshot, error) { return w.db.Load(ctx) }

func (w *world) Save(ctx context.Context, changes []lab.Change) error {
	if w.IntN(200) == 0 {
		return errors.New("the test's disk is full")
	}
	for _, c := range changes {
		b, ok := c.(lab.Boot)
		if !ok {
			continue
		}
		was, old := w.boots[b.ID]
		switch {
		case !old && b.State != lab.Queued:
			w.t.Errorf("seed %d: boot %d begins as %s", w.seed, b.ID, b.State)
		case old && was.State != b.State && !slices.Contains(lab.Moves[was.State], b.State):
			w.t.Errorf("seed %d: boot %d went from %s to %s", w.seed, b.ID, was.State, b.State)
		case old && was.State != b.State:
			w.moves[move{was.State, b.State}]++
			if b.State.Final() {
				w.ends[b.State]++
			}
		}
		w.boots[b.ID] = b
	}
	return w.db.Save(ctx, changes)
}

func (w *world) open() {
	ctx := w.t.Context()
	db, err := OpenDB(ctx, w.file)
	if err != nil {
		w.t.Fatal(err)
	}
	w.db = db
	if _, err := db.sql.ExecContext(ctx, "PRAGMA synchronous = OFF"); err != nil { // this test cuts no power
		w.t.Fatal(err)
	}
	for { // the test's own Save fails now and then
		w.l, err = lab.Open(ctx, lab.Config{Book: w, Now: func() time.Time { return w.now }, Secret: bytes.Repeat([]byte{9}, 32)})
		if err == nil {
			return
		}
		w.reload()
	}
}

// reload takes the boots from the disk after a Save that was refused.
func (w *world) reload() {
	disk, err := w.db.Load(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.boots = maps.Clone(disk.Boots)
}

func (w *world) snapshot() lab.Snapshot {
	s, err := w.l.Watch(w.t.Context(), 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// compare loads the disk and looks for a difference to the memory.
func (w *world) compare() {
	w.t.Helper()
	disk, err := w.db.Load(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	mem := w.snapshot()
	mem.Rev, mem.Live, mem.Services = 0, nil, nil
	if reflect.DeepEqual(mem, disk) {
		return
	}
	a, b := reflect.ValueOf(mem), reflect.ValueOf(disk)
	for i := range a.NumField() {
		if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			w.t.Fatalf("seed %d, %s:\nmemory %#v\ndisk   %#v", w.seed, a.Type().Field(i).Name, a.Field(i).Interface(), b.Field(i).Interface())
		}
	}
}

// restart stops the lab as kill -9 would and opens it again.
func (w *world) restart() {
	before := w.snapshot()
	w.db.Close()
	w.now = w.now.Add(time.Duration(w.IntN(7200)) * time.Second)
	w.open()
	w.restarts++
	w.compare()
	after := w.snapshot()
	for id, b := range before.Boots {
		m, a := before.Machines[b.Machine], after.Boots[id]
		switch {
		case b.State.Final():
			if !reflect.DeepEqual(a, b) {
				w.t.Errorf("seed %d: a restart changed boot %d, which was over: %+v -> %+v", w.seed, id, b, a)
			}
		case b.State == lab.Queued:
		case m.Virtual != nil && b.Revoke != "":
			if a.State != lab.Revoked {
				w.t.Errorf("seed %d: boot %d, called back before the restart, is %s", w.seed, id, a.State)
			}
		case m.Virtual != nil:
			if active, ok := after.Active(m.ID); a.Strikes != b.Strikes || m.Parked == "" && (!ok || active.ID != id) {
				w.t.Errorf("seed %d: boot %d was %s on a virtual machine before the restart; now it is %s with %d strikes (were %d) and %d is active",
					w.seed, id, b.State, a.State, a.Strikes, b.Strikes, active.ID)
			}
		case a.State != b.State:
			w.t.Errorf("seed %d: boot %d of a real machine went from %s to %s (%s) because the server was away", w.seed, id, b.State, a.State, a.Reason)
		}
	}
}

// step says one random thing and keeps count.
func (w *world) step() {
	defer func() {
		if p := recover(); p != nil {
			w.t.Fatalf("seed %d: panic: %v", w.seed, p)
		}
	}()
	w.now = w.now.Add(time.Duration(w.IntN(3000)) * time.Millisecond)
	over := maps.Clone(w.boots)
	maps.DeleteFunc(over, func(_ int64, b lab.Boot) bool { return !b.State.Final() })
	before := w.snapshot()
	err := w.say()
	switch lab.FailingOf(err).Code {
	case "E-FAILED":
		if err == nil {
			w.done++
			break
		}
		w.refused++
		w.reload()
		if after := w.snapshot(); after.Rev != before.Rev {
			w.t.Errorf("seed %d: %v, and yet the lab has changed", w.seed, err)
		}
	default:
		w.refused++
	}
	for id, b := range over {
		if !reflect.DeepEqual(b, w.boots[id]) {
			w.t.Errorf("seed %d: boot %d was over and changed: %+v -> %+v", w.seed, id, b, w.boots[id])
		}
	}
	w.invariants()
}

// invariants hold after every verb.
func (w *world) invariants() {
	s := w.snapshot()
	busy, owner, given := map[int64]int64{}, map[lab.MAC]int64{}, map[string]lab.MAC{}
	for id, b := range s.Boots {
		if b.State != lab.Queued && !b.State.Final() {
			if other, ok := busy[b.Machine]; ok {
				w.t.Errorf("seed %d: boots %d and %d are both at work on machine %d", w.seed, id, other, b.Machine)
			}
			busy[b.Machine] = id
		}
		if _, ok := s.Machines[b.Machine]; !ok && !b.State.Final() {
			w.t.Errorf("seed %d: boot %d is %s and its machine is gone", w.seed, id, b.State)
		}
	}
	for id, m := range s.Machines {
		for _, mac := range m.MACs {
			if other, ok := owner[mac]; ok {
				w.t.Errorf("seed %d: %s belongs to machines %d and %d", w.seed, mac, id, other)
			}
			owner[mac] = id
		}
	}
	for _, a := range s.Addresses {
		if other, ok := given[a.IP]; ok {
			w.t.Errorf("seed %d: %s was given to %s and %s", w.seed, a.IP, a.MAC, other)
		}
		given[a.IP] = a.MAC
	}
}

var pool = lab.Pool{First: netip.MustParseAddr("10.0.0.10"), Last: netip.MustParseAddr("10.0.0.12"), Lease: 10 * time.Minute}

func (w *world) mac() lab.MAC { return lab.MAC(fmt.Sprintf("52:54:00:00:00:%02x", w.IntN(5))) }

func (w *world) inventory(m lab.Machine) lab.Inventory {
	disks := []lab.Disk{{DiskID: lab.DiskID{Serial: "S1", Bytes: 64 << 20}, Path: "/dev/sda"}, {DiskID: lab.DiskID{Serial: "S2", Bytes: 1 << 20}, Path: "/dev/sdb", Contents: "GPT"}}
	if m.Virtual != nil && len(m.Arms) > 0 {
		disks = []lab.Disk{{DiskID: m.Arms[0].DiskID, Path: "/dev/vda"}}
	}
	if w.IntN(8) == 0 {
		disks = nil
	}
	return lab.Inventory{UUID: "u", Firmware: lab.BIOS, CPU: "\xffcpu", MemoryBytes: 1 << 30, Disks: disks, NICs: []lab.NIC{{MAC: w.mac(), Name: "eth0"}, {MAC: "gibberish"}}}
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func key(i int) string { return fmt.Sprintf("%064x", i+1) }

func (w *world) root() chunk.ID { return chunk.Sum(fmt.Append(nil, w.IntN(5))) }
