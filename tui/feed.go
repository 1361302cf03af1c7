package tui

import (
	"context"
	"fmt"
	"sync"
	"time"

	"carte/lab"
)

// frame is the least time between two pictures; beat is how often the clock and what is being counted are drawn anew
// while something goes on.
const (
	frame = 100 * time.Millisecond
	beat  = 250 * time.Millisecond
	again = time.Second     // until the lab is asked once more after an error
	pulse = time.Second     // between two questions whether the lab is there
	quiet = 2 * time.Second // until a lab that does not answer that counts as gone
)

// A feed brings the screen what is new. Two readers block on the lab; the waker gathers what they bring and owns the only
// Send, so that there is never more than one message on its way, nor more than ten in a second. While it rests the
// readers rest too: nothing piles up, and nothing is lost, for the lab keeps it.
type feed struct {
	desk   lab.Desk
	now    func() time.Time
	events chan wakeMsg
	poke   chan struct{}

	mu      sync.Mutex
	machine int64 // whose log is shown
	turn    int   // counts the changes of machine, from 1
	cancel  context.CancelFunc
	done    []outcome // of work that the screen started
}

// A wakeMsg is what is new since the one before.
type wakeMsg struct {
	at    time.Time
	snap  *lab.Snapshot
	heard bool  // the lab answered
	gone  error // the lab cannot be reached
	tries int
	turn  int // whose lines these are
	lines []lab.Line
	lost  int64
	done  []outcome
}

func newFeed(desk lab.Desk, now func() time.Time) *feed {
	return &feed{desk: desk, now: now, events: make(chan wakeMsg), poke: make(chan struct{}, 1), turn: 1}
}

// show chooses the machine whose log is wanted, 0 for all, and returns the turn that its lines will carry.
func (f *feed) show(machine int64) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.machine = machine
	f.turn++
	if f.cancel != nil {
		f.cancel()
	}
	return f.turn
}

// soon asks for a picture although the lab brought nothing.
func (f *feed) soon() {
	select {
	case f.poke <- struct{}{}:
	default:
	}
}

// watch brings snapshots.
func (f *feed) watch(ctx context.Context) {
	rev, tries := uint64(0), 0
	for {
		s, err := f.desk.Watch(ctx, rev)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			rev = 0 // a lab that was started anew counts from the beginning
			tries++
			if !f.bring(ctx, wakeMsg{gone: err, tries: tries}) || !rest(ctx, again) {
				return
			}
			continue
		}
		rev, tries = s.Rev, 0
		if !f.bring(ctx, wakeMsg{snap: &s}) {
			return
		}
	}
}

// listen asks the lab now and then for a word: a watch alone cannot tell a lab on which nothing happens from one that is
// gone or hangs.
func (f *feed) listen(ctx context.Context) {
	for tries := 0; rest(ctx, pulse); {
		qctx, cancel := context.WithTimeout(ctx, quiet)
		_, _, _, err := f.desk.Tail(qctx, lab.Tail{Max: 1})
		late := qctx.Err() != nil
		cancel()
		msg := wakeMsg{heard: true}
		if tries++; err != nil {
			if msg = (wakeMsg{gone: err, tries: tries}); late {
				msg.gone = fmt.Errorf("it does not answer: %w", lab.ErrUnreachable)
			}
		} else {
			tries = 0
		}
		if ctx.Err() != nil || !f.bring(ctx, msg) {
			return
		}
	}
}

// tail brings lines of the log.
func (f *feed) tail(ctx context.Context) {
	for ctx.Err() == nil {
		f.mu.Lock()
		tctx, cancel := context.WithCancel(ctx)
		machine, turn := f.machine, f.turn
		f.cancel = cancel
		f.mu.Unlock()
		f.follow(tctx, machine, turn)
		cancel()
	}
}

// follow brings the lines of one machine until ctx ends.
func (f *feed) follow(ctx context.Context, machine int64, turn int) {
	after := int64(0)
	for {
		lines, next, lost, err := f.desk.Tail(ctx, lab.Tail{Machine: machine, After: after, Max: keptLines, Wait: true})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			after = 0
			if !rest(ctx, again) {
				return
			}
			continue
		}
		if after = next; !f.bring(ctx, wakeMsg{turn: turn, lines: lines, lost: lost}) {
			return
		}
	}
}

// bring hands something to the waker; false when ctx ended first.
func (f *feed) bring(ctx context.Context, e wakeMsg) bool {
	select {
	case f.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// wake gathers what is new and sends it, until ctx ends.
func (f *feed) wake(ctx context.Context, send func(wakeMsg)) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	busy, beats := false, 0
	for {
		var msg wakeMsg
		select {
		case e := <-f.events:
			msg.merge(e)
		case <-f.poke:
		case <-ticker.C:
			if beats++; !busy && beats%4 != 0 {
				continue
			}
		case <-ctx.Done():
			return
		}
		for more := true; more; {
			select {
			case e := <-f.events:
				msg.merge(e)
			default:
				more = false
			}
		}
		if msg.snap != nil {
			busy = goesOn(*msg.snap)
		}
		f.mu.Lock()
		msg.done, f.done = f.done, nil
		f.mu.Unlock()
		msg.at = f.now()
		send(msg)
		if !rest(ctx, frame) {
			return
		}
	}
}

// goesOn says whether a boot is on its way, so that something is being counted.
func goesOn(s lab.Snapshot) bool {
	for _, b := range s.Boots {
		if b.State != lab.Queued && !b.State.Final() {
			return true
		}
	}
	return false
}

// merge adds what e brings; lines of another turn replace the ones before.
func (m *wakeMsg) merge(e wakeMsg) {
	if e.snap != nil {
		m.snap = e.snap
	}
	switch {
	case e.gone != nil:
		m.gone, m.tries, m.heard = e.gone, max(e.tries, m.tries), false
	case e.snap != nil || e.heard:
		m.gone, m.tries, m.heard = nil, 0, true
	}
	if e.turn > m.turn {
		m.turn, m.lines, m.lost = e.turn, nil, 0
	}
	if e.turn == m.turn && e.turn > 0 {
		m.lines, m.lost = append(m.lines, e.lines...), m.lost+e.lost
	}
}

// rest waits; false when ctx ended first.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
