package tui

import (
	"slices"
	"time"

	"carte/lab"
)

// A rise is one rung of a boot's strip.
type rise struct {
	rung     lab.Rung
	reached  bool
	inferred bool // nobody saw it, a later rung proves it
	current  bool // the boot is on it, or waits for it
	took     time.Duration
}

// ends is when the boot's record ends: now, while it goes on.
func ends(b lab.Boot, now time.Time) time.Time {
	if b.State.Final() && !b.Ended.IsZero() {
		return b.Ended
	}
	return now
}

// began is when the boot's current attempt began, or, before that, its state.
func began(b lab.Boot) time.Time {
	if b.Begun.IsZero() {
		return b.Since
	}
	return b.Begun
}

// strip lays a boot on the ladder.
func strip(b lab.Boot, now time.Time) []rise {
	c := b.Climbed()
	at := map[lab.Rung]int{}
	for i, x := range c {
		at[x.Rung] = i
	}
	next := upcoming(b)
	steps := make([]rise, 0, len(lab.Ladder))
	for _, step := range lab.Ladder {
		if b.Plan.Until != "" && !b.Plan.Until.Reached(step.Rung) {
			break
		}
		if step.Rung == lab.RungPrepare && !b.Plan.Start.Prepared() {
			continue // there is nothing to put together
		}
		r := rise{rung: step.Rung, current: step.Rung == next}
		if i, ok := at[step.Rung]; ok {
			r.reached, r.inferred = true, c[i].Inferred
			r.took = lab.Took(c, i, began(b), ends(b, now))
		} else if r.current {
			r.took = ends(b, now).Sub(lastAt(b))
		}
		steps = append(steps, r)
	}
	return steps
}

func lastAt(b lab.Boot) time.Time {
	if c := b.Climbed(); len(c) > 0 {
		return c[len(c)-1].At
	}
	return b.Since
}

// upcoming is the rung that the boot is on or waits for; empty when it waits in the queue or went well.
func upcoming(b lab.Boot) lab.Rung {
	if b.State == lab.Queued || b.State == lab.Done {
		return ""
	}
	now := b.Rung()
	if now == "" {
		return lab.Ladder[0].Rung
	}
	if now.IsWork() {
		return now
	}
	i := slices.IndexFunc(lab.Ladder, func(s lab.Step) bool { return s.Rung == now })
	return lab.Ladder[i+1].Rung
}

// usual is what the past boots of one stack on one machine took: the medians of at most the last twenty that went well.
type usual struct {
	n       int
	total   time.Duration              // to the user's system
	reach   map[lab.Rung]time.Duration // from the beginning until the rung was reached
	took    map[lab.Rung]time.Duration
	slowest map[lab.Rung]time.Duration
}

// usualBoots and fewBoots are how many boots the usual time is taken from, and how many it needs.
const (
	usualBoots = lab.UsualBoots
	fewBoots   = lab.FewBoots
)

// usualOf takes the medians of boots that went well, oldest first.
func usualOf(boots []lab.Boot) usual {
	u := usual{reach: map[lab.Rung]time.Duration{}, took: map[lab.Rung]time.Duration{}, slowest: map[lab.Rung]time.Duration{}}
	boots = boots[max(0, len(boots)-usualBoots):]
	if u.n = len(boots); u.n < fewBoots {
		return u
	}
	reach, times := map[lab.Rung][]time.Duration{}, map[lab.Rung][]time.Duration{}
	for _, b := range boots {
		c := b.Climbed()
		for i, x := range c {
			reach[x.Rung] = append(reach[x.Rung], x.At.Sub(began(b)))
			times[x.Rung] = append(times[x.Rung], lab.Took(c, i, began(b), b.Ended))
		}
	}
	for r, d := range times {
		u.took[r], u.reach[r], u.slowest[r] = median(d), median(reach[r]), slices.Max(d)
	}
	if u.total = u.reach[lab.RungRun]; u.total == 0 { // where carte has no eyes the start is the last that it knows of
		u.total = u.reach[lab.RungHandover]
	}
	return u
}

// median sorts d and returns its middle.
func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	if n := len(d); n%2 == 0 {
		return (d[n/2-1] + d[n/2]) / 2
	}
	return d[len(d)/2]
}
