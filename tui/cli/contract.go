package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
		long: "Boot an image in a virtual machine, and prove that it starts and each clause that it declares: a program that starts by itself, the network that its system brings up, a base that the second boot finds untouched, results that come home, a system that is up before all bytes are there. " +
			"What could be told, and what could not and why, is kept with the version; image show and image ls show it. Without --machine a virtual machine is made for it and forgotten again.\n\n" +
			"A tree is booted twice with a small program of carte's, the probe. A project or other files run on a tree: --system. The first boot starts a project's own program, the second the probe in its place. Where the network is declared, one more boot starts the tree by a kernel to which carte gives none. " +
			"A disk is laid and started twice, and has to say something on its serial console: a login prompt, or a ::carte line. A kernel without modules is started in memory, and its first line counts; one with modules starts a tree: --system, or carte's demo system.",
		example: "  carte contract test debian\n  carte contract test rq@3 --system debian --machine vm-1\n  carte contract test xen --cmdline 'com1=115200,8n1 console=com1'\n  carte contract test freebsd --firmware uefi --timeout 1h",
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&t.machine, "machine", "", "a virtual machine that may be used for it (default: one is made)")
			f.StringVar(&t.system, "system", "", "the tree that files run on, or that a kernel starts")
			f.StringVar(&t.kernel, "kernel", "", "the kernel that the tree starts by (default: carte's own)")
			f.BoolVar(&t.alone, "alone", false, "start a kernel in memory, also one that has modules for a tree")
			f.StringVar(&t.cmdline, "cmdline", "", "more words for the kernel")
			f.StringVar(&t.firmware, "firmware", "", "bios or uefi (default: what can start the image, bios first)")
			f.StringVar(&t.until, "until", "", "handover: a disk or kernel that has no serial console is only sent on its way")
			f.DurationVar(&t.timeout, "timeout", 30*time.Minute, "how long the whole test may take")
		},
		run: func(ctx context.Context, args []string) error {
			return c.live(func(d desk) error { t.desk = d; return t.run(ctx, args[0]) })
		},
	}}
}

// contractTest is one test of an image.
type contractTest struct {
	*call
	desk desk

	machine, system, kernel, cmdline, firmware, until string
	alone                                             bool
	timeout                                           time.Duration

	image   lab.Image
	version lab.Version
	terms   lab.Terms // what it declares
	name    string    // of all that is made for the test, and taken away
	stack   lab.Stack
	probes  bool    // carte's program looks round in its system
	silent  lab.Ref // carte's own kernel as one of the stack's, which then has no network of carte's; empty: none is needed
	own     bool    // the first boot starts the image's own program, and not carte's
	undo    []lab.Verb
	mine    []int64 // its boots

	borrowed bool // the machine is somebody's, and is switched off at the end
}

// run makes what the test needs, boots, judges, keeps the badge, and takes away what it made.
func (t *contractTest) run(ctx context.Context, image string) (err error) {
	if t.timeout <= 0 {
		return fmt.Errorf("--timeout %s: a time from 1s: %w", t.timeout, lab.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	s, err := t.desk.Watch(ctx, 0)
	if err != nil {
		return err
	}
	if err := t.look(s, image); err != nil {
		return err
	}
	if err := errors.Join(t.demoReady(ctx, t.desk), t.sweep(s)); err != nil { // what is missing is said at once, and not after minutes
		return err
	}
	defer func() {
		if errors.Is(err, context.Canceled) {
			err = &kept{err, "nothing was proven, and what the test had made is taken away"}
		}
		err = errors.Join(err, t.clean())
	}()
	if err := t.prepare(ctx, s); err != nil {
		return err
	}
	x, err := t.boots(ctx)
	if err != nil {
		return err
	}
	badge := lab.Badge{Ref: t.version.Ref(), Root: t.version.Root, Machine: t.machine, Carte: t.host.Version, Proofs: x.judge()}
	if _, err := t.desk.Say(ctx, lab.PutBadge{Badge: badge}); err != nil {
		return err
	}
	return t.tell(badge)
}

// boots starts the stack as often as it takes, and returns what was seen.
func (t *contractTest) boots(ctx context.Context) (x evidence, err error) {
	x = evidence{version: t.version, terms: t.terms, own: t.own, probes: t.probes}
	s, err := t.desk.Watch(ctx, 0)
	if err != nil {
		return x, err
	}
	p, err := s.Resolve(t.name)
	if err != nil {
		return x, err
	}
	more := t.more(p)
	var layers []string
	for _, r := range t.stack.Layers {
		layers = append(layers, r.String())
	}
	t.note("%s: %s on %s, %s, %s at most", t.version.Ref(), strings.Join(layers, " + "), t.machine, plural(1+len(more), "boot"), t.timeout)
	x.one, err = t.boot(ctx, t.own)
	x.two, x.net = x.one, x.one
	for i, st := range more {
		if err != nil || !x.net.ran() && !x.net.unseen() { // what did not start need not be started again
			return x, err
		}
		if i == 0 {
			err = t.arrive(ctx, &x.one)
		}
		if err == nil {
			_, err = t.desk.Say(ctx, lab.PutStack{Stack: st, Edit: true})
		}
		if err == nil {
			x.net, err = t.boot(ctx, false)
		}
		if i == 0 {
			x.two = x.net
		}
	}
	return x, err
}

// more is the stack as it is at the boots after the first. At the second all bytes are there before its system starts, and the
// probe has a project's place; it shows what the first has left. Where the image says that its system brings the network up, the
// last starts by a kernel to which carte gives none; that is a boot of its own where the second has to show something else.
func (t *contractTest) more(p lab.Plan) (all []lab.Stack) {
	if p.Start == lab.StartMemory || !t.probes && p.Form == lab.FormTree && len(t.terms) == 0 {
		return nil // nothing stays behind that a second could find, or nothing is promised of it
	}
	st := t.stack
	st.Asks = maps.Clone(st.Asks)
	delete(st.Asks, lab.Lazy)
	if t.own {
		st.Files = probeFiles()
	}
	_, overlay := t.terms[lab.Overlay]
	_, sealed := t.terms[lab.Sealed]
	if t.silent.Name == "" || overlay || sealed {
		all = append(all, st)
	}
	if t.silent.Name != "" {
		st.Layers = append(slices.Clone(st.Layers), t.silent)
		all = append(all, st)
	}
	return all
}

// tell shows the badge; one with a broken clause is an error.
func (t *contractTest) tell(b lab.Badge) error {
	l := list{doc: docOfBadge(b), head: []string{"CLAUSE", "VERDICT", "WHY"}}
	var broken []string
	for _, p := range b.Proofs {
		l.names = append(l.names, string(p.Clause))
		l.rows = append(l.rows, []string{string(p.Clause), string(p.Verdict), p.Why})
		if p.Verdict == lab.VerdictBroken {
			broken = append(broken, fmt.Sprintf("%s: %s", p.Clause, p.Why))
		}
	}
	if err := t.show(l); err != nil {
		return err
	}
	if len(broken) > 0 {
		return fmt.Errorf("%s breaks its contract; %s: %w", b.Ref, strings.Join(broken, "; "), lab.ErrRefused)
	}
	return nil
}
