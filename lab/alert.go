package lab

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// An Alert is something that waits for a person. The screen, carte status and carte boot show say the same ones.
type Alert struct {
	Key     string    `json:"-"` // the same as long as it is the same thing
	Sort    AlertSort `json:"sort"`
	Machine int64     `json:"-"` // 0: the lab itself
	Boot    int64     `json:"boot,omitempty"`
	Who     string    `json:"what"`            // the machine or the service
	Brief   string    `json:"-"`               // a few words
	Why     string    `json:"why"`             // one sentence
	Means   string    `json:"means,omitempty"` // what follows from it, or its likely cause
	Fix     string    `json:"fix,omitempty"`   // what to do, for a shell
	Since   time.Time `json:"since,omitzero"`
	Step    Step      `json:"-"` // of a stuck boot: the rung that it waits for
}

// An AlertSort is why something needs a person.
type AlertSort string

const (
	AlertLost     AlertSort = "lost"     // its agent stopped talking
	AlertFailed   AlertSort = "failed"   // its last boot failed, and nothing has come after it
	AlertParked   AlertSort = "parked"   // it is not booted any more
	AlertStuck    AlertSort = "stuck"    // its boot waits for a rung for too long
	AlertUnknown  AlertSort = "unknown"  // a machine that nobody named asked to boot
	AlertPower    AlertSort = "power"    // its power driver is in trouble
	AlertService  AlertSort = "service"  // one of the lab's own services is
	AlertSettings AlertSort = "settings" // the file with the lab's settings is wrong; whoever reads it says so
)

// Silence is how long an agent, which reports every second, may say nothing before its machine counts as lost. The lab
// gives the attempt up later.
const Silence = 10 * time.Second

// Alerts lists what needs a person at a moment: machines in the order of their names, the lab's own services last.
func (s Snapshot) Alerts(now time.Time) (all []Alert) {
	last, waits := map[int64]Boot{}, map[int64]bool{}
	for id, b := range s.Boots {
		old := last[b.Machine]
		switch active := b.State != Queued && !b.State.Final(); {
		case b.State == Queued:
			waits[b.Machine] = true
		case active, id > old.ID && (old.ID == 0 || old.State.Final()):
			last[b.Machine] = b
		}
	}
	for _, m := range s.SortedMachines() {
		b := last[m.ID]
		if n, ok := s.AlertOf(m, b, waits[m.ID], s.slowest(b), now); ok {
			all = append(all, n)
		}
		if n, ok := s.PowerAlert(m); ok {
			all = append(all, n)
		}
	}
	return append(all, s.ServiceAlerts()...)
}

// slowest is how long the past boots of the same stack on the same machine that went well stood before each rung; nil where
// there are too few.
func (s Snapshot) slowest(b Boot) map[Rung]time.Duration {
	var past []Boot
	for _, x := range s.Boots {
		if x.State == Done && x.Machine == b.Machine && x.Plan.Stack == b.Plan.Stack {
			past = append(past, x)
		}
	}
	if len(past) < FewBoots {
		return nil
	}
	slices.SortFunc(past, func(a, b Boot) int { return cmp.Compare(b.ID, a.ID) })
	most := map[Rung]time.Duration{}
	for _, x := range past[:min(len(past), UsualBoots)] {
		c := x.Climbed()
		for i, climb := range c {
			most[climb.Rung] = max(most[climb.Rung], Took(c, i, x.begun(), x.Ended))
		}
	}
	return most
}

// UsualBoots and FewBoots are how many past boots tell what is usual, and how many that takes at least.
const (
	UsualBoots = 20
	FewBoots   = 3
)

// AlertOf says what a machine needs a person for. B is its active boot, else its newest that does not wait; waits says that
// another one does; slowest is how long past boots stood before each rung, nil where too few are known.
func (s Snapshot) AlertOf(m Machine, b Boot, waits bool, slowest map[Rung]time.Duration, now time.Time) (Alert, bool) {
	live := s.Live[m.ID]
	n := Alert{Key: fmt.Sprintf("m%d", m.ID), Machine: m.ID, Boot: b.ID, Who: m.Label(), Since: b.Since}
	switch {
	case m.Standing == Unknown:
		n.Sort, n.Brief, n.Since, n.Boot = AlertUnknown, "asks to boot", m.Since, 0
		n.Why = fmt.Sprintf("an unknown machine with the card %s asked for a network boot, its own screen shows the code %s", m.Label(), m.Code())
		n.Means = "it waits in a loop and gets nothing until you name it"
		n.Fix = "carte machine adopt " + m.Label() + " --name NAME"
	case m.Standing != Adopted:
		return Alert{}, false
	case b.ID != 0 && b.State != Queued && !b.State.Final():
		return n.ofBoot(m, b, live, slowest, s.Broken(b), now)
	case m.Parked != "":
		n.Sort, n.Brief = AlertParked, "parked"
		n.Why, n.Means = "parked: "+m.Parked, "the lab does not boot it any more, so that it never loops"
		n.Fix = "carte machine set " + m.Label() + " parked=no"
		if b.ID != 0 {
			n.Fix = fmt.Sprintf("carte boot retry %d", b.ID)
		}
	case b.State == Failed && !waits:
		n.Sort, n.Brief = AlertFailed, "boot failed"
		n.Why = fmt.Sprintf("boot %d of %s failed: %s", b.ID, b.Plan.Stack, b.Reason)
		n.Fix = fmt.Sprintf("carte boot show %d; carte boot retry %d", b.ID, b.ID)
	default:
		return Alert{}, false
	}
	return n, true
}

// AlertOfBoot says what an active boot needs a person for.
func (s Snapshot) AlertOfBoot(b Boot, now time.Time) (Alert, bool) {
	if b.State == Queued || b.State.Final() {
		return Alert{}, false
	}
	return s.AlertOf(s.Machines[b.Machine], b, false, s.slowest(b), now)
}

// ofBoot is what an active boot needs.
func (n Alert) ofBoot(m Machine, b Boot, live Live, slowest map[Rung]time.Duration, broken bool, now time.Time) (Alert, bool) {
	if broken { // no lab runs: it goes on with one
		return Alert{}, false
	}
	if quiet := now.Sub(later(live.Seen, b.Since)); b.State == Working && quiet > Silence {
		n.Sort, n.Brief, n.Since = AlertLost, "stopped talking", live.Seen
		n.Why = fmt.Sprintf("no word from its agent since %s, which reports every second; boot %d (%s) was on the rung %s", live.Seen.Format("15:04:05"), b.ID, b.Plan.Stack, b.Rung())
		n.Means = "it hangs, lost its power or its cable; the lab gives this attempt up after a minute of silence and starts it again"
		n.Fix = fmt.Sprintf("carte log %s; if it hangs: carte machine power %s cycle", m.Label(), m.Label())
		return n, true
	}
	step, late := b.Late(m, live, slowest, now)
	if !late {
		return Alert{}, false
	}
	n.Sort, n.Brief, n.Step, n.Since = AlertStuck, "waits for "+string(step.Rung), step, b.lastAt()
	n.Why = fmt.Sprintf("boot %d of %s did not reach the rung %s: %s", b.ID, b.Plan.Stack, step.Rung, step.Cause)
	n.Fix = step.Fix
	return n, true
}

// PowerAlert says what is wrong with the power of a machine. What a person was asked to do is nothing wrong, unless a boot
// waits for it.
func (s Snapshot) PowerAlert(m Machine) (Alert, bool) {
	note := s.Trouble(m)
	if note == "" {
		return Alert{}, false
	}
	return Alert{Key: fmt.Sprintf("n%d", m.ID), Sort: AlertPower, Machine: m.ID, Who: m.Label(), Brief: "power: " + note, Why: note}, true
}

// Trouble is what the power driver of a machine met last.
func (s Snapshot) Trouble(m Machine) string {
	note := s.Live[m.ID].Note
	if note == "" || m.Power.Driver != "manual" {
		return note
	}
	if b, busy := s.Active(m.ID); busy && b.State == Starting {
		return note
	}
	return ""
}

// ServiceAlerts are the lab's own services that do not work, in the order of their names, and what is wrong with its kinds.
func (s Snapshot) ServiceAlerts() (all []Alert) {
	for _, name := range slices.Sorted(maps.Keys(s.Services)) {
		x := s.Services[name]
		if x.OK {
			continue
		}
		why := x.State
		if x.Note != "" {
			why += ", " + x.Note
		}
		all = append(all, Alert{Key: "s" + x.Name, Sort: AlertService, Who: x.Name, Brief: x.State, Why: why, Fix: "carte doctor"})
	}
	if at := s.KindsAt; at.Trouble != "" {
		all = append(all, Alert{Key: "kinds", Sort: AlertSettings, Who: "kinds", Brief: "not in force", Why: "the lab's own kinds are not in force as they are written: " + at.Trouble,
			Means: "the kinds that were in force before are still", Fix: "mend " + at.File + "; carte kind ls reads it again"})
	}
	return all
}

// begun is when the attempt that the boot is on began, or, before that, its state.
func (b Boot) begun() time.Time {
	if b.Begun.IsZero() {
		return b.Since
	}
	return b.Begun
}

// lastAt is when the boot reached its last rung, or else its state.
func (b Boot) lastAt() time.Time {
	if c := b.Climbed(); len(c) > 0 {
		return c[len(c)-1].At
	}
	return b.Since
}

// Awaited is the rung whose cause and fix help when the boot goes no further: the next one that leaves a trace on this
// machine's way of booting. What the machine said of itself on its console is the cause. ok is false while nothing outside
// the agent is waited for.
func (b Boot) Awaited(m Machine, live Live) (step Step, ok bool) {
	switch b.State {
	case Handover:
		step, ok = StepOf(RungRun)
	case Starting:
		i := slices.IndexFunc(Ladder, func(x Step) bool {
			return !b.Rung().Reached(x.Rung) && x.Rung != RungTFTP && (x.Rung != RungDHCP || m.Virtual == nil)
		})
		if ok = i >= 0; ok {
			step = Ladder[i]
		}
	}
	if !ok {
		return step, false
	}
	if said := live.Said.of(b); said != "" {
		step.Cause = saidWords(said)
	}
	if step.Cause != "" && (b.State == Handover || live.Said.of(b) != "") {
		step.Fix = fmt.Sprintf("look at the console: carte log %s; carte boot stop %d ends it", m.Label(), b.ID)
	}
	return step, true
}

// Late says that the boot waits for a rung for longer than its own past explains, or that its machine said that it will
// not come.
func (b Boot) Late(m Machine, live Live, slowest map[Rung]time.Duration, now time.Time) (Step, bool) {
	step, ok := b.Awaited(m, live)
	switch {
	case ok && live.Said.of(b) != "":
		return step, true
	case !ok || step.Limit == 0:
		return step, false
	}
	limit := step.Limit / 4
	if past, known := slowest[step.Rung]; known {
		limit = min(limit, past+past/2+5*time.Second)
	}
	return step, now.Sub(b.lastAt()) > limit
}

// Cause is what kept a failed boot from its next rung, and what to do about it, where its reason does not say already.
func (b Boot) Cause(m Machine) (cause, fix string) {
	i := 0
	if r := b.Rung(); r != "" {
		i = r.index() + 1
	}
	log := "carte log " + m.Label()
	switch {
	case b.State != Failed:
		return "", ""
	case i < len(Ladder) && strings.Contains(b.Reason, Ladder[i].Cause): // a rung that did not come in time
		fix = Ladder[i].Fix
		if Ladder[i].Rung == RungRun {
			fix = "look at the console: " + log
		}
		return Ladder[i].Cause, fix
	}
	return "", "its console and its agent: " + log
}

// A Said is the line by which a machine told on its console that a boot will not get further.
type Said struct {
	Boot    int64  `json:"boot"`
	Attempt int    `json:"attempt"`
	Text    string `json:"text"`
}

// of is what was said of the attempt that the boot is on.
func (s Said) of(b Boot) string {
	if s.Boot != b.ID || s.Attempt != b.Attempt {
		return ""
	}
	return s.Text
}

func saidWords(text string) string { return fmt.Sprintf("its console said %q", text) }

// lastWords are what an agent, a second stage or a kernel write when they are at their end.
var lastWords = []string{"the agent has a bug", "::carte fail", "Kernel panic - not syncing"}

// lastWord returns a console line, without what stands before, as far as it tells an end; else nothing.
func lastWord(line string) string {
	for _, words := range lastWords {
		if i := strings.Index(line, words); i >= 0 {
			return strings.TrimSpace(line[i:])
		}
	}
	return ""
}

// tells keeps a machine's last word, for as long as the attempt lasts. The first of them says most.
func (d *draft) tells(machine int64, text string) {
	b, ok := d.Active(machine)
	live := d.live(machine)
	if !ok || live.Said.of(b) != "" {
		return
	}
	live.Said = Said{b.ID, b.Attempt, text}
	d.put(live)
}
