package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"carte/lab"
)

// How long a contract test waits before it says once more what for, for lazy layers that do not arrive, and for a disk's system
// that has shown itself to say more.
const (
	contractWord   = 30 * time.Second
	contractArrive = 10 * time.Minute
	contractListen = 45 * time.Second
)

// seenBoot is a boot that is over, and what was seen while it ran.
type seenBoot struct {
	lab.Boot
	beats   int    // times that carte spoke from beside the system
	absent  int64  // bytes that had not arrived when its disk was proven
	whole   bool   // they have since
	late    bool   // the system ran before they had
	stopped bool   // the test ended it, because its own program went on
	silent  string // why a kernel in memory is not tried again
	said    string // by the shim: the program starts
	word    string // that the system showed itself by, on its console
	under   string // the kernel's release
	sayings int    // ::carte lines on the console
	network string // what the last of them said of the network: "1", "0" or empty
}

func (b seenBoot) ran() bool { return climbAt(b.Boot, lab.RungRun) != time.Time{} }

// unseen says that its system was sent on its way where nobody looks.
func (b seenBoot) unseen() bool { return b.State == lab.Done && !b.ran() }

func climbAt(b lab.Boot, r lab.Rung) time.Time {
	i := slices.IndexFunc(b.Climbed(), func(c lab.Climb) bool { return c.Rung == r })
	if i < 0 {
		return time.Time{}
	}
	return b.Climbed()[i].At
}

// boot boots the stack and watches until the end. A boot whose machine never came to start the system is an error: nothing is
// proven by it. own: it starts the image's own program, which has half of the time.
func (t *contractTest) boot(ctx context.Context, own bool) (seen seenBoot, err error) {
	b, s, err := queueBoot(ctx, t.desk, lab.Queue{Machine: t.machine, Stack: t.name})
	if err != nil {
		return seen, err
	}
	t.mine = append(t.mine, b.ID)
	t.note("boot %d begins", b.ID)
	asked := t.term.Now()
	for told, spoke := 0, asked; ; {
		if n, ok := s.Boots[b.ID]; ok {
			b = n
		}
		told = t.tellRungs(b, told)
		seen.watch(s, b)
		if b.State.Final() {
			break
		}
		now := t.term.Now()
		if now.Sub(spoke) >= contractWord {
			spoke = now
			t.note("boot %d  %s so far; %s", b.ID, now.Sub(asked).Round(time.Second), waitsFor(s, b, own))
		}
		if seen.silent != "" || own && b.State == lab.Running && now.Sub(asked) > t.timeout/2 {
			seen.stopped = true
			if err := t.stop(ctx, b, own); err != nil {
				return seen, err
			}
		}
		if s, err = t.next(ctx, s.Rev, s); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				err = fmt.Errorf("boot %d was not over when the test had taken %s (--timeout): %s; nothing was proven: %w", b.ID, t.timeout, waitsFor(s, b, own), err)
			}
			return seen, err
		}
	}
	if seen.Boot = b; seen.silent != "" {
		b.Reason, seen.Reason = seen.silent, seen.silent
	}
	t.note("boot %d  %s after %s%s", b.ID, b.State, t.term.Now().Sub(asked).Round(time.Second), lead(": ", b.Reason))
	for _, ref := range b.Wrote {
		t.note("boot %d has written back %s, as its kind has it", b.ID, ref)
	}
	switch {
	case b.State == lab.Revoked && !seen.stopped:
		return seen, fmt.Errorf("boot %d was stopped: %s; nothing was proven: %w", b.ID, b.Reason, lab.ErrRefused)
	case b.State == lab.Failed && climbAt(b, lab.RungHandover).IsZero():
		return seen, fmt.Errorf("boot %d failed before its system was started: %s; nothing was proven: %w", b.ID, b.Reason, lab.ErrRefused)
	}
	return seen, t.listen(ctx, &seen)
}

func lead(sign, words string) string {
	if words == "" {
		return ""
	}
	return sign + words
}

// stop ends a boot that has shown what it could.
func (t *contractTest) stop(ctx context.Context, b lab.Boot, own bool) error {
	if b.Revoke != "" {
		return nil
	}
	why := "the contract test has seen enough"
	if own {
		why = "the contract test has seen its program start, and waits no longer for its end"
	}
	_, err := t.desk.Say(ctx, lab.Stop{Boot: b.ID, Reason: why})
	if errors.Is(err, lab.ErrBusy) { // it has ended by itself
		err = nil
	}
	return err
}

// next is the lab when something in it has changed, or after a while.
func (t *contractTest) next(ctx context.Context, rev uint64, was lab.Snapshot) (lab.Snapshot, error) {
	within, cancel := context.WithTimeout(ctx, contractWord)
	defer cancel()
	s, err := t.watch(within, t.desk, rev)
	if err != nil && ctx.Err() == nil && within.Err() != nil {
		return was, nil
	}
	if err != nil {
		return was, errors.Join(ctx.Err(), err)
	}
	return s, nil
}

// waitsFor says in words what a boot does, and what it waits for.
func waitsFor(s lab.Snapshot, b lab.Boot, own bool) string {
	switch p := s.Live[b.Machine].Progress; {
	case b.State == lab.Queued:
		return "it waits: " + s.Why(b)
	case b.State == lab.Handover && b.Plan.Start == lab.StartDisk:
		return "it was started from its disk, and has 10 minutes for a login prompt or a ::carte line on its serial console"
	case b.State == lab.Handover && b.Plan.Start == lab.StartMemory:
		return "the kernel was started, and has 10 minutes for its first line on the serial console"
	case b.State == lab.Handover:
		return "its system was started, and nothing was heard of it yet"
	case b.State == lab.Running && own:
		return "its own program is at work"
	case b.State == lab.Running:
		return "its system runs; the probe looks round, and waits at most a minute for a network"
	case b.State == lab.Working && p.Of > 0:
		return fmt.Sprintf("%s: %s of %s", cmp.Or(p.Rung, b.Rung()), lab.Bytes(p.Done), lab.Bytes(p.Of))
	case b.State == lab.Starting:
		at := slices.IndexFunc(lab.Ladder, func(x lab.Step) bool { return x.Rung == b.Rung() }) + 1
		for at < len(lab.Ladder)-1 && (lab.Ladder[at].Rung == lab.RungDHCP || lab.Ladder[at].Rung == lab.RungTFTP) { // which leave no trace here
			at++
		}
		return fmt.Sprintf("its machine starts; the rung %s is waited for, %s at most", lab.Ladder[at].Rung, lab.Ladder[at].Limit)
	default:
		return "it is " + whereIs(b)
	}
}

// watch takes from the lab what can be seen only while the boot goes on.
func (seen *seenBoot) watch(s lab.Snapshot, b lab.Boot) {
	live := s.Live[b.Machine]
	if b.State == lab.Running && live.Shim {
		seen.beats++
	}
	if b.State == lab.Handover || b.State == lab.Running || b.State == lab.Done {
		seen.arrived(s, b)
	}
	started := slices.ContainsFunc(b.Climbs, func(c lab.Climb) bool { return c.Rung == lab.RungHandover })
	if b.Plan.Start == lab.StartMemory && b.Strikes > 0 && started && seen.silent == "" { // it would only be silent again
		seen.silent = cmp.Or(strings.TrimSuffix(b.Reason, "; it is tried again"), "its kernel was loaded and started, and nothing came on its serial console")
	}
}

// arrived looks at what of the disk is still to come.
func (seen *seenBoot) arrived(s lab.Snapshot, b lab.Boot) {
	ran := climbAt(b, lab.RungRun)
	for _, h := range s.Machines[b.Machine].Holds {
		if !h.Is(b.Disk) {
			continue
		}
		seen.absent = max(seen.absent, h.Absent)
		seen.whole = h.Absent == 0 && !h.Dirty
		seen.late = seen.late || !ran.IsZero() && (h.Absent > 0 || seen.absent > 0 && h.At.After(ran))
	}
}

// arrive waits until the disk of a boot has all its bytes, which its system may have run without.
func (t *contractTest) arrive(ctx context.Context, seen *seenBoot) error {
	s, err := t.desk.Watch(ctx, 0)
	if err != nil || seen.absent == 0 {
		return err
	}
	limit := t.term.Now().Add(contractArrive)
	for spoke := t.term.Now(); ; {
		if seen.arrived(s, seen.Boot); seen.whole || s.Live[seen.Machine].Power != "on" || t.term.Now().After(limit) {
			return nil
		}
		if now := t.term.Now(); now.Sub(spoke) >= contractWord {
			spoke = now
			t.note("boot %d is over, and not all of its lazy layers have arrived; the next waits for them", seen.ID)
		}
		if s, err = t.next(ctx, s.Rev, s); err != nil {
			return err
		}
	}
}

// listen reads the log of a boot. The system of a disk goes on after its login prompt; where it could still prove something by
// what it says, it has a while for that.
func (t *contractTest) listen(ctx context.Context, seen *seenBoot) error {
	_, declared := t.terms[lab.Network]
	within, cancel := context.WithTimeout(ctx, contractListen)
	defer cancel()
	for after, wait := int64(0), false; ; wait = true {
		lines, next, _, err := t.desk.Tail(within, lab.Tail{Machine: seen.Machine, After: after, Wait: wait})
		if err != nil && wait && within.Err() != nil && ctx.Err() == nil {
			return nil
		}
		if err != nil {
			return err
		}
		after = next
		seen.read(lines)
		if seen.Plan.Form != lab.FormDisk || !declared || seen.network != "" || !seen.ran() {
			return nil
		}
		if !wait {
			t.note("boot %d  its system has %s to say on its console how its network is", seen.ID, contractListen)
		}
	}
}

// read takes what matters out of lines of the boot's machine, the oldest first.
func (seen *seenBoot) read(lines []lab.Line) {
	ran, marked := climbAt(seen.Boot, lab.RungRun), false
	for _, l := range lines {
		if l.At.Before(seen.Begun) {
			continue
		}
		if _, release, ok := strings.Cut(l.Text, ", under Linux "); ok && strings.Contains(l.Text, fmt.Sprintf("boot %d: ", seen.ID)) {
			seen.under = strings.TrimSpace(release)
		}
		if strings.HasSuffix(l.Text, lab.ProjectPlace+"/run starts") {
			seen.said = l.Text
		}
		if l.Source != "serial" {
			continue
		}
		x, carte, err := lab.ParseSaying(l.Text)
		if carte = carte && err == nil; carte {
			seen.sayings++
			if x.Word == "metric" && x.Name == "contract_network" {
				seen.network = map[bool]string{true: "1", false: "0"}[x.Value == 1]
			}
		}
		if seen.word == "" && !ran.IsZero() && !l.At.After(ran.Add(time.Millisecond)) {
			memory := marked && seen.Plan.Start == lab.StartMemory && !strings.HasPrefix(l.Text, "carte: ") && strings.IndexFunc(l.Text, unicode.IsLetter) >= 0
			login := seen.Plan.Start == lab.StartDisk && strings.HasSuffix(strings.TrimSpace(l.Text), "login:")
			if carte || login || memory {
				seen.word = l.Text
			}
		}
		marked = marked || strings.Contains(l.Text, lab.StartMark)
	}
}
