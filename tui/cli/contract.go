package cli

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"carte/lab"
)

func (c *call) contractCommands() []entry {
	t := &contractTest{call: c}
	return []entry{{
		use: "contract test IMAGE", action: "image.badge",
		long: "Boot a small stack with an image twice in a virtual machine, and prove each clause that the image declares: the program started by itself, the network up, the base untouched at the second boot, the results taken home, the system up before all bytes were there. " +
			"The result is kept with the version; image show shows it. Without --machine a virtual machine is made for it and forgotten again. A project or other files need a system to run on: --system.",
		example: "  carte contract test debian\n  carte contract test rq@3 --system debian --machine vm-1",
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&t.machine, "machine", "", "a virtual machine that may be used for it (default: one is made)")
			f.StringVar(&t.system, "system", "", "the tree that files run on")
			f.StringVar(&t.kernel, "kernel", "", "the kernel that the tree starts by (default: carte's own)")
			f.DurationVar(&t.timeout, "timeout", 30*time.Minute, "how long both boots may take")
		},
		run: func(ctx context.Context, args []string) error {
			return c.live(func(d desk) error { t.desk = d; return t.run(ctx, args[0]) })
		},
	}}
}

// contractTest is one test of an image.
type contractTest struct {
	*call
	desk                    desk
	machine, system, kernel string
	timeout                 time.Duration

	version lab.Version
	name    string // of all that is made for the test, and taken away
	undo    []lab.Verb
}

// probeRun is the program that looks around in the user's system. It says numbers, because those come home with the boot's record.
const probeRun = `#!/bin/sh
echo "::carte metric contract_started=1"
dirty=0; [ -e /etc/carte-contract ] && dirty=1
echo "::carte metric contract_dirty=$dirty"
echo "was here" > /etc/carte-contract
net=0; n=0
while [ $net = 0 ] && [ $n -lt 60 ]; do
	while read -r if to via rest; do [ "$to" = 00000000 ] && net=1; done < /proc/net/route
	[ $net = 1 ] || sleep 1
	n=$((n+1))
done
echo "::carte metric contract_network=$net"
[ -d /carte/out ] || mkdir -p /carte/out
echo "boot $CARTE_BOOT" > /carte/out/contract
echo "::carte done"
`

// run makes what the test needs, boots twice, judges, keeps the badge, and takes away what it made.
func (t *contractTest) run(ctx context.Context, image string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	s, err := t.desk.Watch(ctx, 0)
	if err != nil {
		return err
	}
	ref, err := s.ParseRef(image)
	if err != nil {
		return err
	}
	if t.version, err = s.Version(ref); err != nil {
		return err
	}
	terms, err := s.Declared(t.version.Ref())
	if err != nil {
		return err
	}
	if len(terms) == 0 {
		return fmt.Errorf("%s declares no clauses, so there is nothing to prove; --offer at import, or a file /carte/image.toml in it, declares some: %w", t.version.Ref(), lab.ErrInvalid)
	}
	t.name = "contract-" + t.version.Image[:min(len(t.version.Image), 40)]
	defer func() { err = errors.Join(err, t.clean()) }()
	st, err := t.prepare(ctx, s, terms)
	if err != nil {
		return err
	}
	var boots [2]seenBoot
	for i := range boots {
		if boots[i], err = t.boot(ctx, st.Name); err != nil {
			return err
		}
	}
	badge := lab.Badge{Ref: t.version.Ref(), Root: t.version.Root, Machine: t.machine, Carte: t.host.Version}
	for _, row := range lab.Clauses {
		if _, ok := terms[row.Clause]; ok {
			badge.Proofs = append(badge.Proofs, prove(row.Clause, boots[0], boots[1], t.version))
		}
	}
	if _, err := t.desk.Say(ctx, lab.PutBadge{Badge: badge}); err != nil {
		return err
	}
	return t.tell(badge)
}

// tell shows the badge; one with a broken clause is an error.
func (t *contractTest) tell(b lab.Badge) error {
	l := list{doc: &badgeDoc{Kept: b.Kept(), Machine: b.Machine, Carte: b.Carte, Proofs: b.Proofs}, head: []string{"CLAUSE", "VERDICT", "WHY"}}
	for _, p := range b.Proofs {
		l.names = append(l.names, string(p.Clause))
		l.rows = append(l.rows, []string{string(p.Clause), string(p.Verdict), p.Why})
	}
	if err := t.show(l); err != nil {
		return err
	}
	for _, p := range b.Proofs {
		if p.Verdict == lab.VerdictBroken {
			return fmt.Errorf("%s breaks its contract: %s, of %s: %w", b.Ref, b.Words(), b.Machine, lab.ErrRefused)
		}
	}
	return nil
}

// prepare makes the stack, the probe and the machine.
func (t *contractTest) prepare(ctx context.Context, s lab.Snapshot, terms lab.Terms) (st lab.Stack, err error) {
	form := s.Images[t.version.Image].Form
	st = lab.Stack{Name: t.name, Layers: []lab.Ref{t.version.Ref()}, Reset: lab.ResetAlways, Asks: lab.Terms{}, Note: "made by carte contract test"}
	switch {
	case form == lab.FormTree:
	case form == lab.FormFiles && t.system != "":
		system, err := s.ParseRef(t.system)
		if err != nil {
			return st, err
		}
		st.Layers = []lab.Ref{system, t.version.Ref()}
	case form == lab.FormFiles:
		return st, fmt.Errorf("%s is files, and runs on a system: --system IMAGE names a tree: %w", t.version.Ref(), lab.ErrInvalid)
	default:
		return st, fmt.Errorf("%s is a %s; carte keeps clauses for trees and what lies over them, so there is none to prove: %w", t.version.Ref(), form, lab.ErrRefused)
	}
	if t.kernel != "" {
		kernel, err := s.ParseRef(t.kernel)
		if err != nil {
			return st, err
		}
		st.Layers = append(st.Layers, kernel)
	}
	if s.Images[t.version.Image].Kind != "project" { // which has a program of its own
		probe, err := t.probe(ctx)
		if err != nil {
			return st, err
		}
		st.Layers = append(st.Layers, probe)
	}
	for c := range terms {
		st.Asks[c] = lab.Optional
	}
	st.Asks[lab.Results], st.Asks[lab.Autostart] = lab.Optional, lab.Optional
	if terms[lab.Lazy] != "" {
		delete(st.Asks, lab.Sealed)
	}
	if _, err := t.desk.Say(ctx, lab.PutStack{Stack: st}); err != nil {
		return st, err
	}
	t.undo = append([]lab.Verb{lab.RemoveStack{Name: st.Name}}, t.undo...)
	return st, t.borrow(ctx, st.Name)
}

// probe imports the program that looks around, for an hour more than the test may take.
func (t *contractTest) probe(ctx context.Context) (lab.Ref, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "run", Mode: 0o755, Size: int64(len(probeRun)), ModTime: time.Unix(0, 0)}); err != nil {
		return lab.Ref{}, err
	}
	if _, err := w.Write([]byte(probeRun)); err != nil {
		return lab.Ref{}, err
	}
	if err := w.Close(); err != nil {
		return lab.Ref{}, err
	}
	name := t.name + "-probe"
	im, err := t.desk.Import(ctx, &b, lab.Import{
		Name: name, Kind: "temporary", Form: lab.FormFiles, Place: lab.ProjectPlace, File: "the probe of carte contract test",
		Offers: lab.Terms{lab.Autostart: lab.Optional, lab.Results: lab.Optional}, Dies: t.term.Now().Add(t.timeout + time.Hour), Size: 16 << 20,
	}, nil)
	if err != nil {
		return lab.Ref{}, err
	}
	t.undo = append(t.undo, lab.RemoveImage{Ref: lab.Ref{Name: name}, Confirm: name})
	return im.Version.Ref(), nil
}

// borrow takes the machine that was named, or makes one that the stack fits on.
func (t *contractTest) borrow(ctx context.Context, stack string) error {
	s, err := t.desk.Watch(ctx, 0)
	if err != nil {
		return err
	}
	if t.machine != "" {
		m, err := s.Find(t.machine)
		if err == nil && m.Virtual == nil {
			err = fmt.Errorf("%s is no virtual machine, and a contract is tested in one: %w", m.Label(), lab.ErrRefused)
		}
		return err
	}
	p, err := s.Resolve(stack)
	if err != nil {
		return err
	}
	t.machine = t.name
	room := (p.Bytes() + p.Bytes()/4 + 1<<30) &^ (1<<20 - 1)
	if _, err := t.desk.Say(ctx, lab.AddMachine{Name: t.machine, Virtual: &lab.Virtual{DiskBytes: room}}); err != nil {
		return err
	}
	t.undo = append([]lab.Verb{lab.Forget{Machine: t.machine, Confirm: t.machine}}, t.undo...)
	return nil
}

// clean takes away what the test made; the image and its badge stay.
func (t *contractTest) clean() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), powerWait)
	defer cancel()
	for _, v := range t.undo {
		if f, ok := v.(lab.Forget); ok {
			t.desk.Say(ctx, lab.PowerMachine{Machine: f.Machine, Want: "off"})
			if e := t.stopAll(ctx, f.Machine); e != nil {
				err = errors.Join(err, e)
			}
		}
		if _, e := t.desk.Say(ctx, v); e != nil {
			err = errors.Join(err, fmt.Errorf("the test left something behind: %w", e))
		}
	}
	return err
}

// stopAll ends what is left of the test's boots, and waits until the machine is off.
func (t *contractTest) stopAll(ctx context.Context, machine string) error {
	s, err := t.desk.Watch(ctx, 0)
	if err != nil {
		return err
	}
	m, err := s.Find(machine)
	if err != nil {
		return err
	}
	for _, b := range s.SortedBoots() {
		if b.Machine == m.ID && !b.State.Final() {
			if _, err := t.desk.Say(ctx, lab.Stop{Boot: b.ID, Reason: "the contract test is over"}); err != nil {
				return err
			}
		}
	}
	for s.Live[m.ID].Power == "on" {
		if s, err = t.desk.Watch(ctx, s.Rev); err != nil {
			return err
		}
	}
	return nil
}

// seenBoot is a boot that is over, and what was seen while it ran.
type seenBoot struct {
	lab.Boot
	shim   bool  // a process of carte spoke from beside the system
	absent int64 // bytes that had not arrived when the system ran
	said   string
}

// boot boots the stack and watches until the end.
func (t *contractTest) boot(ctx context.Context, stack string) (seen seenBoot, err error) {
	b, s, err := queueBoot(ctx, t.desk, lab.Queue{Machine: t.machine, Stack: stack})
	if err != nil {
		return seen, err
	}
	t.note("boot %d: %s on %s", b.ID, stack, t.machine)
	for !b.State.Final() {
		if s, err = t.desk.Watch(ctx, s.Rev); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				err = fmt.Errorf("boot %d was still %s on rung %s after %s: %w", b.ID, b.State, cmp.Or(string(b.Rung()), "none"), t.timeout, lab.ErrUnreachable)
			}
			return seen, err
		}
		b = s.Boots[b.ID]
		seen.shim = seen.shim || b.State == lab.Running && s.Live[b.Machine].Shim
		if b.State == lab.Handover || b.State == lab.Running {
			for _, h := range s.Machines[b.Machine].Holds {
				if h.Is(b.Disk) && b.Rung().Reached(lab.RungRun) {
					seen.absent = max(seen.absent, h.Absent)
				}
			}
		}
	}
	seen.Boot = b
	if b.State != lab.Done {
		return seen, fmt.Errorf("boot %d is %s: %s; nothing was proven: %w", b.ID, b.State, b.Reason, lab.ErrRefused)
	}
	lines, _, _, err := t.desk.Tail(ctx, lab.Tail{Machine: b.Machine})
	for _, l := range lines {
		if !l.At.Before(b.Queued) && strings.HasSuffix(l.Text, lab.ProjectPlace+"/run starts") {
			seen.said = l.Text
		}
	}
	return seen, err
}

// prove judges one clause by what two boots have shown.
func prove(c lab.Clause, one, two seenBoot, v lab.Version) lab.Proof {
	kept := func(ok bool, yes, no string) lab.Proof {
		if ok {
			return lab.Proof{Clause: c, Verdict: lab.VerdictKept, Why: yes}
		}
		return lab.Proof{Clause: c, Verdict: lab.VerdictBroken, Why: no}
	}
	skip := func(why string) lab.Proof { return lab.Proof{Clause: c, Verdict: lab.VerdictSkipped, Why: why} }
	if i := slices.IndexFunc(one.Plan.Agreed, func(a lab.Agreed) bool { return a.Clause == c }); i < 0 || !one.Plan.Agreed[i].Given {
		why := "it was not agreed on"
		if i >= 0 {
			why = one.Plan.Agreed[i].Why
		}
		return skip(why)
	}
	metric := func(b seenBoot, name string) (float64, bool) {
		m, ok := b.Metrics["contract_"+name]
		return m.Value, ok
	}
	_, probed := metric(one, "started")
	switch c {
	case lab.Autostart:
		return kept(probed || one.said != "", cmp.Or(one.said, "the probe started by itself"), "no program started by itself")
	case lab.Heartbeat:
		return kept(one.shim || one.said != "", "carte spoke from beside the system", "nobody spoke from beside the system")
	case lab.Results:
		return kept(len(one.Results) > 0, fmt.Sprintf("%d files came home", len(one.Results)), "nothing came home from "+lab.OutPlace)
	case lab.Network:
		up, ok := metric(one, "network")
		if !ok {
			return skip("nothing in the system could look: its own program ran")
		}
		return kept(up == 1, "the system has a default route", "after a minute the system had no default route")
	case lab.Overlay:
		dirty, ok := metric(two, "dirty")
		if two.Plan.Reset != lab.ResetAlways {
			return skip("the second boot did not read the base again")
		}
		return kept(two.Moved.Written == 0 && (!ok || dirty == 0), fmt.Sprintf("the second boot read %s, and had nothing to write", lab.Bytes(two.Moved.Read)),
			fmt.Sprintf("the second boot found what the first had left, and wrote %s", lab.Bytes(two.Moved.Written)))
	case lab.Sealed:
		return kept(two.Plan.Reset == lab.ResetAlways && two.Moved.Read > 0, fmt.Sprintf("%s were read and proven before the second start", lab.Bytes(two.Moved.Read)), "the second boot started unproven")
	case lab.Lazy:
		if one.absent == 0 {
			return skip("all of " + v.Ref().String() + " was there when the system ran: it is too small, or the wire too fast, to tell")
		}
		return kept(true, fmt.Sprintf("the system ran while %s were still to come", lab.Bytes(one.absent)), "")
	}
	return skip("this carte has no test for it")
}
