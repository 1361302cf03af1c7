package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"carte/lab/chunk"
)

// paper is a book without a disk.
type paper struct {
	loaded Snapshot
	facts  []string
	fail   error
}

func (p *paper) Load(context.Context) (Snapshot, error) { return p.loaded, nil }

func (p *paper) Save(_ context.Context, changes []Change) error {
	if p.fail != nil {
		return p.fail
	}
	for _, c := range changes {
		if f, ok := c.(Fact); ok {
			p.facts = append(p.facts, f.Text)
		}
	}
	return nil
}

// bench is a lab on a clock that the test turns.
type bench struct {
	t *testing.T
	*Lab
	paper *paper
	clock time.Time
}

const (
	vmMAC    MAC = "52:54:00:00:00:01"
	metalMAC MAC = "52:54:00:00:00:02"
	GiB          = 1 << 30
)

var secret = bytes.Repeat([]byte{5}, 32)

// newBench has a virtual machine vm and a real one metal with the disk S1 armed, the images deb (a disk of 1 GiB) and tree, and stacks of the same names.
func newBench(t *testing.T) *bench {
	b := &bench{t: t, paper: &paper{}, clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	b.reopen()
	b.must(AddMachine{Name: "vm", MACs: []string{string(vmMAC)}, Virtual: &Virtual{}})
	b.must(AddMachine{Name: "metal", MACs: []string{string(metalMAC)}})
	b.must(AddVersion{Version: Version{Image: "deb", Root: chunk.ID{1}, Bytes: GiB}, Kind: "system", Form: FormDisk})
	b.must(AddVersion{Version: Version{Image: "tree", Root: chunk.ID{2}, Bytes: GiB}, Kind: "system", Form: FormTree})
	b.must(PutStack{Stack: Stack{Name: "deb", Layers: []Ref{{Name: "deb"}}}})
	b.must(PutStack{Stack: Stack{Name: "tree", Layers: []Ref{{Name: "tree"}}}})
	b.claim(b.script(metalMAC), 100, usual)
	b.must(ArmDisk{Machine: "metal", Disk: "S1"})
	return b
}

// reopen is a restart of the server.
func (b *bench) reopen() {
	b.t.Helper()
	if b.Lab != nil {
		b.paper.loaded = b.now()
		b.paper.loaded.Live = nil
	}
	l, err := Open(b.t.Context(), Config{Book: b.paper, Now: func() time.Time { return b.clock }, Secret: secret})
	if err != nil {
		b.t.Fatal(err)
	}
	b.Lab = l
}

func (b *bench) now() Snapshot {
	s, err := b.Watch(b.t.Context(), 0)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *bench) must(v Verb) Changed {
	b.t.Helper()
	c, err := b.Say(b.t.Context(), v)
	if err != nil {
		b.t.Fatalf("%T: %v", v, err)
	}
	return c
}

// refused wants a verb refused with that kind and those words, and nothing changed.
func (b *bench) refused(v Verb, kind error, words ...string) {
	b.t.Helper()
	before := b.now().Rev
	_, err := b.Say(b.t.Context(), v)
	wantError(b.t, fmt.Sprintf("%T%+v", v, v), err, kind, words...)
	if b.now().Rev != before {
		b.t.Errorf("%T was refused and changed something", v)
	}
}

func wantError(t *testing.T, what string, err, kind error, words ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: %v, want an error of the kind %q", what, err, kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %q does not say %q", what, err, w)
		}
	}
}

// pass lets time go by and the lab notice.
func (b *bench) pass(d time.Duration) {
	b.t.Helper()
	b.clock = b.clock.Add(d)
	if _, err := b.do(b.t.Context(), nothing); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) machine(name string) Machine {
	m, err := b.now().Find(name)
	if err != nil {
		b.t.Fatal(err)
	}
	return m
}

// queue queues a stack and returns the boot's number.
func (b *bench) queue(machine, stack string) int64 {
	b.t.Helper()
	return b.must(Queue{Machine: machine, Stack: stack}).Boots[0].ID
}

func (b *bench) boot(id int64) Boot { return b.now().Boots[id] }

func (b *bench) script(mac MAC) Script {
	b.t.Helper()
	s, err := b.Script(b.t.Context(), mac, "10.0.0.5")
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func usual(i *Inventory) {}

func agentKey(n int) string { return fmt.Sprintf("%064x", n) }

// inventory is what an agent on that machine finds: the disk that is armed, or S1.
func inventory(m Machine) Inventory {
	id := DiskID{Serial: "S1", Bytes: 8 * GiB}
	if m.Virtual != nil {
		id = m.Arms[0].DiskID
	}
	return Inventory{Firmware: UEFI, Disks: []Disk{{DiskID: id, Path: "/dev/sda"}}}
}

func (b *bench) tryClaim(token string, key int, change func(*Inventory)) (Orders, error) {
	id, _, _ := machineOf(token)
	inv := inventory(b.now().Machines[id])
	change(&inv)
	return b.Claim(b.t.Context(), Claim{Token: token, Key: agentKey(key), Inventory: inv})
}

func (b *bench) claim(s Script, key int, change func(*Inventory)) Orders {
	b.t.Helper()
	o, err := b.tryClaim(s.Token, key, change)
	if err != nil {
		b.t.Fatalf("claim: %v", err)
	}
	return o
}

func (b *bench) report(key int, r Report) Reply {
	b.t.Helper()
	reply, err := b.Report(b.t.Context(), agentKey(key), r)
	if err != nil {
		b.t.Fatalf("report %+v: %v", r, err)
	}
	return reply
}

func (b *bench) say(machine string, lines ...string) {
	b.t.Helper()
	if err := b.Console(b.t.Context(), b.machine(machine).ID, lines); err != nil {
		b.t.Fatal(err)
	}
}

// take brings a queued boot of a machine to a state, as its agent with that key.
func (b *bench) take(id int64, to State, key int) {
	b.t.Helper()
	mac := b.now().Machines[b.boot(id).Machine].MACs[0]
	if to == Starting {
		b.script(mac)
	}
	if slices.Contains([]State{Working, Handover, Running}, to) {
		b.claim(b.script(mac), key, usual)
	}
	if to == Handover || to == Running {
		b.report(key, Report{Boot: id, Rung: RungWrite, Writing: true})
		b.report(key, Report{Boot: id, Rung: RungHandover, Proven: true})
	}
	if to == Running {
		b.say(b.now().Machines[b.boot(id).Machine].Name, "::carte ready")
	}
	b.in(id, to)
}

// in wants a boot in a state, for a reason that has those words.
func (b *bench) in(id int64, want State, words ...string) {
	b.t.Helper()
	x := b.boot(id)
	if x.State != want {
		b.t.Errorf("boot %d is %s (%s), want %s", id, x.State, x.Reason, want)
	}
	for _, w := range words {
		if !strings.Contains(x.Reason, w) {
			b.t.Errorf("boot %d is %s because %q, which does not say %q", id, x.State, x.Reason, w)
		}
	}
}

func TestOpenWantsASecret(t *testing.T) {
	_, err := Open(t.Context(), Config{Book: &paper{}, Now: time.Now, Secret: []byte("short")})
	wantError(t, "a short secret", err, ErrInvalid, "16")
}

func TestNothingChangesThatIsNotWritten(t *testing.T) {
	b := newBench(t)
	b.paper.fail = errors.New("disk full")
	b.refused(RemoveStack{Name: "deb"}, b.paper.fail, "nothing was changed")
	if _, ok := b.now().Stacks["deb"]; !ok {
		t.Error("the stack is gone from memory and not from the disk")
	}
}

func TestWatch(t *testing.T) {
	b := newBench(t)
	before := b.now()
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() {
		_, err := b.Watch(ctx, before.Rev)
		got <- err
	}()
	b.must(RemoveStack{Name: "deb"})
	if err := <-got; err != nil {
		t.Error(err)
	}
	if _, ok := before.Stacks["deb"]; !ok {
		t.Error("an old snapshot has changed")
	}
	cancel()
	if _, err := b.Watch(ctx, b.now().Rev); !errors.Is(err, context.Canceled) {
		t.Errorf("watch after a cancel: %v", err)
	}
	if err := b.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("run after a cancel: %v", err)
	}
}

// Every kind of error has exactly one row, and what came over the wire means the same there.
func TestFailings(t *testing.T) {
	kinds := []error{ErrNotFound, ErrBusy, ErrInvalid, ErrRefused, ErrConfirm, ErrDamaged, ErrDenied, ErrUnreachable, context.Canceled, context.DeadlineExceeded, nil}
	if len(Failings) != len(kinds) {
		t.Errorf("%d rows for %d kinds", len(Failings), len(kinds))
	}
	codes := map[string]bool{}
	for i, f := range Failings {
		if !slices.Contains(kinds, f.Kind) || codes[f.Code] || f.HTTP < 400 || f.Exit < 1 || f.Exit > 130 || (f.Kind == nil) != (i == len(Failings)-1) {
			t.Errorf("row %d: %+v", i, f)
		}
		codes[f.Code] = true
		err := fmt.Errorf("around: %w", errors.New("unheard of"))
		if f.Kind != nil {
			err = fmt.Errorf("around: %w", f.Kind)
		}
		if FailingOf(err) != f || FailingByCode(f.Code) != f {
			t.Errorf("%v is %+v, want %+v", err, FailingOf(err), f)
		}
	}
	if FailingByCode("E-FROM-THE-FUTURE").Code != "E-FAILED" {
		t.Error("an unknown code has no row")
	}
}
