package shim

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"carte/agent/wire"
	"carte/lab"
)

// localTries is how often something is packed anew after it could not be read here.
const localTries = 3

// home takes home what there is, results first. A system that is called back or stops is held for a bounded time, and so is
// one whose server has never answered. An error says that results stay behind.
func (s *life) home(ctx context.Context) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.Enter(); err != nil {
		return fmt.Errorf("the system cannot be looked into: %w", err)
	}
	err := s.results(ctx)
	for _, b := range s.Backs {
		if err := s.back(ctx, b); err != nil {
			s.tell("what was changed in %s is not kept: %s", b.Image, lab.Words(err))
		}
	}
	return err
}

// errBound ends what took too long.
var errBound = errors.New("the server did not take it in time")

// bound ends its context when the system can be held no longer.
func (s *life) bound(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	end := func() { cancel(errBound) }
	late := time.AfterFunc(s.Bound, func() { // no server at all
		if !s.link.heard.Load() {
			end()
		}
	})
	stop := context.AfterFunc(s.over, func() { time.AfterFunc(s.Bound, end) })
	return ctx, func() { stop(); late.Stop(); end() }
}

// results takes home what lies in /carte/out.
func (s *life) results(ctx context.Context) error {
	if !s.Orders.Compose.Gives(lab.Results) {
		return nil
	}
	var skipped []string
	p, err := s.send(ctx, lab.PathOut, nil, func() Entries {
		skipped = nil
		return outEntries(s.Root+lab.OutPlace, func(what string) { skipped = append(skipped, what) })
	})
	for i, what := range skipped {
		if i == 20 {
			s.tell("and %d more", len(skipped)-i)
			break
		}
		s.tell("%s/%s stays behind", lab.OutPlace, what)
	}
	if err != nil {
		return fmt.Errorf("results were not taken home and stay in %s: %w", lab.OutPlace, err)
	}
	if p.files > 0 {
		s.tell("results: %d files and folders, %d bytes are home", p.files, p.bytes)
	}
	return nil
}

// back sends what was changed in an image. Where nothing was, nothing is sent.
func (s *life) back(ctx context.Context, b Back) error {
	if s.Changes == nil {
		return fmt.Errorf("clause %q is not offered on this system: %w", lab.ClauseWritten, lab.ErrRefused)
	}
	var kept lab.Kept
	p, err := s.send(ctx, lab.PathBack+url.PathEscape(b.Image), &kept, func() Entries { return s.Changes(b) })
	switch {
	case err != nil:
		return err
	case p.files == 0:
		s.tell("%s: nothing was changed in it, nothing is sent", b.Image)
	case kept.Same:
		s.tell("%s: what was changed in it is %s already", b.Image, kept.Ref)
	default:
		s.tell("%s: what was changed in it is kept as %s", b.Image, kept.Ref)
	}
	return nil
}

// send posts entries as a tar until the server has it. Without an entry nothing is posted.
func (s *life) send(ctx context.Context, path string, reply any, all func() Entries) (p *packed, err error) {
	here := 0
	err = s.link.patiently(ctx, func() error {
		p = pack(all())
		defer p.Close()
		if p.err = p.step(); p.err != nil || p.files == 0 {
			if p.failed() == nil {
				return nil
			}
		} else {
			err := s.link.once(ctx, path, p, answer, reply)
			if p.failed() == nil {
				return err
			}
		}
		if here++; here < localTries && ctx.Err() == nil {
			return wire.Away(p.err)
		}
		return p.err
	})
	return p, err
}
