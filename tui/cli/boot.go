package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"carte/lab"
)

func (c *call) bootCommands() []entry {
	var on, shown, machine, reason, to, file, older string
	var confirm []int64
	var wait waiting
	var before int64
	var last, first, lay, force, dry bool
	var set []string
	return []entry{
		{
			use: "boot STACK --on MACHINE", action: "boot.queue",
			example: "  carte boot hpt --on nuc-1\n  carte boot hpt --on nuc-1 --set pages=512 --wait done --timeout 10m",
			flags: func(f *pflag.FlagSet) {
				f.StringVar(&on, "on", "", "the machine (needed)")
				f.StringArrayVar(&set, "set", nil, "the value of one of the stack's parameters, for this boot: pages=512")
				f.BoolVar(&lay, "lay", false, "make the disk equal to the stack, prove it, and start nothing")
				wait.flags(f, "wait until the boot has reached a rung, such as run, or is done", "5m")
			},
			run: func(ctx context.Context, args []string) error {
				v := lab.Queue{Machine: on, Stack: args[0], Lay: lay}
				for _, x := range set {
					name, value, ok := strings.Cut(x, "=")
					if !ok {
						return fmt.Errorf("--set %q is not NAME=VALUE: %w", x, lab.ErrInvalid)
					}
					v.Set = with(v.Set, name, value)
				}
				return c.boot(ctx, v, wait)
			},
		},
		{
			use: "boot show BOOT", help: "show a boot with the time of each rung; BOOT is a number, or a machine for its newest",
			flags: func(f *pflag.FlagSet) { f.StringVar(&shown, "wait", "", "wait until it has reached a rung or is done") },
			run: func(ctx context.Context, args []string) error {
				return c.withBoot(ctx, args[0], func(d desk, s lab.Snapshot, b lab.Boot) error {
					if shown == "" {
						return c.showBoot(s, b)
					}
					return c.follow(ctx, d, b.ID, waiting{goal: shown})
				})
			},
		},
		{
			use: "boot out [BOOT]", help: "take home what a boot left in " + lab.OutPlace + ", as files or as an archive",
			long: "Take home what a boot left in " + lab.OutPlace + ". Without a BOOT, list the boots whose results are here, the room that they take, and whether somebody has taken them home as files or an archive. They are kept for ever: carte boot forget removes them.",
			flags: func(f *pflag.FlagSet) {
				f.StringVar(&to, "to", "", "folder to make, or an empty one (default boot-NUMBER)")
				f.StringVarP(&file, "output", "o", "", "write a tar archive instead, or with - to standard output")
				f.BoolVar(&force, "force", false, "replace that archive if it is there")
			},
			run: func(ctx context.Context, args []string) error {
				if len(args) == 0 {
					if to+file != "" {
						return fmt.Errorf("--to and -o are for the results of one boot: which? carte boot out lists them: %w", lab.ErrInvalid)
					}
					return c.look(ctx, c.listOuts)
				}
				return c.bootOut(ctx, args[0], to, file, force)
			},
		},
		{
			use: "boot forget [BOOT...]", action: "boot.forget",
			long:    "Remove what boots left in " + lab.OutPlace + ", and keep their records with the list of it: the boots that are named, or with --older all that have been over that long and whose results somebody has taken home with carte boot out. What nobody has taken goes only when it is named twice: --confirm BOOT. Nothing is ever removed otherwise.",
			example: "  carte boot forget 12\n  carte boot forget --older 90d --dry-run",
			flags: func(f *pflag.FlagSet) {
				f.StringVar(&older, "older", "", "the results of all boots that have been over for so long, and were taken home: 90d, 12h")
				f.Int64SliceVar(&confirm, "confirm", nil, "a boot whose results nobody has taken home, named once more")
				f.BoolVar(&dry, "dry-run", false, "change nothing, say what would go")
			},
			run: func(ctx context.Context, args []string) error { return c.forgetOut(ctx, args, older, confirm, dry) },
		},
		{
			use: "boot stop BOOT", action: "boot.stop",
			flags: func(f *pflag.FlagSet) {
				f.StringVar(&reason, "reason", "", "why, for the log and the machine's own screen")
			},
			run: func(ctx context.Context, args []string) error {
				return c.sayBoot(ctx, args[0], func(b lab.Boot) lab.Verb { return lab.Stop{Boot: b.ID, Reason: reason} }, theNamed)
			},
		},
		{
			use: "boot retry BOOT", action: "boot.retry",
			run: func(ctx context.Context, args []string) error {
				return c.sayBoot(ctx, args[0], func(b lab.Boot) lab.Verb { return lab.Retry{Boot: b.ID} }, theNew)
			},
		},
		{
			use: "queue ls", help: "list the boots that wait or go on",
			run: func(ctx context.Context, _ []string) error { return c.look(ctx, c.listQueue) },
		},
		{
			use: "queue rm BOOT", action: "queue.rm",
			run: func(ctx context.Context, args []string) error { return c.unqueue(ctx, args[0]) },
		},
		{
			use: "queue mv BOOT", help: "move a boot that waits within the queue, or to another machine",
			flags: func(f *pflag.FlagSet) {
				f.Int64Var(&before, "before", 0, "the boot that it is to go before")
				f.BoolVar(&first, "first", false, "to the head of the queue")
				f.BoolVar(&last, "last", false, "to the end of the queue")
				f.StringVar(&machine, "machine", "", "another machine")
			},
			run: func(ctx context.Context, args []string) error {
				given := 0
				for _, x := range []bool{before != 0, first, last} {
					if x {
						given++
					}
				}
				if given > 1 || given == 0 && machine == "" {
					return fmt.Errorf("where to? one of --before BOOT, --first, --last, or --machine NAME: %w", lab.ErrInvalid)
				}
				return c.moveBoot(ctx, args[0], lab.MoveBoot{Before: before, Machine: machine}, first)
			},
		},
	}
}

// findBoot reads a boot's number, or a machine's name for its active or newest boot.
func findBoot(s lab.Snapshot, word string) (lab.Boot, error) {
	if id, err := strconv.ParseInt(word, 10, 64); err == nil {
		b, ok := s.Boots[id]
		if !ok {
			return b, fmt.Errorf("boot %d: %w", id, lab.ErrNotFound)
		}
		return b, nil
	}
	m, err := s.Find(word)
	if err != nil {
		return lab.Boot{}, fmt.Errorf("%q is neither the number of a boot nor a machine: %w", word, err)
	}
	b, ok := bootOf(s, m.ID)
	if !ok {
		return b, fmt.Errorf("%s has not been booted yet: %w", m.Label(), lab.ErrNotFound)
	}
	return b, nil
}

// withBoot calls do with the boot that a word names.
func (c *call) withBoot(ctx context.Context, word string, do func(desk, lab.Snapshot, lab.Boot) error) error {
	return c.with(ctx, seeing(ctx, func(d desk, s lab.Snapshot) error {
		b, err := findBoot(s, word)
		if err != nil {
			return err
		}
		return do(d, s, b)
	}))
}

// boot queues a boot of a stack.
func (c *call) boot(ctx context.Context, v lab.Queue, wait waiting) error {
	if v.Machine == "" {
		return fmt.Errorf("boot %s on which machine? --on MACHINE: %w", v.Stack, lab.ErrInvalid)
	}
	return c.begin(ctx, wait, func(d desk) (lab.Boot, lab.Snapshot, error) { return queueBoot(ctx, d, v) })
}

// begin queues a boot and, when asked, waits for it.
func (c *call) begin(ctx context.Context, wait waiting, queue func(desk) (lab.Boot, lab.Snapshot, error)) error {
	if err := wait.check(); err != nil {
		return err
	}
	if wait.goal != "" {
		if err := checkGoal(wait.goal); err != nil {
			return err
		}
		return c.live(func(d desk) error { // before anything is queued: without a lab it would wait for ever
			b, _, err := queue(d)
			if err != nil {
				return err
			}
			return c.follow(ctx, d, b.ID, wait)
		})
	}
	return c.with(ctx, func(d desk) error {
		b, s, err := queue(d)
		if err != nil {
			return err
		}
		if !d.running && !s.Still { // else what it waits for says so
			c.note("no lab runs; boot %d begins with carte serve", b.ID)
		}
		return c.showQueued(s, b)
	})
}

// queueBoot says a verb that makes a boot, and returns that.
func queueBoot(ctx context.Context, d desk, v lab.Verb) (lab.Boot, lab.Snapshot, error) {
	ch, s, err := d.say(ctx, v)
	if err != nil {
		return lab.Boot{}, s, err
	}
	newest := ch.Boots[0]
	for _, b := range ch.Boots {
		if b.ID > newest.ID {
			newest = b
		}
	}
	return newest, s, nil
}

func (c *call) showQueued(s lab.Snapshot, b lab.Boot) error {
	if now, ok := s.Boots[b.ID]; ok {
		b = now
	}
	d := bootDocOf(s, b, c.term.Now())
	return c.show(list{doc: d, names: []string{strconv.FormatInt(b.ID, 10)}, rows: [][]string{{fmt.Sprintf("boot %d", b.ID), d.Stack, d.Machine, or(d.Waits, stateWords(b))}}})
}

// stateWords is a boot's state; one that is called back goes on until its machine has heard that.
func stateWords(b lab.Boot) string {
	if b.Revoke != "" && !b.State.Final() {
		return fmt.Sprintf("asked to stop; it is %s until its machine has heard that", b.State)
	}
	return string(b.State)
}

// sayBoot says a verb about the boot that a word names, and shows the boot that shown picks: of all that the verb
// changed, which may have let another boot begin.
func (c *call) sayBoot(ctx context.Context, word string, verb func(lab.Boot) lab.Verb, shown func(named lab.Boot, changed []lab.Boot) int64) error {
	return c.withBoot(ctx, word, func(d desk, _ lab.Snapshot, b lab.Boot) error {
		ch, s, err := d.say(ctx, verb(b))
		if err != nil {
			return err
		}
		return c.showQueued(s, s.Boots[shown(b, ch.Boots)])
	})
}

// theNamed is the boot that was named.
func theNamed(b lab.Boot, _ []lab.Boot) int64 { return b.ID }

// theNew is the boot that was made in place of the one that was named, unless that still waits.
func theNew(b lab.Boot, changed []lab.Boot) int64 {
	id := b.ID
	for _, x := range changed {
		if b.State.Final() && x.Machine == b.Machine {
			id = max(id, x.ID)
		}
	}
	return id
}

func (c *call) unqueue(ctx context.Context, word string) error {
	return c.withBoot(ctx, word, func(d desk, s lab.Snapshot, b lab.Boot) error {
		if b.State.Final() {
			return fmt.Errorf("boot %d is over (%s), it does not wait: %w", b.ID, b.State, lab.ErrBusy)
		}
		if b.State != lab.Queued {
			return fmt.Errorf("boot %d is %s, it does not wait; carte boot stop %d stops it: %w", b.ID, b.State, b.ID, lab.ErrBusy)
		}
		_, s, err := d.say(ctx, lab.Stop{Boot: b.ID, Reason: "taken out of the queue"})
		if err != nil {
			return err
		}
		return c.showQueued(s, b)
	})
}

func (c *call) moveBoot(ctx context.Context, word string, v lab.MoveBoot, first bool) error {
	return c.withBoot(ctx, word, func(d desk, s lab.Snapshot, b lab.Boot) error {
		v.Boot = b.ID
		if first {
			machine := b.Machine
			if v.Machine != "" {
				m, err := s.Find(v.Machine)
				if err != nil {
					return err
				}
				machine = m.ID
			}
			for _, x := range s.QueueOf(machine) {
				if x.ID != b.ID {
					v.Before = x.ID
					break
				}
			}
		}
		_, s, err := d.say(ctx, v)
		if err != nil {
			return err
		}
		return c.showQueued(s, b)
	})
}

func (c *call) listQueue(s lab.Snapshot) error {
	docs := []bootDoc{}
	l := list{head: []string{"BOOT", "MACHINE", "STACK", "STATE", "WAITS"}, empty: "nothing waits and nothing goes on"}
	add := func(b lab.Boot) {
		d := bootDocOf(s, b, c.term.Now())
		docs = append(docs, d)
		l.names = append(l.names, strconv.FormatInt(b.ID, 10))
		l.rows = append(l.rows, []string{strconv.FormatInt(b.ID, 10), d.Machine, d.Stack, string(d.State), or(d.Waits, string(d.Rung))})
	}
	for _, b := range s.SortedBoots() {
		if b.State != lab.Queued && !b.State.Final() {
			add(b)
		}
	}
	for _, b := range s.QueueOf(0) {
		add(b)
	}
	l.doc = struct {
		Boots []bootDoc `json:"boots"`
	}{docs}
	return c.show(l)
}
