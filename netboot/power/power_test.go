package power

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"carte/lab"
)

func metal(driver string, command ...string) lab.Machine {
	return lab.Machine{ID: 7, Name: "nuc-1", Standing: lab.Adopted, MACs: []lab.MAC{"52:54:00:00:00:07"}, Power: lab.Power{Driver: driver, Exec: command}}
}

func TestSetPicks(t *testing.T) {
	set := Set{"manual": Manual{}, "exec": Exec{}}
	ctx := t.Context()
	if err := set.On(ctx, metal("manual")); !errors.Is(err, lab.ErrRefused) || !strings.Contains(err.Error(), "switch nuc-1 on") {
		t.Errorf("manual On = %v, want an instruction", err)
	}
	if err := set.Off(ctx, metal("exec", "true")); err != nil {
		t.Errorf("exec Off = %v", err)
	}
	for _, verb := range []func(context.Context, lab.Machine) error{set.On, set.Off, set.Cycle} {
		if err := verb(ctx, metal("ipmi")); !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), `"ipmi"`) {
			t.Errorf("unknown driver: %v, want its name", err)
		}
	}
	if state, err := set.State(ctx, metal("ipmi")); state != StateUnknown || err == nil {
		t.Errorf("State of an unknown driver = %q, %v", state, err)
	}
}

func TestExec(t *testing.T) {
	ctx := t.Context()
	sh := func(script string) lab.Machine { return metal("exec", "sh", "-c", script, "plug") }
	check := `[ "$1" = "$CARTE_VERB" ] && [ "$CARTE_MACHINE" = nuc-1 ] && [ "$CARTE_MAC" = 52:54:00:00:00:07 ] && [ "$1" = `
	for verb, do := range map[string]func(context.Context, lab.Machine) error{"on": Exec{}.On, "off": Exec{}.Off, "cycle": Exec{}.Cycle} {
		if err := do(ctx, sh(check+verb+" ]")); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if err := (Exec{}).On(ctx, sh("echo no such outlet >&2; exit 3")); err == nil || !strings.Contains(err.Error(), "exit status 3: no such outlet") {
		t.Errorf("a failing command: %v, want its status and its words", err)
	}
	if err := (Exec{}).On(ctx, metal("exec", "/no/such/command")); !errors.Is(err, lab.ErrNotFound) || !strings.Contains(err.Error(), "/no/such/command, is not there") {
		t.Errorf("a missing command: %v", err)
	}
	if err := (Exec{}).On(ctx, metal("exec")); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("no command: %v", err)
	}
	// What the command started is killed with it, so that the call does end.
	if err := (Exec{Limit: 50 * time.Millisecond}).On(ctx, sh("sleep 1000 & echo stuck; wait")); err == nil || !strings.Contains(err.Error(), "did not end in 50ms") || !strings.Contains(err.Error(), "stuck") {
		t.Errorf("a command that hangs: %v", err)
	}
	for script, want := range map[string]string{"echo on": "on", "echo OFF": "off", "echo warm": "", "echo on; exit 1": "", "exit 2": ""} {
		if got, err := (Exec{}).State(ctx, sh(script)); got != want || err != nil {
			t.Errorf("State of %q = %q, %v, want %q", script, got, err, want)
		}
	}
}

func TestMagic(t *testing.T) {
	b := magic([]byte{1, 2, 3, 4, 5, 6})
	if len(b) != 102 || string(b[:6]) != "\xff\xff\xff\xff\xff\xff" || string(b[96:]) != "\x01\x02\x03\x04\x05\x06" {
		t.Errorf("magic packet % x", b)
	}
	if err := (WOL{}).On(t.Context(), metal("wol")); !errors.Is(err, lab.ErrInvalid) {
		t.Errorf("without an interface: %v", err)
	}
	if err := (WOL{Interface: "no-such0"}).On(t.Context(), metal("wol")); err == nil || !strings.Contains(err.Error(), "no-such0") {
		t.Errorf("an interface that is not there: %v", err)
	}
	if err := (WOL{}).Off(t.Context(), metal("wol")); !errors.Is(err, lab.ErrRefused) {
		t.Errorf("Off: %v, want an instruction", err)
	}
}

func TestLines(t *testing.T) {
	for _, row := range []struct {
		in   []string
		want []string
	}{
		{[]string{"a\r\nb\n\n", "c"}, []string{"a", "b", "c"}},
		{[]string{"10%\r20%\r", "\n"}, []string{"10%", "20%"}},
		{[]string{"two ", "parts\n"}, []string{"two parts"}},
		{[]string{strings.Repeat("x", maxLine+1)}, []string{strings.Repeat("x", maxLine), "x"}},
		{nil, nil},
	} {
		var got []string
		l := newLines(func(s []string) { got = append(got, s...) })
		for _, s := range row.in {
			if _, err := l.Write([]byte(s)); err != nil {
				t.Fatal(err)
			}
		}
		l.close()
		l.run()
		if !slices.Equal(got, row.want) {
			t.Errorf("%.40q became %.40q, want %.40q", row.in, got, row.want)
		}
	}
}

// A prompt has no line end; it must be told while the machine waits for an answer.
func TestLinesTellAPrompt(t *testing.T) {
	said := make(chan []string)
	l := newLines(func(s []string) { said <- s })
	var wg sync.WaitGroup
	wg.Go(l.run)
	l.Write([]byte("vm-1 login: "))
	if got := <-said; !slices.Equal(got, []string{"vm-1 login: "}) {
		t.Errorf("told %q", got)
	}
	l.close()
	wg.Wait()
}

// blank is a book that begins empty and forgets.
type blank struct{}

func (blank) Load(context.Context) (lab.Snapshot, error) { return lab.Snapshot{}, nil }
func (blank) Save(context.Context, []lab.Change) error   { return nil }

// outlet is a driver whose hardware is a variable.
type outlet struct {
	mu   sync.Mutex
	did  []string
	on   bool
	fail error
}

func (o *outlet) do(verb string, on bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.did = append(o.did, verb)
	if o.fail == nil {
		o.on = on
	}
	return o.fail
}

func (o *outlet) On(context.Context, lab.Machine) error    { return o.do("on", true) }
func (o *outlet) Off(context.Context, lab.Machine) error   { return o.do("off", false) }
func (o *outlet) Cycle(context.Context, lab.Machine) error { return o.do("cycle", true) }
func (o *outlet) State(context.Context, lab.Machine) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return map[bool]string{true: StateOn, false: StateOff}[o.on], nil
}

func TestRunnerCarriesOrdersOnce(t *testing.T) {
	l, err := lab.Open(t.Context(), lab.Config{Book: blank{}, Now: time.Now, Secret: make([]byte, 16)})
	if err != nil {
		t.Fatal(err)
	}
	o := &outlet{}
	r := &Runner{Lab: l, Driver: Set{"manual": o}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()

	say := func(v lab.Verb) {
		t.Helper()
		if _, err := l.Say(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	until := func(what string, ok func(lab.Live) bool) {
		t.Helper()
		limited, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for rev := uint64(0); ; {
			s, err := l.Watch(limited, rev)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if ok(s.Live[1]) {
				return
			}
			rev = s.Rev
		}
	}
	say(lab.AddMachine{Name: "nuc-1", MACs: []string{"52:54:00:00:00:07"}})
	until("a new machine is looked at", func(v lab.Live) bool { return v.Power == StateOff })
	for _, want := range []string{"on", "cycle", "off", "off"} {
		say(lab.PowerMachine{Machine: "nuc-1", Want: want})
		until(want, func(v lab.Live) bool { return v.Order == "" && (v.Power == StateOff) == (want == "off") })
	}
	o.mu.Lock()
	o.fail = Instruction("press the button")
	o.mu.Unlock()
	say(lab.PowerMachine{Machine: "nuc-1", Want: "on"})
	until("an error is told", func(v lab.Live) bool { return v.Order == "" && v.Note == "press the button" })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want cancelled", err)
	}
	if want := []string{"on", "cycle", "off", "off", "on"}; !slices.Equal(o.did, want) {
		t.Errorf("the driver did %q, want %q", o.did, want)
	}
}
