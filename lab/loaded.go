package lab

import (
	"context"
	"fmt"
	"strings"
	"unicode"
)

// What becomes of a kernel that iPXE loads from the server: the stack's own, with a second stage of the agent's, or one that
// runs in memory, which no agent comes before or after.

// StartMark is what iPXE writes on the console when it has such a kernel and starts it, and StartRest the line behind that:
// a kernel that sets up the serial line throws away what is still in its buffer, the last sixteen letters (seen with
// memtest86+ 6.10). What comes then is the system's.
const (
	StartMark = "carte: its kernel starts"
	StartRest = "carte: what follows is its own"
)

// Staging returns the boot for which an agent's key gives the right to send a second stage: one that it works on, and whose
// kernel the server may have to hand out.
func (l *Lab) Staging(ctx context.Context, key string) (Boot, error) {
	s, m, err := l.keyed(ctx, key)
	if err != nil {
		return Boot{}, err
	}
	b, ok := s.Active(m.ID)
	if !ok || b.State != Working || m.Ticket.Boot != b.ID || b.Plan.Start != StartKexec && b.Plan.Start != StartNetboot {
		return Boot{}, fmt.Errorf("%s works on no boot that has a second stage: %w", m.Label(), ErrDenied)
	}
	return b, nil
}

// Loaded notes that a machine has been sent all of the kernel of its boot. It may be said again.
func (l *Lab) Loaded(ctx context.Context, boot int64) error {
	_, err := l.do(ctx, func(d *draft) error {
		if b, ok := d.Boots[boot]; ok {
			d.loaded(b)
		}
		return nil
	})
	return err
}

func (d *draft) loaded(b Boot) {
	live := d.live(b.Machine)
	memory := b.Plan.Start == StartMemory && b.State == Starting
	if !memory && b.State != Handover || live.Loaded {
		return
	}
	live.Loaded = true
	d.put(live)
	if !memory {
		return
	}
	b.climb(RungHandover, d.at)
	b = d.move(b, Handover, "")
	if why := blind(d.Machines[b.Machine], b.Plan); why != "" {
		d.unseen(b, "its kernel was loaded; "+why)
	}
}

// Unloaded ends the attempt of a boot whose own kernel the machine cannot be given, or cannot start. Final: trying again
// would end the same way. What waits behind it starts with the next script.
func (l *Lab) Unloaded(ctx context.Context, boot int64, why string, final bool) error {
	_, err := l.do(ctx, func(d *draft) error {
		b, ok := d.Boots[boot]
		if !ok || b.State != Starting && b.State != Handover {
			return nil
		}
		if final {
			d.voidTicket(b.Machine)
			d.move(b, Failed, Clean(why))
		} else {
			d.strike(b, Clean(why))
		}
		if q := d.QueueOf(b.Machine); len(q) > 0 && d.Machines[b.Machine].Parked == "" {
			d.start(q[0], false) // the machine is there, and asks
		}
		return nil
	})
	return err
}

// listens says that the next line on a machine's console may be the first of a system that runs in memory.
func (s Snapshot) listens(machine int64) bool {
	b, ok := s.Active(machine)
	return ok && b.Plan.Start == StartMemory && (b.State == Starting || b.State == Handover)
}

// firstWord hears a line of a machine whose kernel runs in memory: many of those have no login and know nothing of carte, so
// the first thing that they write is a sign of life.
func (d *draft) firstWord(machine int64, line string) {
	if !d.listens(machine) {
		return
	}
	live := d.live(machine)
	n := 0
	for n < min(len(line), len(StartRest)) && line[n] == StartRest[n] {
		n++
	}
	if n > len("carte: ") {
		line = line[n:]
	}
	switch {
	case strings.Contains(line, StartMark):
		live.Started = true
		d.put(live)
		b, _ := d.Active(machine)
		d.loaded(b)
	case !live.Started || strings.Contains(line, "::carte "): // which is heard anyway
	case strings.Contains(line, "ipxe.org/") || strings.HasPrefix(line, "carte: "): // iPXE says why it cannot
	case strings.IndexFunc(line, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }) >= 0:
		_ = d.hear(machine, Saying{Word: "ready"}) // a word without a number is always understood
	}
}
