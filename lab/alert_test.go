package lab

import (
	"strings"
	"testing"
	"time"
)

// What a machine said on its console at its end is what its boot waits with, and then what it failed with.
func TestLastWordOnTheConsole(t *testing.T) {
	b := newBench(t)
	id := b.queue("vm", "tree")
	b.take(id, Handover, 1)
	alerts := func() []Alert { return b.now().Alerts(b.clock) }
	if got := alerts(); len(got) != 0 {
		t.Errorf("a boot that has just begun needs a person: %+v", got)
	}
	b.say("vm", "[    2.5] carte: the agent has a bug: index out of range", "later words: the agent has a bug")
	got := alerts()
	if len(got) != 1 || got[0].Sort != AlertStuck || !strings.Contains(got[0].Why, "the agent has a bug: index out of range") || !strings.Contains(got[0].Fix, "carte log vm") {
		t.Fatalf("alerts = %+v", got)
	}
	if a, ok := b.now().AlertOfBoot(b.boot(id), b.clock); !ok || a.Why != got[0].Why {
		t.Errorf("the boot says %+v", a)
	}
	b.pass(11 * time.Minute)
	b.wrote("the agent has a bug: index out of range")
	if got := alerts(); b.boot(id).Attempt != 2 || len(got) != 0 {
		t.Errorf("its next attempt needs a person: %+v", got)
	}
}
