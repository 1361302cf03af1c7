package tui

import (
	"context"
	"sync"
	"testing"
	"time"

	"carte/lab"
)

// A memory is a book that forgets everything at the end.
type memory struct{}

func (memory) Load(context.Context) (lab.Snapshot, error) { return lab.Snapshot{}, nil }
func (memory) Save(context.Context, []lab.Change) error   { return nil }

// A real desk is a real lab; only images need more than that.
type real struct {
	*still
	*lab.Lab
}

func (d real) Say(ctx context.Context, v lab.Verb) (lab.Changed, error) { return d.Lab.Say(ctx, v) }
func (d real) Watch(ctx context.Context, after uint64) (lab.Snapshot, error) {
	return d.Lab.Watch(ctx, after)
}
func (d real) Tail(ctx context.Context, t lab.Tail) ([]lab.Line, int64, int64, error) {
	return d.Lab.Tail(ctx, t)
}

// A morning with a real lab: a strange machine asks, gets a name, a stack is booted, the boot climbs, its numbers show,
// and it is stopped; all by keys on a true terminal, while the lab goes on.
func TestRealLab(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var mu sync.Mutex
	now := noon
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	pass := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	l, err := lab.Open(ctx, lab.Config{Book: memory{}, Now: clock, Secret: []byte("0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	g := newGlass(t, 100, 30)
	o := options(g)
	o.Now = clock
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, real{Lab: l}, o) }()
	g.shows("No machines yet.")

	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, _, err = l.SeenMachine(ctx, "52:54:00:00:00:07", lab.RungDHCP, "10.77.0.7", true)
	must(err)
	g.shows("unknown   asked to boot")
	l.Log(lab.Line{Machine: 1, Source: "dhcp", Text: "DISCOVER from 52:54:00:00:00:07"})
	g.shows("DISCOVER from")
	g.types("a")
	g.shows("name for 52:54:00:00:00:07")
	g.types("nuc-7\r")
	g.shows("> nuc-7")
	g.shows("carte machine adopt 52:54:00:00:00:07 --name nuc-7")

	g.types("b")
	g.shows("there is no stack yet")
	g.types("x")
	g.shows("no boot to stop")
	pass(time.Minute)
	g.types("avm-1\r") // adopted: a adds a virtual machine
	g.shows("vm-1")
	g.types("2")
	g.shows("Nothing queued.")
	g.types("1")
	g.shows("> nuc-7")
	g.types("D")
	g.shows("this cannot be undone")
	g.types("nuc-7\r")
	g.until("nuc-7 gone from the list", func(string) bool {
		s, err := l.Watch(ctx, 0)
		must(err)
		_, err = s.Find("nuc-7")
		return err != nil
	})
	g.shows("> vm-1")
	g.types("q")
	must(<-ended)
}
