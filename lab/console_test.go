package lab

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

func TestParseSaying(t *testing.T) {
	for line, want := range map[string]Saying{
		"::carte ready":                            {Word: "ready"},
		"  ::carte ready  \r\n":                    {Word: "ready"},
		"[    1.234567] ::carte done all well":     {Word: "done", Text: "all well"},
		"<6>[12345.678901] ::carte fail disk full": {Word: "fail", Text: "disk full"},
		"::carte metric boot_seconds=1.5 s":        {Word: "metric", Name: "boot_seconds", Value: 1.5, Unit: "s"},
		"::carte metric a.b/c:d-e=-1e-3":           {Word: "metric", Name: "a.b/c:d-e", Value: -0.001},
		"::carte metric rate=3  MB per second":     {Word: "metric", Name: "rate", Value: 3, Unit: "MB per second"},
		"::carte   metric x=0x10":                  {},
		"::carte metric":                           {},
		"::carte metric x":                         {},
		"::carte metric x=":                        {},
		"::carte metric x=fast":                    {},
		"::carte metric x=NaN":                     {},
		"::carte metric x=+Inf":                    {},
		"::carte metric x=1e999":                   {},
		"::carte metric =1":                        {},
		"::carte metric 1x=1":                      {},
		"::carte metric x y=1":                     {},
		"::carte metric x=1 " + long(33, "u"):      {},
		"::carte metric " + long(65, "x") + "=1":   {},
		"::carte dance":                            {},
		"::carte Ready":                            {},
		"::carte ":                                 {Word: "-"}, // - : not for carte
		"::carte":                                  {Word: "-"},
		"say ::carte ready":                        {Word: "-"},
		"::cartel ready":                           {Word: "-"},
		"":                                         {Word: "-"},
		"[ 1.0] [ 1.0] ::carte ready":              {Word: "-"},
		"debian login:":                            {Word: "-"},
	} {
		got, ok, err := ParseSaying(line)
		switch {
		case want.Word == "-":
			if ok || err != nil {
				t.Errorf("%q is taken for %+v, %v", line, got, err)
			}
		case want.Word == "":
			if !ok {
				t.Errorf("%q is not for carte", line)
			}
			wantError(t, line, err, ErrInvalid)
		case !ok || err != nil || got != want:
			t.Errorf("%q is %+v %v %v, want %+v", line, got, ok, err, want)
		}
	}
}

func long(n int, s string) string { return strings.Repeat(s, n) }

func FuzzParseSaying(f *testing.F) {
	f.Add("[ 1.0] ::carte metric x=1 s")
	f.Add("::carte fail \x1b[2J")
	f.Fuzz(func(t *testing.T, line string) {
		s, ok, err := ParseSaying(line)
		if err != nil && (!ok || s != Saying{}) {
			t.Errorf("%q: %+v and %v", line, s, err)
		}
		if ok && err == nil && (s.Word == "" || math.IsNaN(s.Value) || math.IsInf(s.Value, 0) || len(s.Unit) > 32 || (s.Word == "metric") != (s.Name != "")) {
			t.Errorf("%q: %+v", line, s)
		}
	})
}

func TestConsole(t *testing.T) {
	for _, c := range []struct {
		what  string
		stack string
		lines []string
		want  State
		words string
	}{
		{"login", "deb", []string{"Debian GNU/Linux 12", "debian login:"}, Done, ""},
		{"login with a space", "deb", []string{"debian login: "}, Done, ""},
		{"ready", "deb", []string{"::carte ready"}, Done, ""},
		{"noise", "deb", []string{"GRUB loading", "::carte", "Last login: today"}, Handover, ""},
		{"a disk that says fail first", "deb", []string{"::carte fail no network"}, Failed, "no network"},
		{"tree is ready", "tree", []string{"::carte ready"}, Running, ""},
		{"tree is done", "tree", []string{"::carte metric x=1", "::carte done good"}, Done, "good"},
		{"tree says nothing but done", "tree", []string{"::carte done"}, Done, ""},
		{"tree fails", "tree", []string{"::carte fail \x1b[31mbad\u202e"}, Failed, "bad"},
		{"tree fails without a word", "tree", []string{"::carte fail"}, Failed, "the system said that its run failed"},
		{"after the end", "tree", []string{"::carte done", "::carte fail too late", "::carte metric x=2"}, Done, ""},
		{"not understood", "tree", []string{"::carte metric x=fast"}, Handover, ""},
	} {
		b := newBench(t)
		id := b.queue("vm", c.stack)
		b.take(id, Handover, 1)
		if c.stack == "deb" {
			b.say("vm", "::carte ready", "agent login:") // the agent's own time: not the user's system
			b.in(id, Handover)
			b.script(vmMAC)
		}
		b.say("vm", c.lines...)
		b.in(id, c.want, c.words)
		if x := b.boot(id); strings.ContainsAny(x.Reason, "\x1b\u202e") {
			t.Errorf("%s: %q", c.what, x.Reason)
		}
		b.say("metal", "::carte done") // which has no boot
	}
}

func TestMetrics(t *testing.T) {
	b := newBench(t)
	id := b.queue("vm", "tree")
	b.take(id, Running, 1)
	before := b.boot(id)
	b.say("vm", "::carte metric x=1 s", "::carte metric x=2 s", "::carte metric bad", "::carte metric y=3")
	m := b.boot(id).Metrics
	if len(m) != 2 || m["x"].Value != 2 || m["x"].Unit != "s" || m["y"].Seq != 3 || b.now().LastMetric != 3 {
		t.Errorf("%+v", m)
	}
	if len(before.Metrics) != 0 {
		t.Error("an old snapshot has changed")
	}
	var flood []string
	for i := range maxMetrics + 50 {
		flood = append(flood, fmt.Sprintf("::carte metric z%d=1", i))
	}
	b.say("vm", flood...)
	if n := len(b.boot(id).Metrics); n != maxMetrics {
		t.Errorf("%d metrics after a flood", n)
	}
	lines, _, _, err := b.Tail(t.Context(), Tail{Machine: b.machine("vm").ID, Max: 1})
	if err != nil || !strings.Contains(lines[0].Text, "which is the most") || lines[0].Source != "carte" {
		t.Errorf("%+v, %v", lines, err)
	}
}
