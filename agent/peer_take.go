package agent

import (
	"context"
	"errors"
	"math/bits"
	"slices"
	"time"
)

// taker fetches from others.
func (p *pool) taker(ctx context.Context) error {
	var w *writer
	for {
		b, err := p.next(ctx, p.fromPeer)
		if b == nil || err != nil {
			return err
		}
		if w == nil {
			w = newWriter(p.f)
			w.wire = &p.f.peers
		}
		rest, err := b.from.take(ctx, w, b)
		if err = p.judge(b, len(rest) < len(b.ids), err); err != nil {
			return err
		}
		p.settle(b, rest)
	}
}

// judge notes what came of a request to another. It returns errors that are not his.
func (p *pool) judge(b *bundle, gave bool, err error) error {
	q, now := b.from, time.Now()
	p.mu.Lock()
	q.asked--
	if gave {
		q.fails = 0
	}
	switch {
	case err == nil:
	case errors.Is(err, errBusy):
		q.busy, err = now.Add(busyPause), nil
	case errors.Is(err, errLacks):
		p.forget(q, b)
		if q.lacks++; q.lacks < mostLacks {
			err = nil
		}
	case errors.Is(err, errGone):
		if q.missed(now); q.fails < mostFails {
			err = nil
		}
	case !errors.Is(err, errLie):
		p.mu.Unlock()
		return err
	}
	p.mu.Unlock()
	if err != nil {
		p.drop(q, err)
	}
	return nil
}

// forget takes it that another has not what it was asked for, until it says so again.
func (p *pool) forget(q *peer, b *bundle) {
	for _, places := range b.places {
		for _, at := range places {
			k := p.number(at)
			q.have[k/64] &^= 1 << (k % 64)
		}
	}
}

// drop asks another no more.
func (p *pool) drop(q *peer, why error) {
	p.mu.Lock()
	if i := slices.Index(p.peers[:], q); i >= 0 {
		p.peers[i] = nil
	}
	p.rescan()
	p.wake()
	p.mu.Unlock()
	q.http.CloseIdleConnections()
	p.swarm.drop(q.Peer, why)
}

// watcher asks the i-th of the others what he has, again and again, until there is nothing more to fetch.
func (p *pool) watcher(i int) func(context.Context) error {
	return func(ctx context.Context) error {
		inner, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(p.over, cancel)()
		for inner.Err() == nil {
			p.mu.Lock()
			q, listed, pause := p.peers[i], p.listed, p.pause()
			p.mu.Unlock()
			if q == nil {
				select {
				case <-listed:
				case <-inner.Done():
				}
				continue
			}
			have, phase, err := q.ask(inner, p)
			if inner.Err() != nil {
				break
			}
			_ = sleep(inner, max(pause, p.heard(q, have, phase, err))) // its error is the loop's end
		}
		return context.Cause(ctx)
	}
}

// heard notes what one of the others has, and returns for how long it is not to be asked.
func (p *pool) heard(q *peer, have []uint64, phase byte, err error) time.Duration {
	if errors.Is(err, errLie) {
		p.drop(q, err)
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if err != nil {
		q.missed(now)
		if !q.told {
			q.told = true
			p.f.say("the machine at %s cannot be asked for chunks just now: %v", q.Addr, err)
		}
		p.rescan()
		p.wake()
		return q.away.Sub(now)
	}
	if q.answers && q.phase == phase && slices.Equal(q.have, have) {
		return 0
	}
	count := 0
	for w := range have {
		count += bits.OnesCount64(have[w])
	}
	if count > q.count || phase != q.phase {
		q.grew = now
	}
	q.answers, q.have, q.count, q.phase = true, have, max(count, q.count), phase
	p.wake()
	return 0
}

// paced notes how long the server took for n chunks, while it was asked for others too.
func (p *pool) paced(n int, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pace := fetchers * float64(n) * beat.Seconds() / max(took.Seconds(), 1e-6)
	if p.pace > 0 {
		pace = (pace + 3*p.pace) / 4
	}
	p.pace = pace
}

// pause is the time between two questions to the same one: others and long answers make it longer.
func (p *pool) pause() time.Duration {
	n := 0
	for _, q := range p.peers {
		if q != nil {
			n++
		}
	}
	return max(50*time.Millisecond, time.Duration(n)*(20*time.Millisecond+time.Duration(len(p.open))*time.Microsecond))
}
