package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"carte/lab"
)

// plain writes log records as sentences: into the lab's own log, which has the time, and to also where that is not nil.
type plain struct {
	lab   *lab.Lab
	also  io.Writer
	attrs []slog.Attr
	mu    sync.Mutex // one line of also after the other
}

func (p *plain) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (p *plain) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &plain{lab: p.lab, also: p.also, attrs: append(append([]slog.Attr{}, p.attrs...), attrs...)}
}

// WithGroup is not used by carte: a sentence has no groups.
func (p *plain) WithGroup(string) slog.Handler { return p }

func (p *plain) Handle(_ context.Context, r slog.Record) error {
	text := sentence(r, p.attrs)
	if p.lab != nil {
		p.lab.Log(lab.Line{Source: "carte", Text: text})
	}
	if p.also == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := fmt.Fprintln(p.also, lab.Clean(text))
	return err
}

// sentence is a record as a person reads it: "warning: lease given up, machine vm-1, because it asked again".
func sentence(r slog.Record, attrs []slog.Attr) string {
	var b strings.Builder
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	}
	b.WriteString(r.Message)
	add := func(a slog.Attr) bool {
		switch err, isErr := a.Value.Any().(error); {
		case isErr:
			fmt.Fprintf(&b, ": %s", strings.ReplaceAll(lab.Words(err), "\n", "; "))
		case a.Value.Any() != nil && a.Value.String() != "":
			fmt.Fprintf(&b, ", %s %s", a.Key, a.Value)
		}
		return true
	}
	for _, a := range attrs {
		add(a)
	}
	r.Attrs(add)
	return b.String()
}
