package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"carte/lab"
)

// pulse reports in regular intervals, and at once when much waits. It ends when this shim has no right any more, or when
// the machine is to restart.
func (s *life) pulse(ctx context.Context) error {
	t := time.NewTicker(s.Interval)
	defer t.Stop()
	said := time.Time{}
	for {
		more, err := s.report(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, lab.ErrDenied), errors.Is(err, errLocal):
			return err
		case err != nil && time.Since(said) > 30*time.Second:
			said = time.Now()
			s.show("carte: " + short(err.Error()) + "; what there is to say is kept, and said when it works again")
		case err == nil && !said.IsZero():
			said = time.Time{}
			s.show("carte: the server is back")
		}
		s.serial()
		if more && err == nil {
			continue
		}
		hurry := s.lines.more
		if err != nil {
			hurry = nil
		}
		select {
		case <-t.C:
		case <-s.kick:
		case <-hurry:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// report says once what there is to say, and obeys the answer. more: there is more to say.
func (s *life) report(ctx context.Context) (more bool, err error) {
	texts, mark := s.lines.batch()
	r := lab.Report{Boot: s.Orders.Boot, Shim: true, Lines: texts, Revoked: s.stopped.Load() && !s.told.Load()}
	var reply lab.Reply
	if err := s.link.message(ctx, lab.PathReport, r, &reply); err != nil {
		return false, fmt.Errorf("report: %w", err)
	}
	s.lines.sent(mark)
	if r.Revoked {
		s.told.Store(true)
	}
	if o := reply.Orders; o != nil && o.Do == lab.DoLocal {
		return false, fmt.Errorf("%w: %s", errLocal, o.Why)
	}
	if reply.Revoke != "" && s.over.Err() == nil {
		s.tell("boot %d is called back: %s", s.Orders.Boot, reply.Revoke)
		s.end(errRecalled)
	}
	return s.lines.waiting() > 0, nil
}

// serial says to the consoles what is for carte, where no server has ever answered.
func (s *life) serial() {
	if s.deaf() {
		for _, text := range s.lines.takeSayings() {
			s.show(text)
		}
	}
}

// deaf says that no server has answered for so long that there may be none.
func (s *life) deaf() bool { return !s.link.heard.Load() && time.Since(s.began) > s.Deaf }

// flush waits until the server has all lines. It does not wait for long where the system is going down, or where there
// may be no server.
func (s *life) flush(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var limit <-chan time.Time
	t := time.NewTicker(s.Interval / 10)
	defer t.Stop()
	for s.lines.waiting() > 0 {
		if limit == nil && (s.over.Err() != nil || s.deaf()) {
			limit = time.After(s.Grace)
		}
		s.now()
		select {
		case <-t.C:
		case <-limit:
			return
		case <-ctx.Done():
			return
		}
	}
}
