package labtest_test

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/labtest"
)

// A second stage that cannot put its system together tells the server why, although nobody reads the machine's console: with the
// agent's key after a kexec, with its own token after a netboot. The boot is over at once, and not when its time is.
func TestSecondStageTells(t *testing.T) {
	t.Parallel()
	b, vms, m := kexecBench(t, func(linux []byte) []byte { return linux })
	vms.Console = func(lab.Machine, []string) {}
	for i, start := range []lab.Start{lab.StartKexec, lab.StartNetboot} {
		labtest.Say(t, b, lab.PutStack{Edit: true, Stack: lab.Stack{Name: "k", Layers: []lab.Ref{{Name: "base"}, {Name: "own"}},
			Start: start, Cmdline: "initcall_blacklist=ovl_init"}}) // Linux without its overlay
		id := labtest.Boot(t, b, "k", "vm")
		x := labtest.UntilIn(t, b, labtest.Long, "the end of the boot", func(s lab.Snapshot) bool { return s.Boots[id].State.Final() }).Boots[id]
		for _, l := range console(t, b, m.ID) {
			t.Logf("%s  %s: %s", l.At.Format("15:04:05.000"), l.Source, l.Text)
		}
		if x.State != lab.Failed || x.Attempt != 1 || x.Rung() != lab.RungHandover {
			t.Errorf("started by %s, boot %d is %s on %s at attempt %d: %s", start, id, x.State, x.Rung(), x.Attempt, x.Reason)
		}
		if text := shown(t, b, "boot", "show", strconv.FormatInt(id, 10)); !regexp.MustCompile(`reason +the system could not be put together: .*overlay.*: no such device`).MatchString(text) {
			t.Errorf("started by %s, it does not say why", start)
		}
		said := 0
		for _, l := range console(t, b, m.ID) {
			if l.Source == "run" && strings.Contains(l.Text, "this is vm; boot "+strconv.FormatInt(id, 10)) {
				said++
			}
		}
		if said != 1 {
			t.Errorf("started by %s, the log has its first line %d times", start, said)
		}
		if proven := labtest.Now(t, b).Machines[m.ID].Kexec.Proven; i == 0 && proven.IsZero() {
			t.Error("its kernel was replaced, and nobody noted that")
		}
		off(t, b, m)
	}
}
