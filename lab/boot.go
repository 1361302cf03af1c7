package lab

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// State is where a boot is in its life.
type State string

const (
	Queued   State = "queued"   // waits for its machine
	Starting State = "starting" // from power-on to the agent's hello
	Working  State = "working"  // the agent has its orders
	Handover State = "handover" // the disk is proven; the user's system is being started
	Running  State = "running"  // the user's system showed itself
	Done     State = "done"
	Failed   State = "failed"
	Revoked  State = "revoked"
)

// Moves is the whole life of a boot: what may follow each state. A state without a row is final.
var Moves = map[State][]State{
	Queued:   {Starting, Revoked},
	Starting: {Working, Handover, Queued, Failed, Revoked}, // handover: a kernel that iPXE loads

	Working:  {Handover, Done, Queued, Failed, Revoked}, // done: a capture
	Handover: {Running, Queued, Failed, Revoked},
	Running:  {Done, Queued, Failed, Revoked},
}

// Final says that the boot's record will not change any more. Only then has it left the queue.
func (s State) Final() bool { return Moves[s] == nil }

// MaxStrikes is how often a boot is tried before it fails for good.
const MaxStrikes = 3

// A Boot is one use of one machine with one plan.
type Boot struct {
	ID       int64             `json:"id"`
	Machine  int64             `json:"machine"`
	Plan     Plan              `json:"plan"`
	State    State             `json:"state"`
	Order    int64             `json:"order"` // position in its machine's queue; smaller is sooner
	Reason   string            `json:"reason,omitempty"`
	Revoke   string            `json:"revoke,omitempty"` // why it is being called back; the agent has not answered yet
	Attempt  int               `json:"attempt"`          // the one going on or the last, from 1
	Strikes  int               `json:"strikes"`          // attempts that failed by themselves
	Disk     DiskID            `json:"disk"`             // the one disk it may write, or reads; empty until the guard has chosen
	Climbs   []Climb           `json:"climbs"`
	Moved    Moved             `json:"moved"`
	Chosen   Forecast          `json:"forecast,omitzero"`  // how the disk is gone about, and why
	Metrics  map[string]Metric `json:"metrics"`            // the last value of each
	Captured Ref               `json:"captured,omitzero"`  // the version that a capture which is done has made or found
	Same     bool              `json:"same,omitempty"`     // it was there already
	Results  []Result          `json:"results,omitempty"`  // what it left in /carte/out
	OutTaken time.Time         `json:"out_taken,omitzero"` // when a person took that home, the last time
	OutGone  time.Time         `json:"out_gone,omitzero"`  // when it was removed, and Results are a list of what there was
	Wrote    []Ref             `json:"wrote,omitempty"`    // versions that it wrote back
	NoKexec  string            `json:"no_kexec,omitempty"` // why its kernel did not replace the agent's, which it was to
	Queued   time.Time         `json:"queued"`
	Begun    time.Time         `json:"begun"` // of the attempt
	Since    time.Time         `json:"since"` // of this state
	Ended    time.Time         `json:"ended"`
}

// Moved is what the agent did to the disk, in bytes.
type Moved struct {
	Total   int64 `json:"bytes_total"`   // the image's logical size
	Read    int64 `json:"bytes_read"`    // from the disk, to compare and to prove
	Fetched int64 `json:"bytes_fetched"` // from the server, as they travelled
	Peers   int64 `json:"bytes_peers"`   // from other machines, as they travelled
	Reused  int64 `json:"bytes_reused"`  // of chunks that were found elsewhere on the disk, or in the cache at its end
	Written int64 `json:"bytes_written"`
	Zeroed  int64 `json:"bytes_zeroed"`
	Sent    int64 `json:"bytes_sent,omitempty"` // to the server, as stored; of captures
}

// MovedWords says what a boot moved, for a person.
func (b Boot) MovedWords() string {
	if b.Plan.Capture != nil {
		return fmt.Sprintf("read %s of %s, sent %s", Bytes(b.Moved.Read), Bytes(b.Moved.Total), Bytes(b.Moved.Sent))
	}
	return b.Moved.Words()
}

// Words says what was moved, for a person; what is nothing is left out, but for what was written.
func (m Moved) Words() string {
	text := "wrote " + Bytes(m.Written)
	if m.Total > 0 {
		text += fmt.Sprintf(" of %s (%.1f %%)", Bytes(m.Total), 100*float64(m.Written)/float64(m.Total))
	}
	for _, x := range []struct {
		did string
		n   int64
	}{{"zeroed", m.Zeroed}, {"read", m.Read}, {"fetched", m.Fetched}, {"from peers", m.Peers}, {"reused", m.Reused}} {
		if x.n > 0 {
			text += ", " + x.did + " " + Bytes(x.n)
		}
	}
	return text
}

// A Metric is one number that the user's system reported.
type Metric struct {
	Seq   int64     `json:"seq"`
	Boot  int64     `json:"boot"`
	Name  string    `json:"name"`
	Value float64   `json:"value"`
	Unit  string    `json:"unit,omitempty"`
	At    time.Time `json:"at"`
}

// Rung is the highest that the boot's current attempt has reached, or empty.
func (b Boot) Rung() Rung {
	if n := len(b.Climbs); n > 0 && b.Climbs[n-1].Attempt == b.Attempt {
		return b.Climbs[n-1].Rung
	}
	return ""
}

// climb notes that the boot reached a rung in this attempt. Rungs that only that way were skipped are filled in as
// inferred. Reaching a rung twice, or a lower one, changes nothing.
func (b *Boot) climb(r Rung, at time.Time) {
	last := -1
	if now := b.Rung(); now != "" {
		last = now.index()
	}
	if r.index() <= last {
		return
	}
	b.Climbs = slices.Clone(b.Climbs)
	for _, skipped := range inferable {
		if i := skipped.index(); i > last && i < r.index() {
			b.Climbs = append(b.Climbs, Climb{skipped, at, b.Attempt, true})
		}
	}
	b.Climbs = append(b.Climbs, Climb{r, at, b.Attempt, false})
}

// move takes the boot to another state, if the table of moves has it.
func (d *draft) move(b Boot, to State, reason string) Boot {
	if !slices.Contains(Moves[b.State], to) {
		panic(fmt.Sprintf("BUG: boot %d cannot go from %s to %s", b.ID, b.State, to))
	}
	b.Moved = d.MovedBy(b)
	b.State, b.Reason, b.Since = to, reason, d.at
	if to.Final() {
		b.Ended, b.Revoke = d.at, ""
	}
	d.put(b)
	text := fmt.Sprintf("boot %d %s", b.ID, to)
	if reason != "" {
		text += ": " + reason
	}
	d.fact(b.Machine, b.ID, "%s", text)
	return b
}

// strike ends an attempt that failed by itself: back to the queue, or, the third time, failed for good and the machine
// parked, so that it never loops.
func (d *draft) strike(b Boot, reason string) {
	b.Strikes++
	d.voidTicket(b.Machine)
	if b.Strikes < MaxStrikes {
		d.requeue(b, fmt.Sprintf("attempt %d: %s; it is tried again", b.Attempt, reason))
		return
	}
	d.move(b, Failed, fmt.Sprintf("%s (%d attempts)", reason, b.Strikes))
	m := d.Machines[b.Machine]
	m.Parked = fmt.Sprintf("boot %d failed %d times: %s", b.ID, b.Strikes, reason)
	d.put(m)
	d.fact(m.ID, b.ID, "%s is parked", m.Label())
}

// requeue takes a boot back to the head of its machine's queue.
func (d *draft) requeue(b Boot, reason string) {
	if q := d.QueueOf(b.Machine); len(q) > 0 {
		b.Order = min(b.Order, q[0].Order-1)
	}
	d.move(b, Queued, reason)
}

// Active returns the boot that the machine is busy with.
func (s Snapshot) Active(machine int64) (Boot, bool) {
	for _, b := range s.Boots {
		if b.Machine == machine && b.State != Queued && !b.State.Final() {
			return b, true
		}
	}
	return Boot{}, false
}

// MovedBy is what a boot has moved so far: what is written down, or, while its agent works, what that said last.
func (s Snapshot) MovedBy(b Boot) Moved {
	if live := s.Live[b.Machine]; b.State == Working && live.Agent && live.Moved.Read >= b.Moved.Read {
		live.Moved.Total = b.Moved.Total
		return live.Moved
	}
	return b.Moved
}

// SortedBoots returns all boots, oldest first.
func (s Snapshot) SortedBoots() []Boot {
	return slices.SortedFunc(maps.Values(s.Boots), func(a, b Boot) int { return cmp.Compare(a.ID, b.ID) })
}

// QueueOf returns the boots that wait for a machine, next first; machine 0 means every machine's.
func (s Snapshot) QueueOf(machine int64) []Boot {
	q := slices.Collect(maps.Values(s.Boots))
	q = slices.DeleteFunc(q, func(b Boot) bool { return b.State != Queued || machine != 0 && b.Machine != machine })
	slices.SortFunc(q, func(a, b Boot) int { return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.ID, b.ID)) })
	return q
}

// LastBootOf returns the newest boot of a machine.
func (s Snapshot) LastBootOf(machine int64) (last Boot, ok bool) {
	for _, b := range s.Boots {
		if b.Machine == machine && b.ID >= last.ID {
			last, ok = b, true
		}
	}
	return last, ok
}

// Broken says that a boot was going on when the lab stopped, and with it its virtual machine: it is tried again when the
// lab runs. A real machine goes on.
func (s Snapshot) Broken(b Boot) bool {
	return s.Still && b.State != Queued && !b.State.Final() && s.Machines[b.Machine].Virtual != nil
}

// Why says in words what a boot waits for; empty when it does not wait.
func (s Snapshot) Why(b Boot) string {
	m := s.Machines[b.Machine]
	if s.Broken(b) {
		return "no lab runs, and its virtual machine stopped with it; it is tried again with carte serve"
	}
	if b.State != Queued {
		return ""
	}
	if m.Parked != "" {
		return fmt.Sprintf("%s is parked: %s; carte boot retry lifts that", m.Label(), m.Parked)
	}
	if a, ok := s.Active(m.ID); ok {
		return fmt.Sprintf("after boot %d (%s) on %s", a.ID, a.State, m.Label())
	}
	if q := s.QueueOf(m.ID); len(q) > 0 && q[0].ID != b.ID {
		return fmt.Sprintf("after boot %d in the queue of %s", q[0].ID, m.Label())
	}
	if s.Still {
		return "no lab runs; it starts with carte serve"
	}
	return "starts now"
}

func (s Snapshot) boot(id int64) (Boot, error) {
	b, ok := s.Boots[id]
	if !ok {
		return Boot{}, fmt.Errorf("boot %d: %w", id, ErrNotFound)
	}
	return b, nil
}

// Stop calls a boot back: one that waits leaves the queue, one whose agent works is told with its next report and has
// RevokeGrace to stop cleanly, any other machine is switched off.
type Stop struct {
	Boot   int64  `json:"boot"`
	Reason string `json:"reason,omitempty"`
}

// RevokeGrace is how long an agent has to stop by itself.
const RevokeGrace = 15 * time.Second

func (v Stop) decide(d *draft) error {
	b, err := d.boot(v.Boot)
	if err != nil {
		return err
	}
	v.Reason = or(Clean(v.Reason), "stopped by the operator")
	switch {
	case b.State.Final():
		return fmt.Errorf("boot %d is over (%s): %w", b.ID, b.State, ErrBusy)
	case b.State == Working && d.Live[b.Machine].Agent || b.State == Running && d.Live[b.Machine].Shim:
		if b.Revoke == "" {
			b.Revoke, b.Since = v.Reason, d.at
			d.put(b)
			d.fact(b.Machine, b.ID, "boot %d is called back: %s", b.ID, v.Reason)
		}
	default:
		d.revoke(b, v.Reason)
	}
	return nil
}

// revoke ends a boot at once and switches the machine off where carte can.
func (d *draft) revoke(b Boot, reason string) {
	was := b.State
	d.move(b, Revoked, reason)
	if was != Queued {
		d.voidTicket(b.Machine)
		live := d.live(b.Machine)
		live.Order, live.Agent = "off", false
		d.put(live)
	}
}

// Retry queues a boot that is over once more, with the same plan, and lifts the parking of its machine. A boot that waits
// on a parked machine only has the parking lifted.
type Retry struct {
	Boot int64 `json:"boot"`
}

func (v Retry) decide(d *draft) error {
	b, err := d.boot(v.Boot)
	if err != nil {
		return err
	}
	m, ok := d.Machines[b.Machine]
	if !ok {
		return fmt.Errorf("the machine of boot %d was forgotten: %w", b.ID, ErrNotFound)
	}
	if m.Parked != "" {
		m.Parked = ""
		d.put(m)
		d.fact(m.ID, b.ID, "%s is no longer parked", m.Label())
	}
	if b.State == Queued {
		return nil
	}
	if !b.State.Final() {
		return fmt.Errorf("boot %d is still %s: %w", b.ID, b.State, ErrBusy)
	}
	if m.Standing != Adopted {
		return fmt.Errorf("%s is %s; carte machine adopt %s --name NAME comes first: %w", m.Label(), m.Standing, m.Label(), ErrRefused)
	}
	for _, l := range b.Plan.Layers {
		if d.Versions[l.Ref.String()].Root != l.Root { // the name may have come back with other bytes
			return fmt.Errorf("boot %d needs %s, which was removed: %w", b.ID, l.Ref, ErrNotFound)
		}
	}
	if b.Plan.Capture == nil {
		if err := errors.Join(armedFor(m, b.Plan), d.writers(m, b.Plan), d.alive(b.Plan)); err != nil {
			return err
		}
	}
	n := Boot{ID: d.LastBoot + 1, Machine: m.ID, Plan: b.Plan, State: Queued, Order: b.Order, Climbs: []Climb{}, Metrics: map[string]Metric{}, Queued: d.at, Since: d.at}
	n.Moved.Total = b.Plan.Bytes()
	d.put(n)
	d.fact(m.ID, n.ID, "boot %d: boot %d once more", n.ID, b.ID)
	return nil
}
